"""List dead letters, and their status: read their topic, and what they need of the events topic."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

from pipeline.config import Settings
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.partitioners import PARTITIONERS, partition_of
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import Letter, Selection, identity_of, place_of, read_letters
from pipeline.replay.letter_status import Arrived, Status, statuses


def letters_with_status(
    settings: Settings, selection: Selection, on_record: OnRecord = ignore_progress
) -> tuple[list[Letter], list[Status]]:
    """Return the dead letters of a selection, in the order of the topic, and the status of each.

    Raises:
        ConfigurationError: a topic does not exist, or the broker rejects us.
        UnavailableError: no broker responds.
    """
    everything = list(read_letters(settings, Selection(), on_record))
    letters = [letter for letter in everything if selection.contains(letter)]
    if not letters:
        return [], []
    return letters, statuses(letters, everything, _records_for(settings, letters, on_record))


def needed_since(letters: Iterable[Letter], partitions: int) -> Mapping[int, int]:
    """Return the partitions that can decide the status of dead letters, and from which time (ms).

    A record that was sent again has the key of the dead letter, and a corrected event the key of
    its conversation. Where the dead letter does not show the key, any partition may have the record.
    """
    since: dict[int, int] = {}
    for letter in letters:
        place = place_of(letter)
        needed = set(range(partitions))
        if letter.key and (place is not None or identity_of(letter) is None):
            keys = {letter.key} if place is None else {letter.key, ":".join(place).encode()}
            needed = {partition_of(key, partitions, each) for key in keys for each in PARTITIONERS}
        arrived = letter.at if letter.arrived is None else letter.arrived
        for partition in needed:
            since[partition] = min(arrived, since.get(partition, arrived))
    return since


def _records_for(
    settings: Settings, letters: Iterable[Letter], on_record: OnRecord
) -> Iterator[Arrived]:
    topic = settings.topics.events
    with closing(TopicReader(librdkafka_options(settings.kafka), topic)) as reader:
        begin = reader.offsets_at(needed_since(letters, len(reader.bounds)))
        size = sum(reader.bounds[number][1] - offset for number, offset in begin.items())
        for number, message in enumerate(reader.records(begin), 1):
            place = (topic, message.partition() or 0, message.offset() or 0)
            yield Arrived(place, message.key(), message.value(), headers_of(message))
            on_record(number, size)
