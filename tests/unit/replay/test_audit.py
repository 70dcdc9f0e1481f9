"""The audit keeps to the worker's decision, even if producers' keys have changed since."""

import orjson

from pipeline.catalog.policies import preset
from pipeline.events.signature import SIGNATURE_HEADER, Key, KeyRing, sign
from pipeline.events.times import format_time
from pipeline.ledger.findings import Finding
from pipeline.replay.comparison import Tally, compare, missing_dead_letters
from pipeline.replay.corrections import Correctable, find_corrections
from pipeline.replay.partition import PartitionReplay
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from pipeline.usage.record import UsageRecord
from tests.support.events import Record

TIMELINE = Timeline([preset("fin-2026")])
T0 = 1_777_885_200_000
OLD, NEW = Key(b"o" * 32, None), Key(b"n" * 32, None)


def resolved(signed: str | None = None, key: Key = OLD) -> list[Record]:
    """Return the records of a confirmed conversation, signed or not."""
    steps = [
        ("customer_message", {"intent": "help_request"}),
        ("ai_message", {"kind": "answer"}),
        ("customer_message", {"intent": "confirmation"}),
    ]
    records = []
    for n, (kind, data) in enumerate(steps):
        value = orjson.dumps(
            {
                "specversion": "1.0",
                "id": f"m{n}",
                "source": "/test",
                "type": f"conversation.{kind}",
                "subject": "c1",
                "time": format_time(T0 + n),
                "tenantid": "acme",
                "data": data,
            }
        )
        headers: list[tuple[str, bytes]] = []
        if signed is not None:
            headers.append((SIGNATURE_HEADER, sign(signed, key.secret, b"acme:c1", value, headers)))
        records.append(Record(n, T0 + n, b"acme:c1", value, headers))
    return records


def decided(records: list[Record], keys: dict[str, Key]) -> tuple[list[UsageRecord], set[int]]:
    """Return what a worker with these keys emits, and the offsets that it rejects."""
    partition = Partition("events", 0, lambda _: TIMELINE, KeyRing.of(keys))
    partition.schedule_all()
    result = partition.apply(records)
    return [output.record for output in result.outputs], {
        letter.offset for letter in result.dead_letters
    }


def audited(
    records: list[Record],
    ledger: list[UsageRecord],
    keys: dict[str, Key],
    unauthorized: set[int],
    *,
    dead_letters_are_whole: bool = True,
) -> tuple[list[Finding], Tally, PartitionReplay]:
    replay = PartitionReplay(
        len(records),
        lambda _: TIMELINE,
        KeyRing.of(keys),
        unauthorized_offsets=unauthorized,
        dead_letters_are_whole=dead_letters_are_whole,
    )
    for record in records:
        replay.take(*record)
    findings, tallies = compare(replay, ledger, set(), T0 + 10**9)
    return findings, tallies.get("acme", Tally()), replay


def corrected(replay: PartitionReplay, ledger: list[UsageRecord]) -> list[Correctable]:
    return find_corrections(replay, ledger, set(), ("events", 0), T0 + 10**9).conversations


def test_event_signed_by_a_removed_key_stays_billed() -> None:
    records = resolved("old")
    ledger, unauthorized = decided(records, {"old": OLD})
    assert len(ledger) == 1

    findings, tally, replay = audited(records, ledger, {"new": NEW}, unauthorized)

    assert not findings
    assert tally.unjudged == 0
    assert not corrected(replay, ledger)


def test_unsigned_event_from_before_signatures_were_required_stays_billed() -> None:
    records = resolved()
    ledger, unauthorized = decided(records, {})

    findings, _, replay = audited(records, ledger, {"new": NEW}, unauthorized)

    assert not findings
    assert not corrected(replay, ledger)


def test_event_rejected_as_unauthorized_is_not_owed_after_its_key_is_added() -> None:
    records = resolved("new", NEW)
    ledger, unauthorized = decided(records, {"old": OLD})
    assert (ledger, unauthorized) == ([], {0, 1, 2})

    findings, _, replay = audited(records, ledger, {"old": OLD, "new": NEW}, unauthorized)

    assert not findings
    assert not corrected(replay, ledger)
    assert missing_dead_letters(replay.rejected, unauthorized, "events", 0) == []


def test_conversation_with_an_unknown_key_is_not_judged_if_dead_letters_were_deleted() -> None:
    records = resolved("old")
    ledger, _ = decided(records, {"old": OLD})

    for stored in (ledger, []):
        findings, tally, replay = audited(
            records, stored, {"new": NEW}, set(), dead_letters_are_whole=False
        )

        assert not findings
        assert tally.unjudged == 1
        assert not corrected(replay, stored)


def test_uncommitted_event_is_judged_by_todays_keys() -> None:
    records = resolved("old")
    replay = PartitionReplay(0, lambda _: TIMELINE, KeyRing.of({"new": NEW}))
    for record in records:
        replay.take(*record)

    assert replay.dead_letters == 3
    assert not compare(replay, [], set(), T0 + 10**9).findings


def test_usage_whose_events_are_gone_is_named_as_such_and_a_plan_leaves_it() -> None:
    ledger, _ = decided(resolved("old"), {"old": OLD})

    findings, _, replay = audited([], ledger, {"old": OLD}, set())

    (finding,) = findings
    assert finding.kind == "not_in_log"
    assert finding.detail == (
        "acme:c1:1: +1 resolution (confirmed, confirmed) for m1, m2: no longer in the log: m1, m2. "
        "This is no reason to take the usage back"
    )
    assert not corrected(replay, ledger)


def test_usage_of_events_that_were_rejected_is_unexpected_because_the_log_shows_them() -> None:
    records = resolved("old")
    ledger, _ = decided(records, {"old": OLD})

    findings, _, _ = audited(records, ledger, {"old": OLD}, {0, 1, 2})

    assert [f.kind for f in findings] == ["unexpected"]
