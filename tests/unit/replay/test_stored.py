"""The ledger's records of events that were copied to another topic are those of the copy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.catalog.policies import preset
from pipeline.ledger import Ledger, open_ledger, upgrade
from pipeline.replay.comparison import compare
from pipeline.replay.corrections import find_corrections
from pipeline.replay.partition import PartitionReplay
from pipeline.replay.stored import StoredRecords
from pipeline.resolve.policy import Timeline
from tests.support.events import AT, Record, resolved
from tests.support.ledger import record, stored

TIMELINE = Timeline([preset("fin-2026")])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    upgrade(url)
    opened = open_ledger(url)
    yield opened
    opened.close()


@pytest.fixture
def replay() -> PartitionReplay:
    made = PartitionReplay(3, lambda _: TIMELINE)
    for n, (key, value, timestamp) in enumerate(resolved("c1")):
        made.take(*Record(n, timestamp, key, value))
    return made


def test_a_replay_of_a_copy_finds_the_records_of_the_original(
    ledger: Ledger, replay: PartitionReplay
) -> None:
    (replayed,) = replay.conversations()
    stored(ledger, *replayed.emitted)  # with their evidence in events[3]

    in_copy = list(StoredRecords(ledger, "copy", [0]).of(0, replay))

    assert in_copy == replayed.emitted
    assert not compare(replay, in_copy, set(), AT + 10**9).findings
    assert not find_corrections(replay, in_copy, set(), ("copy", 0), AT + 10**9).conversations


def test_records_of_conversations_that_the_copy_lacks_are_left(
    ledger: Ledger, replay: PartitionReplay
) -> None:
    gone = record("c2")
    stored(ledger, gone)
    in_copy = StoredRecords(ledger, "copy", [0])

    assert not list(in_copy.of(0, replay))
    assert in_copy.left() == [gone]
