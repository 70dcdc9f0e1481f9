"""Find out up to when everything that happened has been decided.

For each partition, in this order: the clock, the end of the events, what the workers have committed, and
then the states of the conversations in the changelog. A worker writes usage records before the state
that says so, and states before it commits. So what is committed and not due is in the topic of usage
records.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.kafka.damage import decided_end
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, committed_offsets
from pipeline.ledger import Ledger, records
from pipeline.stream.basis import Basis
from pipeline.stream.recovery import Recovery
from pipeline.stream.state import due_arrival_ms_of

_RECORDS_AT_ONCE = 10_000


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class Decided(NamedTuple):
    """How far the workers are in one partition of the events."""

    partition: int
    until_ms: (
        int  # all that arrived before is applied, and all silence that was due before is settled
    )
    unread: int  # offsets that are not committed
    due: int  # open conversations whose silence is due and not settled
    lost: int  # records that Kafka deleted before a worker read them; nobody has acknowledged it


def read_decided(settings: Settings, until_ms: int | None = None) -> list[Decided]:
    """Return how far the workers are in each partition, in order.

    Args:
        settings: of the worker.
        until_ms: what is due after it does not matter; None: now.

    Raises:
        ConfigurationError: a topic does not exist, or the broker rejects us.
        UnavailableError: no broker responds, or another topic is read than the workers have read.
    """
    options = librdkafka_options(settings.kafka)
    clock_ms = int(time.time() * 1000)
    # Records behind an open transaction count as unread.
    uncommitted = {**options, "isolation.level": "read_uncommitted"}
    with closing(TopicReader(uncommitted, settings.topics.events)) as events:
        events.on_damage = partial(decided_end, settings)
        bounds = events.bounds
        committed = committed_offsets(
            settings.kafka, settings.worker.group, settings.topics.events, bounds
        )
        unread_ms = {
            number: _arrival_at(events, number, max(committed[number], low))
            for number, (low, end) in bounds.items()
            if committed[number] < end
        }
    with closing(TopicReader(options, settings.topics.changelog)) as changelog:
        missing = bounds.keys() - changelog.bounds.keys()
        if missing:
            raise UnavailableError(
                f"{settings.topics.changelog} has no partition {min(missing)}: run `resmeter topics check`"
            )
        return [
            _decided(
                number,
                bounds[number][1] - committed[number],
                min(clock_ms, unread_ms.get(number, clock_ms)),
                clock_ms if until_ms is None else until_ms,
                _recovered(changelog, number),
            )
            for number in sorted(bounds)
        ]


def read_written(settings: Settings, ledger: Ledger) -> dict[int, int]:
    """Return up to where each partition has usage records that the ledger has not stored.

    Asked after `read_decided`: a worker writes usage records before it commits. So once the ledger has
    these, it has all that was decided.

    Raises:
        ConfigurationError: the topic does not exist, or the broker rejects us.
        UnavailableError: no broker responds.
    """
    topic = settings.topics.records
    with closing(TopicReader(librdkafka_options(settings.kafka), topic)) as reader:
        stored = records.offsets(ledger, topic)
        return {
            partition: end
            for partition, (low, end) in reader.bounds.items()
            if (offset := max(low, stored.get(partition, low))) < end
            and reader.has_from(partition, offset)
        }


class _Recovered(NamedTuple):
    states: Mapping[bytes, bytes]
    basis: Basis


def _recovered(changelog: TopicReader, number: int) -> _Recovered:
    recovery = Recovery()
    states: dict[bytes, bytes] = {}
    basis: Basis | None = None
    batch: list[_Record] = []
    for message in changelog.records({number: changelog.bounds[number][0]}):
        at = message.timestamp()[1]
        batch.append(_Record(message.offset() or 0, at, message.key(), message.value()))
        if len(batch) == _RECORDS_AT_ONCE:
            basis = recovery.read(batch, states, basis)
            batch.clear()
    basis = recovery.read(batch, states, basis)
    return _Recovered(states, basis or Basis())


def _decided(
    number: int, unread: int, read_ms: int, until_ms: int, recovered: _Recovered
) -> Decided:
    states = recovered.states.values()
    dues_ms = [at for state in states if (at := due_arrival_ms_of(state)) is not None]
    due = sum(at <= until_ms for at in dues_ms)
    lost = recovered.basis.lost_records
    return Decided(number, min([read_ms, *dues_ms]), max(0, unread), due, lost)


def _arrival_at(events: TopicReader, number: int, offset: int) -> int:
    """Return when the first record from an offset on arrived; now, if only markers follow."""
    for message in events.records({number: offset}):
        return int(message.timestamp()[1])
    return int(time.time() * 1000)
