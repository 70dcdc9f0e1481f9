"""An answer that a merge brought: its mail may come back, and its merge may come from the future."""

from pathlib import Path

import orjson
import pytest

from pipeline.catalog.policies import preset
from pipeline.events.model import Addressed, Rejected
from pipeline.events.times import parse_time
from pipeline.events.wire import read_event, read_record
from pipeline.resolve.machine import decide
from pipeline.resolve.policy import Timeline

CASES = Path(__file__).parent.parent.parent / "cases"
TIMELINE = Timeline([preset("fin-2026")])
LATER = parse_time("2026-07-01T00:00:00Z")


def _net(lines: list[bytes], subject: str) -> dict[str, int]:
    found = [read_event(line) for line in lines]
    events = [
        one.event for one in found if isinstance(one, Addressed) and one.conversation_id == subject
    ]
    assert len(found) == len(lines)
    return decide(events, TIMELINE, LATER).net


def _lines(name: str) -> list[bytes]:
    return (CASES / f"{name}.ndjson").read_bytes().splitlines()


def test_a_mail_that_comes_back_after_a_merge_bills_nothing() -> None:
    lines = _lines("merged_bounce")

    assert _net(lines, "new") == {}
    assert _net(lines, "old") == {}


def test_without_the_answers_id_it_is_billed() -> None:
    lines = [line.replace(b', "last_answer_id": "a1"', b"") for line in _lines("merged_bounce")]

    assert _net(lines, "new") == {"resolution": 1}


@pytest.mark.parametrize("answer_id", [b'""', b"7", b'"' + b"x" * 257 + b'"', b'"a\\u0000b"'])
def test_an_answers_id_that_is_no_id_is_rejected(answer_id: bytes) -> None:
    line = _lines("merged_bounce")[3].replace(b'"a1"', answer_id)

    found = read_event(line)

    assert isinstance(found, Rejected)
    assert found.reason == "invalid_data"
    assert "data.last_answer_id" in found.detail


@pytest.mark.parametrize(("ahead_ms", "is_rejected"), [(300_000, False), (300_001, True)])
def test_a_last_answer_may_be_five_minutes_ahead_of_the_arrival(
    ahead_ms: int, is_rejected: bool
) -> None:
    event = orjson.loads(_lines("merged_bounce")[3])
    arrival = parse_time(event["data"]["last_answer_at"]) - ahead_ms
    event["time"] = "2026-05-04T08:00:00Z"

    found = read_record(orjson.dumps(event), b"acme:new", arrival)

    assert isinstance(found, Rejected) == is_rejected
    if isinstance(found, Rejected):
        assert found.reason == "future_time"
        assert "data.last_answer_at" in found.detail
