"""Fixtures for the tests with a real broker."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from pipeline.dev.load import events
from tests.kafka.run import Run, running
from tests.support.shared import shared

LOAD_EVENTS = 30_000


@pytest.fixture
def run(broker: str, tmp_path: Path) -> Iterator[Run]:
    """Topics, groups and a ledger for one test."""
    with running(broker, tmp_path) as test_run:
        yield test_run


class Load(NamedTuple):
    """Generated conversations in a topic, and the usage records of an undisturbed run over them."""

    topic: str
    file: str
    size: int
    records: dict[str, bytes]  # usage records by id


@pytest.fixture(scope="session")
def load(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """The load. One process of the test run decides its events for all other processes."""

    @contextlib.contextmanager
    def start() -> Iterator[str]:
        folder = tmp_path_factory.mktemp("load")
        records = list(events(LOAD_EVENTS, seed=7))
        file = folder / "load.ndjson"
        file.write_bytes(b"".join(event.value + b"\n" for event in records))
        with running(broker, folder) as undisturbed:
            undisturbed.produce((event.key, event.value, event.timestamp_ms) for event in records)
            worker = undisturbed.start("worker")
            undisturbed.until_decided(worker, len(records))
            usage_records = undisturbed.usage_records()
            topic = undisturbed.env["RESMETER_TOPICS__EVENTS"]
        decided = Load(topic, str(file), len(records), usage_records)
        (folder / "load").write_bytes(msgspec.msgpack.encode(decided))
        yield str(folder / "load")

    with shared(tmp_path_factory, "load", start) as path:
        yield msgspec.msgpack.decode(Path(path).read_bytes(), type=Load)


@pytest.fixture
def loaded_run(broker: str, load: Load, tmp_path: Path) -> Iterator[Run]:
    """A run over the load's events topic, with its own other topics, groups and ledger."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(running(broker, tmp_path, load.topic))
