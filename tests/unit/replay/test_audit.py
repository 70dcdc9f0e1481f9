"""The audit judges by what the worker decided then, where keys of producers have changed since."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from pipeline.catalog.policies import preset
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.events.times import format_time
from pipeline.ledger.findings import Finding
from pipeline.replay.audit import Audit, Tally
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from pipeline.usage.record import UsageRecord

TIMELINE = Timeline([preset("fin-2026")])
T0 = 1_777_885_200_000
OLD, NEW = Key(b"o" * 32, None), Key(b"n" * 32, None)


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


def resolved(signed: str | None = None, key: Key = OLD) -> list[Record]:
    """Return a conversation that is confirmed, signed or not."""
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
    """Return what a worker with these keys emits, and the offsets that it refuses."""
    partition = Partition("events", 0, lambda _: TIMELINE, keys)
    partition.schedule_all()
    work = partition.apply(records)
    return [output.record for output in work.outputs], {
        letter.offset for letter in work.dead_letters
    }


def audited(
    records: list[Record],
    ledger: list[UsageRecord],
    keys: dict[str, Key],
    refused: set[int],
    *,
    letters_are_whole: bool = True,
) -> tuple[list[Finding], Tally, Audit]:
    audit = Audit(
        len(records),
        lambda _: TIMELINE,
        keys,
        refused=refused,
        letters_are_whole=letters_are_whole,
    )
    for record in records:
        audit.take(*record)
    found = list(audit.compare(ledger, set(), T0 + 10**9))
    return found, audit.tallies.get("acme", Tally()), audit


def test_what_was_taken_under_a_key_that_is_gone_stays_billed() -> None:
    records = resolved("old")
    ledger, refused = decided(records, {"old": OLD})
    assert len(ledger) == 1

    found, tally, audit = audited(records, ledger, {"new": NEW}, refused)

    assert not found
    assert tally.unjudged == 0
    assert not list(audit.corrections(ledger, set(), ("events", 0), T0 + 10**9))


def test_what_came_before_signatures_were_asked_for_stays_billed() -> None:
    records = resolved()
    ledger, refused = decided(records, {})

    found, _, audit = audited(records, ledger, {"new": NEW}, refused)

    assert not found
    assert not list(audit.corrections(ledger, set(), ("events", 0), T0 + 10**9))


def test_what_the_worker_refused_is_not_owed_once_its_key_is_known() -> None:
    records = resolved("new", NEW)
    ledger, refused = decided(records, {"old": OLD})
    assert (ledger, refused) == ([], {0, 1, 2})

    found, _, audit = audited(records, ledger, {"old": OLD, "new": NEW}, refused)

    assert not found
    assert not list(audit.corrections(ledger, set(), ("events", 0), T0 + 10**9))
    assert audit.missing_letters(refused, "events", 0) == []


def test_where_dead_letters_are_gone_such_a_conversation_is_not_judged() -> None:
    records = resolved("old")
    ledger, _ = decided(records, {"old": OLD})

    for had in (ledger, []):
        found, tally, audit = audited(records, had, {"new": NEW}, set(), letters_are_whole=False)

        assert not found
        assert tally.unjudged == 1
        assert not list(audit.corrections(had, set(), ("events", 0), T0 + 10**9))


def test_a_forged_event_that_is_not_committed_yet_is_judged_by_the_keys_of_today() -> None:
    records = resolved("old")
    audit = Audit(0, lambda _: TIMELINE, {"new": NEW})
    for record in records:
        audit.take(*record)

    assert audit.letters == 3
    assert not list(audit.compare([], set(), T0 + 10**9))
