"""The audit finds no difference in what a worker wrote, and finds each change made to it."""

from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.ledger.findings import Finding
from pipeline.replay.comparison import Tallies, compare, missing_dead_letters
from pipeline.replay.partition import PartitionReplay
from pipeline.stream.partition import Partition
from pipeline.usage.record import UsageRecord
from tests.oracle.strategies import END
from tests.properties.test_partition import Log, long_logs

LOGS = long_logs() | long_logs(seals=True)


def _written(log: Log, until: int) -> list[UsageRecord]:
    """Return the records that a worker emits up to an offset; at the log's end, all silence settles."""
    partition = _partition(log)
    records = [output.record for output in partition.apply(log.records[:until]).outputs]
    if until == len(log.records):
        records += [output.record for output in partition.settle(END, 1_000).outputs]
    return records


def _partition(log: Log) -> Partition:
    partition = Partition("events", 0, lambda _: log.timeline, seal_after_ms=log.seal_after)
    partition.schedule_all()
    return partition


def _audit(
    log: Log,
    ledger: list[UsageRecord],
    committed: int,
    now: int = END,
    written: AbstractSet[str] = frozenset(),
    *,
    is_whole: bool = True,
) -> tuple[list[Finding], Tallies, PartitionReplay]:
    replay = PartitionReplay(
        committed, lambda _: log.timeline, seal_after_ms=log.seal_after, is_whole=is_whole
    )
    for record in log.records:
        replay.take(record.offset, record.timestamp, record.key, record.value, record.headers)
    findings, tallies = compare(replay, ledger, written, now)
    return findings, tallies, replay


@given(LOGS, st.data())
def test_nothing_differs_for_any_committed_offset(log: Log, data: st.DataObject) -> None:
    written = data.draw(st.integers(0, len(log.records)))
    committed = data.draw(st.integers(0, written))

    findings, tallies, replay = _audit(log, _written(log, written), committed)

    assert not findings
    events = sum(tally.events for tally in tallies.values())
    assert events + replay.dead_letters == replay.read == len(log.records)
    assert replay.rejected.keys() <= set(range(committed))


@given(LOGS, st.data())
def test_lost_record_is_missing(log: Log, data: st.DataObject) -> None:
    # Only the records that committed events emitted; a window may still be open.
    partition = _partition(log)
    owed = [output.record for output in partition.apply(log.records).outputs]
    assume(owed)
    lost = data.draw(st.sampled_from(owed))

    findings, _, _ = _audit(log, [record for record in owed if record != lost], len(log.records))

    assert {(f.kind, f.conversation) for f in findings} == {("missing", lost.conversation)}
    assert findings[0].detail.startswith(lost.id)


@given(LOGS, st.data())
def test_lost_record_that_was_written_is_missing_even_if_a_timer_emitted_it(
    log: Log, data: st.DataObject
) -> None:
    written = _written(log, len(log.records))
    assume(written)
    lost = data.draw(st.sampled_from(written))

    kept = [record for record in written if record != lost]
    findings, _, _ = _audit(log, kept, len(log.records), written={record.id for record in written})

    assert [(f.kind, f.conversation) for f in findings] == [("missing", lost.conversation)]


@given(LOGS, st.data())
def test_changed_record_differs(log: Log, data: st.DataObject) -> None:
    written = _written(log, len(log.records))
    assume(written)
    place = data.draw(st.integers(0, len(written) - 1))
    changes: dict[str, Any] = data.draw(
        st.sampled_from([{"kind": "reported"}, {"occurred_at": 1}, {"policy_version": 99}])
    )
    changed = msgspec.structs.replace(written[place], **changes)
    assume(changed != written[place])

    findings, _, _ = _audit(
        log, [*written[:place], changed, *written[place + 1 :]], len(log.records)
    )

    assert [f.kind for f in findings] == ["differs"]


@given(LOGS, st.sampled_from(["acme", "elsewhere"]))
def test_record_without_a_cause_is_unexpected(log: Log, tenant_id: str) -> None:
    written = _written(log, len(log.records))
    added = UsageRecord(
        id=f"{tenant_id}:c0:99",
        tenant_id=tenant_id,
        conversation="c0",
        outcome="resolution",
        quantity=1,
        kind="assumed",
        reason="silence",
        occurred_at=1,
        policy="fin-2026",
        policy_version=1,
        evidence=(),
    )

    findings, tallies, _ = _audit(log, [*written, added], len(log.records))

    assert "unexpected" in {f.kind for f in findings}
    assert all(added.id in f.detail for f in findings)
    assert tallies[tenant_id].findings == len(findings)


@given(LOGS, st.data())
def test_a_record_of_events_that_the_log_no_longer_has_is_never_to_be_taken_back(
    log: Log, data: st.DataObject
) -> None:
    written = _written(log, len(log.records))
    assume(written)
    kept = data.draw(st.integers(0, len(log.records) - 1))
    _, _, whole = _audit(log, written, len(log.records))

    cut = log._replace(records=log.records[:kept])
    findings, _, replay = _audit(cut, written, kept)

    for record in written:
        place = (record.tenant_id, record.conversation)
        assert set(record.evidence) <= whole.shown(place)
        is_gone = not set(record.evidence) <= replay.shown(place)
        kinds = {f.kind for f in findings if f.detail.startswith(f"{record.id}: ")}
        assert "unexpected" not in kinds or not is_gone
        assert "not_in_log" not in kinds or is_gone


@given(LOGS)
def test_partition_without_its_beginning_is_not_judged(log: Log) -> None:
    written = _written(log, len(log.records))
    assume(written)

    findings, tallies, _ = _audit(log, [], len(log.records), is_whole=False)

    assert not findings
    assert sum(tally.findings for tally in tallies.values()) == 0


@given(LOGS)
def test_rejected_record_without_a_dead_letter_is_found(log: Log) -> None:
    _, _, replay = _audit(log, _written(log, len(log.records)), len(log.records))

    assert not missing_dead_letters(replay.rejected, replay.rejected, "events", 0)
    findings = missing_dead_letters(replay.rejected, [], "events", 0)
    assert [f.kind for f in findings] == ["no_dead_letter"] * len(replay.rejected)
