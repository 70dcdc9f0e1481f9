"""Find what is known of one conversation: in the events topic and the dead letters, or in files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial

import orjson

from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.events.model import Event, Rejected
from pipeline.events.wire import read_event
from pipeline.kafka.damage import decided_end
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.partitioners import PARTITIONERS, KeyCheck, partition_of
from pipeline.kafka.reader import TopicReader, committed_offsets, headers_of
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import (
    Identity,
    Letter,
    Selection,
    identity_of,
    place_of,
    read_letters,
)
from pipeline.replay.decide import Histories
from pipeline.replay.partition import PartitionReplay, Place, ReplayedConversation
from pipeline.replay.why_not import Known


def find_in_lines(lines: Iterable[bytes], place: Place) -> Known:
    """Return what lines of events say about a conversation."""
    histories = Histories()
    rejected: Counter[str] = Counter()
    for line in lines:
        addressed = read_event(line)
        if isinstance(addressed, Rejected):
            if _place_of(line) == place:
                rejected[addressed.reason] += 1
        elif (addressed.tenant_id, addressed.conversation_id) == place:
            reason = histories.add(line)
            if reason is not None:
                rejected[reason.reason] += 1
    events = [event for _, _, history in histories for event in history]
    return Known(events, rejected)


def _place_of(line: bytes) -> Place | None:
    """Return the tenant and conversation that a line names, although it is not a valid event."""
    try:
        value = orjson.loads(line)
        return str(value["tenantid"]), str(value["subject"])
    except (ValueError, TypeError, KeyError):
        return None


def find_in_topic(
    settings: Settings, tenants: Tenants, place: Place, on_record: OnRecord = ignore_progress
) -> Known:
    """Return what the events topic and the dead letters say about a conversation.

    Reads the partitions where the known partitioners put the conversation, and all others only if
    these have no event of it.

    Args:
        settings: of the worker.
        tenants: whose policies and producers apply.
        place: the tenant and the conversation.
        on_record: called for each record of the events topic.

    Raises:
        ConfigurationError: a topic does not exist, or the broker rejects our credentials.
        UnavailableError: no broker responds.
    """
    key = ":".join(place).encode()
    topic = settings.topics.events
    with closing(TopicReader(librdkafka_options(settings.kafka), topic)) as events:
        events.on_damage = partial(decided_end, settings)
        committed = committed_offsets(settings.kafka, settings.worker.group, topic, events.bounds)
        # A dead letter is written before its record is committed, so all up to `committed` exist now.
        letters = [
            letter
            for letter in read_letters(settings, Selection(tenant_id=place[0]))
            if (letter.key == key or place_of(letter) == place)
            and letter.origin is not None
            and letter.origin[0] == topic
        ]
        parts: dict[int, ReplayedConversation] = {}
        for partitions in _in_order(settings, key, list(events.bounds)):
            replays = {
                partition: _replay_of(settings, tenants, partition, committed[partition], letters)
                for partition in partitions
            }
            begin = {partition: events.bounds[partition][0] for partition in partitions}
            size = sum(events.bounds[partition][1] - low for partition, low in begin.items())
            for number, message in enumerate(events.records(begin), 1):
                on_record(number, size)
                if message.key() == key:
                    replays[message.partition() or 0].take(
                        message.offset() or 0,
                        message.timestamp()[1],
                        key,
                        message.value(),
                        headers_of(message),
                    )
            for partition, replay in replays.items():
                for replayed in replay.conversations():
                    parts[partition] = replayed
            if parts:
                break
    return _known(parts, letters, events)


def _in_order(settings: Settings, key: bytes, partitions: list[int]) -> Iterator[list[int]]:
    """Yield the partitions that may have a key: the likely ones first."""
    enforced = settings.topics.partitioner
    if enforced != "observe":
        yield [partition_of(key, len(partitions), enforced)]
        return
    likely = {partition_of(key, len(partitions), each) for each in PARTITIONERS}
    yield sorted(likely)
    yield sorted(set(partitions) - likely)


def _replay_of(
    settings: Settings, tenants: Tenants, partition: int, committed: int, letters: list[Letter]
) -> PartitionReplay:
    topics = settings.topics

    def rejected_for(reason: str) -> set[int]:
        return {
            letter.origin[2]
            for letter in letters
            if letter.origin is not None and letter.origin[1] == partition
            if letter.reason == reason
        }

    return PartitionReplay(
        committed,
        tenants.timeline_for,
        tenants.key_ring(),
        settings.worker.seal_after_ms,
        unauthorized_offsets=rejected_for("not_authorized"),
        misplaced_offsets=rejected_for("wrong_partition"),
        key_check=KeyCheck(topics.partitioner, partition, topics.partitions),
    )


def _known(
    parts: dict[int, ReplayedConversation], letters: list[Letter], events: TopicReader
) -> Known:
    applied: list[Event] = []
    notes: list[str] = []
    if parts:
        partition, newest = max(parts.items(), key=lambda item: item[1].conversation.arrival_ms)
        applied = [event for _, event in newest.entries()]
        if len(parts) > 1:
            numbers = " and ".join(map(str, sorted(parts)))
            notes.append(
                f"It has events on the partitions {numbers} of {events.topic}, and each part is "
                f"decided by itself; this is the part on {partition}"
            )
        if not newest.is_committed:
            notes.append("The worker has not read its newest event yet")
    if any(low for low, _ in events.bounds.values()):
        notes.append(f"Retention has deleted the beginning of {events.topic}")
    accepted = {(event.source, event.id) for event in applied}
    rejected: dict[Identity | tuple[str, int, int] | None, str] = {}
    for letter in letters:
        identity = identity_of(letter)
        if identity is None or identity[1:] not in accepted:
            rejected[identity or letter.origin] = letter.reason or "unknown"
    return Known(applied, Counter(rejected.values()), tuple(notes))
