"""List dead letters with their status: read their topic, then the events topic from the first one on."""

from collections.abc import Iterator
from contextlib import closing

from pipeline.config import Settings
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import Letter, Selection, read_letters
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
    arrivals = [letter.at if letter.arrived is None else letter.arrived for letter in letters]
    if not letters:
        return [], []
    records = _records_since(settings, min(arrivals), on_record)
    return letters, statuses(letters, everything, records)


def _records_since(settings: Settings, from_ms: int, on_record: OnRecord) -> Iterator[Arrived]:
    topic = settings.topics.events
    with closing(TopicReader(librdkafka_options(settings.kafka), topic)) as reader:
        begin = reader.offsets_at(from_ms)
        for number, message in enumerate(reader.records(begin), 1):
            place = (topic, message.partition() or 0, message.offset() or 0)
            yield Arrived(place, message.key(), message.value(), headers_of(message))
            on_record(number, reader.size)
