"""What a partition writes depends only on the log, no matter where it was interrupted."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import preset
from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    EVENTS_IN_CONVERSATION_MAX,
    Addressed,
    Event,
)
from pipeline.events.times import format_time
from pipeline.events.wire import read_record
from pipeline.kafka.headers import DeadLetter
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult, Output
from pipeline.stream.partition import Partition
from pipeline.stream.state import decode_state, due_arrival_ms_of, is_sealed
from pipeline.usage.conversation import SEAL_AFTER_MS
from tests.oracle.strategies import END, T0, WINDOW, arrivals, timelines
from tests.oracle.usage import Oracle, as_record
from tests.oracle.wire import value
from tests.support.events import Record

TIMELINE = Timeline([preset("fin-2026")])
DAY_MS = 86_400_000


def _value(n: int, conversation: int, kind: int, at: int) -> bytes:
    type_, data = [
        ("customer_message", '{"intent":"help_request"}'),
        ("customer_message", '{"intent":"confirmation"}'),
        ("ai_message", '{"kind":"answer"}'),
        ("ai_message", '{"kind":"answer"}'),
        ("closed", '{"actor":"workflow"}'),
        ("customer_message", '{"intent":"bliss"}'),  # a dead letter
    ][kind]
    return (
        f'{{"specversion":"1.0","id":"e{n}","source":"/s","type":"conversation.{type_}",'
        f'"subject":"c{conversation}","time":"{format_time(at)}","tenantid":"acme","data":{data}}}'
    ).encode()


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Return records of a few conversations, with duplicates and garbage."""
    log: list[Record] = []
    now = T0
    for n in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0, 1_000, DAY_MS, DAY_MS + 600_000]))
        conversation = draw(st.integers(0, 2))
        shape = draw(st.integers(0, 9))
        if shape == 0:
            log.append(Record(n, now, b"acme:c0", draw(st.binary(max_size=20))))
        elif shape == 1 and log:
            again = draw(st.sampled_from(log))
            log.append(again._replace(offset=n, timestamp=now))
        else:
            late = draw(st.sampled_from([0, 0, 0, 60_000, 2 * DAY_MS]))
            value = _value(n, conversation, draw(st.integers(0, 5)), now - late)
            log.append(Record(n, now, f"acme:c{conversation}".encode(), value))
    return log


def _partition() -> Partition:
    partition = Partition("events", 0, lambda _: TIMELINE)
    partition.schedule_all()
    return partition


def _written(result: BatchResult) -> list[tuple[str, bytes, bytes]]:
    return [(output.record.conversation, output.value, output.origin) for output in result.outputs]


def _by_conversation(written: list[tuple[str, bytes, bytes]]) -> list[tuple[str, bytes, bytes]]:
    return sorted(written, key=lambda output: output[0])  # each in the order of its records


@given(logs())
def test_every_record_is_decided_a_duplicate_or_a_dead_letter(log: list[Record]) -> None:
    result = _partition().apply(log)

    assert sum(result.events_by_type) + len(result.dead_letters) == result.records_read == len(log)
    assert result.redelivered == 0
    assert [letter.value for letter in result.dead_letters] == [
        record.value for record in log if record.offset in {d.offset for d in result.dead_letters}
    ]


@given(logs(), st.lists(st.integers(1, 25), max_size=4))
def test_batch_size_changes_nothing(log: list[Record], cuts: list[int]) -> None:
    whole = _written(_partition().apply(log))

    partition, in_batches = _partition(), []
    edges = [0, *sorted(cuts), len(log)]
    for start, end in pairwise(edges):
        in_batches += _written(partition.apply(log[start:end]))
    assert _by_conversation(in_batches) == _by_conversation(whole)


