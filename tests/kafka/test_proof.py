"""Run a few rows of the matrix over a small load; `python -m tests.proof` runs them all."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.proof.auditor import judge
from tests.proof.billing_faults import nothing, sink_points, stripe_fails
from tests.proof.load import Disorder, draw
from tests.proof.rig import Broker, Loaded, Rig, loaded, running_broker, running_rig
from tests.proof.server_faults import produce_errors
from tests.proof.worker_faults import generations, worker_points

pytestmark = pytest.mark.xdist_group("proof")  # one process starts the broker
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
            records = draw(EVENTS, 11, Disorder())
            yield Scene(kafka, loaded(kafka, folder / "load", records, Disorder()))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(partial(worker_points, times=1), id="worker-points"),
        pytest.param(partial(sink_points, times=1), id="sink-points"),
        pytest.param(generations, id="generations"),
        pytest.param(produce_errors, id="produce-errors"),
        pytest.param(stripe_fails("cut_after"), id="stripe-cut"),
    ],
)
def test_a_row_of_the_matrix_loses_and_duplicates_nothing(
    scene: Scene, tmp_path: Path, fault: Callable[[Rig], None]
) -> None:
    with running_rig(scene.kafka, scene.load, tmp_path / "row", None, 120) as rig:
        fault(rig)
        rig.finish()

        assert rig.faults > 0
        verdict = rig.verdict()
    assert verdict.is_clean, verdict


def test_the_auditor_finds_lost_duplicated_and_wrong_units(scene: Scene, tmp_path: Path) -> None:
    with running_rig(scene.kafka, scene.load, tmp_path / "row", None, 120) as rig:
        nothing(rig)
        rig.finish()
        verdict = rig.verdict()
        url = rig.run.env["RESMETER_LEDGER__URL"]
    assert verdict.is_clean, verdict
    truth, undisturbed = scene.load.truth, scene.load.undisturbed
    written = list(undisturbed.items())
    unit = next(iter(truth.units))

    more = truth._replace(units=truth.units + type(truth.units)({unit: 1}))
    fewer = truth._replace(units=truth.units - type(truth.units)({unit: 1}))
    assert judge(more, url, undisturbed, written, truth.rejected, {}).lost >= 1
    assert judge(fewer, url, undisturbed, written, truth.rejected, {}).doubled == 1
    changed = [(record_id, content + b" ") for record_id, content in written[:2]]
    assert judge(truth, url, undisturbed, changed, truth.rejected, {}).wrong == 2
    assert judge(truth, url, undisturbed, written, set(), {}).problems
