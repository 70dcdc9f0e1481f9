"""Read the events topic again from its beginning, one partition at a time.

The order makes the comparison with the ledger certain: read the worker's position, then open the
topic with the records written up to it, then wait until the sink has stored them. A record that the
ledger still lacks after that is lost.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

import msgspec

from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.decoding import json_decoder
from pipeline.errors import UnavailableError
from pipeline.kafka.damage import decided_end
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.partitioners import KeyCheck
from pipeline.kafka.reader import TopicReader, committed_offsets, headers_of
from pipeline.ledger import Ledger, records
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import letter_of, open_dead_letters
from pipeline.replay.partition import PartitionReplay

_PROBE_SECONDS = 0.5


class _Identified(msgspec.Struct):
    id: str


_decode_id = json_decoder(_Identified)


class DeadLetterOrigins(NamedTuple):
    """Offsets of the records in the events topic that have a dead letter, by partition."""

    offsets: dict[int, set[int]]
    unauthorized_offsets: dict[int, set[int]]  # those with the reason `not_authorized`
    misplaced_offsets: dict[int, set[int]]  # those with the reason `wrong_partition`
    are_whole: bool  # retention has not deleted any dead letter yet


class Reading(NamedTuple):
    """The events topic as it is now, and what worker and sink have written for it."""

    settings: Settings
    tenants: Tenants
    events: TopicReader
    committed: Mapping[int, int]  # partition → the worker's committed offset
    dead_letters: DeadLetterOrigins
    written: frozenset[str]  # ids of the records in the topic of usage records

    def partitions(
        self, on_record: OnRecord = ignore_progress
    ) -> Iterator[tuple[int, PartitionReplay]]:
        """Read one partition after the other, and yield each, so that memory holds one at a time."""
        keys = self.tenants.key_ring()
        topics = self.settings.topics
        done, total = 0, self.events.size
        for partition, (low, _) in sorted(self.events.bounds.items()):
            replay = PartitionReplay(
                self.committed.get(partition, 0),
                self.tenants.timeline_for,
                keys,
                self.settings.worker.seal_after_ms,
                is_whole=low == 0,
                unauthorized_offsets=self.dead_letters.unauthorized_offsets.get(partition, set()),
                misplaced_offsets=self.dead_letters.misplaced_offsets.get(partition, set()),
                dead_letters_are_whole=self.dead_letters.are_whole,
                key_check=KeyCheck(topics.partitioner, partition, topics.partitions),
                owed_timeline_for=self.tenants.owed_timeline_for,
            )
            for message in self.events.records({partition: low}):
                replay.take(
                    message.offset() or 0,
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    headers_of(message),
                )
                done += 1
                on_record(done, total)
            yield partition, replay


@contextmanager
def open_reading(
    settings: Settings, tenants: Tenants, ledger: Ledger, wait_seconds: float
) -> Iterator[Reading]:
    """Open the events topic, and wait until the ledger has the usage records written so far.

    Args:
        settings: of worker and sink.
        tenants: whose policies and producers apply.
        ledger: the ledger to compare.
        wait_seconds: how long the sink may take to store the usage records written so far.

    Raises:
        ConfigurationError: a topic does not exist, or the broker rejects our credentials.
        UnavailableError: no broker responds, or the sink is behind.
    """
    options = librdkafka_options(settings.kafka)
    with closing(TopicReader(options, settings.topics.events)) as events:
        events.on_damage = partial(decided_end, settings)
        committed = committed_offsets(
            settings.kafka, settings.worker.group, settings.topics.events, events.bounds
        )
        # A dead letter is written before its record is committed, so all up to `committed` exist now.
        dead_letters = _dead_letter_origins(settings)
        with closing(TopicReader(options, settings.topics.records)) as usage_records:
            if behind := await_sink(ledger, usage_records, wait_seconds):
                raise UnavailableError(
                    f"the sink is {behind} usage records behind: check that it runs, and try again"
                )
            written = _ids(usage_records)
        yield Reading(settings, tenants, events, committed, dead_letters, written)


def await_sink(ledger: Ledger, usage_records: TopicReader, seconds: float) -> int:
    """Wait until the ledger has the records that the topic had when `usage_records` was opened.

    Return how many offsets the sink is behind when the wait ends: 0 if it has stored all of them.
    """
    deadline = time.monotonic() + seconds
    while (behind := _lag(ledger, usage_records)) and time.monotonic() <= deadline:
        time.sleep(_PROBE_SECONDS)
    return behind


def _lag(ledger: Ledger, usage_records: TopicReader) -> int:
    stored = records.offsets(ledger, usage_records.topic)
    behind = 0
    for partition, (low, high) in usage_records.bounds.items():
        offset = stored.get(partition, low)
        # The ledger's offset follows a record, and the markers of transactions may follow that.
        if offset < high and usage_records.has_from(partition, offset):
            behind += high - offset
    return behind


def _dead_letter_origins(settings: Settings) -> DeadLetterOrigins:
    offsets: dict[int, set[int]] = {}
    unauthorized: dict[int, set[int]] = {}
    misplaced: dict[int, set[int]] = {}
    with open_dead_letters(settings) as topic:
        are_whole = all(low == 0 for low, _ in topic.bounds.values())
        for letter in map(letter_of, topic.records()):
            if letter.origin is None or letter.origin[0] != settings.topics.events:
                continue
            _, partition, offset = letter.origin
            offsets.setdefault(partition, set()).add(offset)
            if letter.reason == "not_authorized":
                unauthorized.setdefault(partition, set()).add(offset)
            elif letter.reason == "wrong_partition":
                misplaced.setdefault(partition, set()).add(offset)
    return DeadLetterOrigins(offsets, unauthorized, misplaced, are_whole)


def _ids(usage_records: TopicReader) -> frozenset[str]:
    ids: set[str] = set()
    for message in usage_records.records():
        try:
            ids.add(_decode_id(message.value() or b"").id)
        except ValueError:
            continue  # the sink has quarantined it
    return frozenset(ids)