@given(logs(), st.integers(0, 3))
def test_a_crash_before_or_after_any_effect_changes_nothing(log: list[Record], size: int) -> None:
    """For each batch, crash before its results are written, after them, and after its states."""
    expected = _outcome(log, size + 1)

    batches = [log[i : i + size + 1] for i in range(0, len(log), size + 1)]
    for crash in range(len(batches)):
        for effects in range(3):
            changelog: dict[bytes, bytes] = {}
            topic: dict[bytes, bytes] = {}
            partition = _partition()
            for batch in batches[:crash]:
                _take(partition, batch, topic, changelog, 2)
            _take(partition, batches[crash], topic, changelog, effects)
            # A new process restores the states from the changelog. The committed offset may be any
            # offset up to this batch.
            fresh = _partition()
            fresh.restore(
                Record(n, 0, key, value) for n, (key, value) in enumerate(changelog.items())
            )
            fresh.schedule_all()
            for batch in batches[max(0, crash - 1) :]:
                _take(fresh, batch, topic, changelog, 2)
            _settle(fresh, topic, changelog)
            assert (topic, changelog) == expected


def _outcome(log: list[Record], size: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    topic: dict[bytes, bytes] = {}
    changelog: dict[bytes, bytes] = {}
    partition = _partition()
    for start in range(0, len(log), size):
        _take(partition, log[start : start + size], topic, changelog, 2)
    _settle(partition, topic, changelog)
    return topic, changelog


def _take(
    partition: Partition,
    batch: list[Record],
    topic: dict[bytes, bytes],
    changelog: dict[bytes, bytes],
    effects: int,
) -> None:
    _effects(partition.apply(batch), topic, changelog, effects)


def _settle(partition: Partition, topic: dict[bytes, bytes], changelog: dict[bytes, bytes]) -> None:
    while len(partition.due_queue):
        _effects(partition.settle(T0 + 10**12, 1), topic, changelog, 2)


def _effects(
    result: BatchResult, topic: dict[bytes, bytes], changelog: dict[bytes, bytes], effects: int
) -> None:
    if effects >= 1:
        for output in result.outputs:
            identity = output.value.partition(b",")[0]
            # A record that is written again must have the same bytes.
            assert topic.setdefault(identity, output.value) == output.value
    if effects >= 2:
        changelog.update(result.states)


# --- compared with the second implementation, and after every crash -------------------------------


class Log(NamedTuple):
    """The records of a partition, and the times at which the worker had read to its end."""

    timeline: Timeline
    records: list[Record]
    timers: dict[int, int]  # number of records before the timer → its time
    seal_after: int = SEAL_AFTER_MS


_SEAL_AFTERS = [WINDOW, 2 * WINDOW, 2 * WINDOW + 1, 5 * WINDOW]


@st.composite
def long_logs(
    draw: st.DrawFn, conversations: int = 3, size: int = 6, *, seals: bool = False
) -> Log:
    """Return a log with the conversations of two tenants, in order of arrival."""
    coming: list[tuple[int, bytes | None, bytes | None]] = []
    for n in range(draw(st.integers(1, conversations))):
        tenant_id, name = ("acme", "best")[n % 2], f"c{n // 2}"
        for at, event in draw(arrivals(size)):
            if event is None:
                coming.append((at, None, None))
            else:
                key = f"{tenant_id}:{name}".encode()
                coming.append((at, key, value(event, tenant_id, name)))
    for _ in range(draw(st.integers(0, 2))):
        garbage = draw(st.sampled_from([b"", b"{", b"[1]", b'{"specversion":"1.0"}', b"\xff"]))
        coming.append((T0 + draw(st.integers(0, 9)) * WINDOW, b"acme:c0", garbage))
    coming.sort(key=lambda arrival: arrival[0])
    records: list[Record] = []
    timers: dict[int, int] = {}
    for at, record_key, content in coming:
        if record_key is None:
            timers[len(records)] = at
        else:
            records.append(Record(len(records), at, record_key, content))
    seal_after = draw(st.sampled_from(_SEAL_AFTERS)) if seals else SEAL_AFTER_MS
    return Log(draw(timelines()), records, timers, seal_after)


@given(long_logs() | long_logs(seals=True))
def test_a_partition_agrees_with_the_second_implementation(log: Log) -> None:
    partition = _of(log)

    result = partition.apply(log.records)
    written = [output.record for output in result.outputs]
    written += [output.record for output in partition.settle(END, 1_000).outputs]

    conversations: dict[bytes, Oracle] = {}
    too_late: list[int] = []
    for record in log.records:
        decoded = read_record(record.value, record.key, record.timestamp, record.headers)
        if isinstance(decoded, Addressed):
            assert record.key is not None
            oracle = conversations.setdefault(
                record.key, Oracle(log.timeline, record.key.decode(), log.seal_after)
            )
            known = len(oracle.too_late)
            oracle.receive(decoded.event, record.timestamp)
            too_late += [record.offset] * (len(oracle.too_late) - known)
    for oracle in conversations.values():
        oracle.tick(END)
    expected = [record for oracle in conversations.values() for record in oracle.records]
    assert sorted(map(as_record, written)) == sorted(expected)
    letters = {
        letter.offset: letter.value for letter in result.dead_letters if letter.reason == "too_late"
    }
    assert letters == {offset: log.records[offset].value for offset in too_late}
    assert sum(result.events_by_type) + len(result.dead_letters) == len(log.records)


@given(long_logs())
def test_counts_add_up_when_parts_of_the_log_are_redelivered(log: Log) -> None:
    applied, rejected = Counter[str](), set[int]()
    partition = _of(log)
    starts = [0, *range(0, len(log.records), 3)]

    for start in starts:
        part = log.records[start:]
        result = partition.apply(part)

        assert (
            sum(result.events_by_type) + result.redelivered + len(result.dead_letters)
            == result.records_read
            == len(part)
        )
        # Also after a timer, a redelivered record counts as redelivered.
        partition.settle(END, 1_000)
        applied["new"] += sum(result.events_by_type)
        applied["duplicates"] += result.duplicates
        rejected.update(letter.offset for letter in result.dead_letters)
    events = sum(decode_state(state).events for state in partition.states.values())
    assert applied["new"] == applied["duplicates"] + events == len(log.records) - len(rejected)


@given(long_logs(), st.integers(1, 4))
def test_a_timer_settles_everything_that_is_due(log: Log, size: int) -> None:
    partition = _of(log)
    timers = {n: log.records[n - 1].timestamp for n in range(1, len(log.records) + 1)}

    for start in range(0, len(log.records), size):
        part = log.records[start : start + size]
        partition.apply(part)
        clock = timers[start + len(part)]
        partition.settle(clock, 1_000)

        waiting = [due_arrival_ms_of(state) for state in partition.states.values()]
        assert all(due is None or due > clock for due in waiting)
        assert len(partition.due_queue) >= sum(due is not None for due in waiting)


def test_an_earlier_deadline_replaces_the_later_one() -> None:
    hour = 3_600_000
    policy = msgspec.structs.replace(
        preset("fin-2026"), window={"default": 24 * hour, "sms": hour}, grace=0
    )
    events = [
        Event(T0, CUSTOMER_MESSAGE, "/s", "m0", intent="help_request"),
        Event(T0 + 1, AI_MESSAGE, "/s", "m1", kind="answer"),
        Event(T0 + 2, AI_MESSAGE, "/s", "m2", kind="answer", channel="sms"),
    ]
    partition = Partition("events", 0, lambda _: Timeline([policy]))
    partition.schedule_all()
    for n, event in enumerate(events):
        partition.apply([Record(n, event.at, b"acme:c1", value(event, "acme", "c1"))])

    result = partition.settle(T0 + 2 + hour, 1_000)

    assert [output.record.evidence for output in result.outputs] == [("m2",)]


@given(long_logs() | long_logs(seals=True), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_crash_around_any_single_write_leaves_the_same_records(
    log: Log, size: int, size_after: int, ahead: bool
) -> None:
    """Each result and each state is one write. Crash before the first write and after each one."""
    expected = _play(log, size)

    writes = _writes(log, size, ahead=ahead)
    for survived in range(len(writes) + 1):
        topic: dict[str, Output] = {}
        dead_letters: dict[int, DeadLetter] = {}
        changelog: dict[bytes, bytes] = {}
        committed = 0
        for write in writes[:survived]:
            if isinstance(write, Output):
                _append(topic, write)
            elif isinstance(write, DeadLetter):
                dead_letters[write.offset] = write
            elif isinstance(write, int):
                committed = write
            else:
                changelog[write[0]] = write[1]
        left = Played(topic, dead_letters, changelog)
        restarted = _play(log, size_after, since=committed, left=left)
        assert restarted.topic == expected.topic
        assert restarted.dead_letters == expected.dead_letters


@given(long_logs(seals=True), st.integers(1, 4))
def test_when_histories_are_dropped_changes_neither_records_nor_dead_letters(
    log: Log, size: int
) -> None:
    played = _play(log, size)

    kept = _play(log, size, drops=False)
    assert kept.topic == played.topic
    assert kept.dead_letters == played.dead_letters


@given(long_logs(seals=True), st.integers(1, 4))
def test_a_timer_drops_every_history_that_can_be_dropped(log: Log, size: int) -> None:
    partition = _of(log)
    for _ in _batch_results(partition, log, size, 0):
        pass

    partition.seal(END, 1_000)

    assert all(is_sealed(state) for state in partition.states.values())
    assert all(not decode_state(state).history for state in partition.states.values())
    assert len(partition.seal_queue) == 0


class Played(NamedTuple):
    topic: dict[str, Output]
    dead_letters: dict[int, DeadLetter]
    changelog: dict[bytes, bytes]


Write = Output | DeadLetter | tuple[bytes, bytes] | int  # the last two: a state, a commit


def _of(log: Log) -> Partition:
    partition = Partition("events", 0, lambda _: log.timeline, seal_after_ms=log.seal_after)
    partition.schedule_all()
    return partition


def _batch_results(
    partition: Partition, log: Log, size: int, since: int, *, drops: bool = True
) -> Iterator[tuple[BatchResult, int]]:
    """Yield the result of each batch and each timer, and the offset after it."""
    start = since
    while start < len(log.records):
        end = min([start + size, *(n for n in log.timers if n > start), len(log.records)])
        yield partition.apply(log.records[start:end]), end
        if end in log.timers:
            yield partition.settle(log.timers[end], 1), end
            if drops:
                yield partition.seal(log.timers[end], 1), end
        start = end
    yield partition.settle(END, 1_000), start
    if drops:
        yield partition.seal(END, 1_000), start


def _writes(log: Log, size: int, *, ahead: bool) -> list[Write]:
    """Return every write of a run, in order.

    If `ahead`, the results of a batch are written before the states of the previous batch.
    """
    writes: list[Write] = []
    waiting: list[Write] = []
    for result, offset in _batch_results(_of(log), log, size, 0):
        results: list[Write] = [*result.outputs, *result.dead_letters]
        writes += results if ahead else waiting
        writes += waiting if ahead else results
        waiting = [*result.states, offset]
    return writes + waiting


def _play(
    log: Log,
    size: int,
    *,
    since: int = 0,
    left: Played | None = None,
    drops: bool = True,
) -> Played:
    """Run a worker to the end of the log, starting from the writes of an earlier worker (`left`)."""
    played = Played({}, {}, {}) if left is None else left
    partition = _of(log)
    partition.restore(Record(n, 0, *state) for n, state in enumerate(played.changelog.items()))
    partition.schedule_all()
    for result, _ in _batch_results(partition, log, size, since, drops=drops):
        for output in result.outputs:
            _append(played.topic, output)
        for letter in result.dead_letters:
            # A record that is rejected again gives the same dead letter.
            assert played.dead_letters.setdefault(letter.offset, letter) == letter
        played.changelog.update(result.states)
    return played


def _append(topic: dict[str, Output], output: Output) -> None:
    # A record that is written again has the same key, value and origin, byte for byte.
    assert topic.setdefault(output.record.id, output) == output


def _at(*events: tuple[int, Event]) -> list[Record]:
    return [
        Record(n, arrival, b"acme:c1", value(event, "acme", "c1"))
        for n, (arrival, event) in enumerate(events)
    ]


def test_the_sealing_example_of_the_reference_is_correct() -> None:
    asked = Event(T0, CUSTOMER_MESSAGE, "/s", "m0", intent="help_request")
    answered = Event(T0 + 60_000, AI_MESSAGE, "/s", "m1", kind="answer")
    earlier = Event(T0 - 60_000, CUSTOMER_MESSAGE, "/s", "m2", intent="help_request")
    again = T0 + 58 * DAY_MS
    returned = Event(again, CUSTOMER_MESSAGE, "/s", "m3", intent="help_request")
    log = _at(
        (T0, asked), (T0 + 60_000, answered), (again, earlier), (again, answered), (again, returned)
    )

    result = _partition().apply(log)

    assert [(letter.reason, letter.offset) for letter in result.dead_letters] == [
        ("too_late", 2),
        ("too_late", 3),
    ]
    assert [(out.record.id, out.record.reason) for out in result.outputs] == [
        ("acme:c1:1", "silence"),
        ("acme:c1:2", "customer_returned"),
    ]
    assert result.outputs[0].origin == b'{"topic":"events","partition":0,"offsets":[1]}'


def test_a_record_one_millisecond_before_sealing_is_late_not_too_late() -> None:
    asked = Event(T0, CUSTOMER_MESSAGE, "/s", "m0", intent="help_request")
    answered = Event(T0 + 60_000, AI_MESSAGE, "/s", "m1", kind="answer")
    returned = Event(T0 + 120_000, CUSTOMER_MESSAGE, "/s", "m2", intent="help_request")
    earlier = Event(T0 + 90_000, CUSTOMER_MESSAGE, "/s", "m3", intent="confirmation")
    seal = T0 + 120_000 + SEAL_AFTER_MS
    known = [(T0, asked), (T0 + 60_000, answered), (T0 + 120_000, returned)]

    letters = [
        [letter.reason for letter in _partition().apply(_at(*known, (at, earlier))).dead_letters]
        for at in (seal - 1, seal)
    ]

    assert letters == [[], ["too_late"]]


def test_a_full_conversation_accepts_events_again_after_sealing() -> None:
    events = [
        (T0 + n, Event(T0 + n, CUSTOMER_MESSAGE, "/s", f"m{n}", intent="holding"))
        for n in range(EVENTS_IN_CONVERSATION_MAX + 1)
    ]
    later = T0 + 60 * DAY_MS
    events.append((later, Event(later, CUSTOMER_MESSAGE, "/s", "new", intent="holding")))
    partition = _partition()

    result = partition.apply(_at(*events))

    assert [letter.reason for letter in result.dead_letters] == ["conversation_too_long"]
    assert decode_state(partition.states[b"acme:c1"]).events == 1


@given(logs())
def test_redelivering_a_log_changes_nothing(log: list[Record]) -> None:
    partition = _partition()
    partition.apply(log)
    states = dict(partition.states)

    again = partition.apply(log)

    assert not again.outputs
    assert partition.states == states
    assert again.redelivered + len(again.dead_letters) == len(log)


@given(logs(), st.data())
def test_an_older_state_of_a_zombie_never_replaces_a_newer_one(
    log: list[Record], data: st.DataObject
) -> None:
    partition = _partition()
    versions = [state for record in log for state in partition.apply([record]).states]
    versions += partition.settle(END, 1_000).states
    versions += partition.seal(T0 + 2 * SEAL_AFTER_MS, 1_000).states

    restored = _partition()
    restored.restore(
        Record(n, 0, *state) for n, state in enumerate(data.draw(st.permutations(versions)))
    )

    assert restored.states == partition.states
