"""Some rows of the matrix, small: `python -m tests.proof` runs all of them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proof import rows
from tests.proof.auditor import judge
from tests.proof.load import Mess, draw
from tests.proof.stand import Broker, Loaded, Stand, loaded, running_broker, stand

EVENTS = 12_000


class Scene(NamedTuple):
    kafka: Broker
    load: Loaded


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("proof")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESMETER_TEST_SESSION_SECONDS", "3")
        with running_broker(folder / "kafka") as kafka:
            yield Scene(kafka, loaded(kafka, folder / "load", draw(EVENTS, 11, Mess())))


@pytest.mark.parametrize(
    "play",
    [
        pytest.param(partial(rows.worker_points, times=1), id="worker-points"),
        pytest.param(partial(rows.sink_points, times=1), id="sink-points"),
        pytest.param(rows.generations, id="generations"),
        pytest.param(rows.produce_errors, id="produce-errors"),
        pytest.param(rows.stripe_cut, id="stripe-cut"),
    ],
)
def test_a_row_of_the_matrix_loses_and_doubles_nothing(
    scene: Scene, tmp_path: Path, play: Callable[[Stand], None]
) -> None:
    with stand(scene.kafka, scene.load, tmp_path / "row", None, 120) as made:
        play(made)
        made.finish()

        assert made.faults > 0
        verdict = made.verdict()
    assert verdict.is_clean, verdict


def test_the_auditor_sees_what_is_lost_doubled_and_wrong(scene: Scene, tmp_path: Path) -> None:
    with stand(scene.kafka, scene.load, tmp_path / "row", None, 120) as made:
        rows.nothing(made)
        made.finish()
        verdict = made.verdict()
        url = made.run.env["RESMETER_LEDGER__URL"]
    assert verdict.is_clean, verdict
    truth, undisturbed = scene.load.truth, scene.load.undisturbed
    written = list(undisturbed.items())
    place = next(iter(truth.units))

    more = truth._replace(units=truth.units + type(truth.units)({place: 1}))
    fewer = truth._replace(units=truth.units - type(truth.units)({place: 1}))
    assert judge(more, url, undisturbed, written, truth.rejected, {}).lost >= 1
    assert judge(fewer, url, undisturbed, written, truth.rejected, {}).doubled == 1
    changed = [(identity, content + b" ") for identity, content in written[:2]]
    assert judge(truth, url, undisturbed, changed, truth.rejected, {}).wrong == 2
    assert judge(truth, url, undisturbed, written, set(), {}).problems
