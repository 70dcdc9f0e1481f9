"""A partition: what it yields is a function of the log, wherever it was interrupted."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.times import format_time
from pipeline.resolve.policy import Timeline, preset
from pipeline.stream.partition import Partition, Work
from tests.oracle.strategies import T0

TIMELINE = Timeline([preset("fin-2026")])
DAY_MS = 86_400_000


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


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
    """Return records of a few conversations, some again and some garbage."""
    found: list[Record] = []
    now = T0
    for n in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0, 1_000, DAY_MS, DAY_MS + 600_000]))
        conversation = draw(st.integers(0, 2))
        shape = draw(st.integers(0, 9))
        if shape == 0:
            found.append(Record(n, now, b"acme:c0", draw(st.binary(max_size=20))))
        elif shape == 1 and found:
            again = draw(st.sampled_from(found))
            found.append(again._replace(offset=n, timestamp=now))
        else:
            late = draw(st.sampled_from([0, 0, 0, 60_000, 2 * DAY_MS]))
            value = _value(n, conversation, draw(st.integers(0, 5)), now - late)
            found.append(Record(n, now, f"acme:c{conversation}".encode(), value))
    return found


def _partition() -> Partition:
    made = Partition("events", 0, lambda _: TIMELINE)
    made.schedule_all()
    return made


def _written(work: Work) -> list[tuple[bytes, bytes]]:
    return [(output.value, output.origin) for output in work.outputs]


@given(logs())
def test_everything_consumed_is_decided_a_duplicate_or_a_dead_letter(log: list[Record]) -> None:
    work = _partition().apply(log)

    assert sum(work.types) + len(work.dead_letters) == len(log)
    assert work.redelivered == 0
    assert [letter.value for letter in work.dead_letters] == [
        record.value for record in log if record.offset in {d.offset for d in work.dead_letters}
    ]


@given(logs(), st.lists(st.integers(1, 25), max_size=4))
def test_the_size_of_the_batches_changes_nothing(log: list[Record], cuts: list[int]) -> None:
    whole = _written(_partition().apply(log))

    partition, found = _partition(), []
    edges = [0, *sorted(cuts), len(log)]
    for start, end in pairwise(edges):
        found += _written(partition.apply(log[start:end]))
    assert found == whole


@given(logs(), st.integers(0, 3))
def test_a_crash_before_or_after_any_effect_changes_nothing(log: list[Record], size: int) -> None:
    """For each batch n: die before its results, after them, and after its states."""
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
            # A new process: its states are those of the changelog, and the offset that was
            # committed may be any up to this one.
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
    while len(partition.wheel):
        _effects(partition.settle(T0 + 10**12, 1), topic, changelog, 2)


def _effects(
    work: Work, topic: dict[bytes, bytes], changelog: dict[bytes, bytes], effects: int
) -> None:
    if effects >= 1:
        for output in work.outputs:
            identity = output.value.partition(b",")[0]
            # Written again, it must be what it was.
            assert topic.setdefault(identity, output.value) == output.value
    if effects >= 2:
        changelog.update(work.states)


@given(logs())
def test_delivering_a_log_again_changes_nothing(log: list[Record]) -> None:
    partition = _partition()
    partition.apply(log)
    states = dict(partition.states)

    again = partition.apply(log)

    assert not again.outputs
    assert partition.states == states
    assert again.redelivered + len(again.dead_letters) == len(log)


@given(logs())
def test_an_older_state_of_a_zombie_never_replaces_a_newer_one(log: list[Record]) -> None:
    partition = _partition()
    versions = [state for record in log for state in partition.apply([record]).states]

    restored = _partition()
    restored.restore(Record(n, 0, key, value) for n, (key, value) in enumerate(reversed(versions)))

    assert restored.states == partition.states
