"""Fixtures of the tests on a real broker."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.load import events
from tests.kafka.run import Run, running

LOAD_EVENTS = 30_000


@pytest.fixture
def run(broker: str, tmp_path: Path) -> Iterator[Run]:
    """Topics, groups and a ledger for one test."""
    with running(broker, tmp_path) as made:
        yield made


class Load(NamedTuple):
    """Generated conversations on a topic, and what an undisturbed run made of them."""

    topic: str
    file: Path
    size: int
    records: dict[str, bytes]  # usage records by id


@pytest.fixture(scope="session")
def load(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("load")
    sent = list(events(LOAD_EVENTS, seed=7))
    file = folder / "load.ndjson"
    file.write_bytes(b"".join(event.value + b"\n" for event in sent))
    with running(broker, folder) as undisturbed:
        undisturbed.produce((event.key, event.value, event.at) for event in sent)
        worker = undisturbed.start("worker")
        undisturbed.until_decided(worker, len(sent))
        records = undisturbed.usage_records()
        topic = undisturbed.env["RESMETER_TOPICS__EVENTS"]
    return Load(topic, file, len(sent), records)


@pytest.fixture
def loaded_run(broker: str, load: Load, tmp_path: Path) -> Iterator[Run]:
    """A run over the load's events topic, with all else its own."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(running(broker, tmp_path, load.topic))
