"""Read dead letters: restore the rejected records, count, select and find them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple, TypeAlias

import msgspec
from confluent_kafka import Message

from pipeline.config import Settings
from pipeline.events.model import Headers
from pipeline.events.times import is_within
from pipeline.kafka.headers import read_dead_letter_headers
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.progress import OnRecord, ignore_progress

Position: TypeAlias = tuple[int, int]  # partition and offset in the dead-letter topic


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. `position` is its own place, `origin` the place of the rejected record.

    If headers are missing or unreadable, `reason` is empty or `origin` is None: a program other
    than resmeter wrote the dead letter.
    """

    position: Position
    at: int  # when it was written, ms
    reason: str
    detail: str
    origin: tuple[str, int, int] | None  # topic, partition, offset
    arrived: int | None  # when the rejected record arrived, ms
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # the headers of the rejected record
    redrives: int  # how often the record was sent again
    cut: str  # the parts that were too large to keep, and their bytes: "value=60000000"


class Selection(NamedTuple):
    """Select dead letters by reason (none: all reasons) and by the time when they were written."""

    reasons: frozenset[str] = frozenset()
    from_ms: int | None = None
    to_ms: int | None = None

    def contains(self, letter: Letter) -> bool:
        has_reason = not self.reasons or letter.reason in self.reasons
        return has_reason and is_within(letter.at, self.from_ms, self.to_ms)


class ReasonCount(msgspec.Struct):
    """Dead letters of one reason. Times in ms; the example is the detail of the newest."""

    letters: int = 0
    first: int = 0
    last: int = 0
    example: str = ""
    tenants: set[str] = msgspec.field(default_factory=set)
    position: Position = (0, 0)  # of the newest


def open_dead_letters(settings: Settings) -> closing[TopicReader]:
    """Open the dead-letter topic, as a context manager."""
    return closing(TopicReader(librdkafka_options(settings.kafka), settings.topics.dead_letters))


def read_letters(
    settings: Settings, selection: Selection, on_record: OnRecord = ignore_progress
) -> Iterator[Letter]:
    """Yield the dead letters of a selection, in the order of the topic.

    Raises:
        ConfigurationError: there is no such topic, or the broker rejects our credentials.
        UnavailableError: no broker answers.
    """
    with open_dead_letters(settings) as topic:
        for number, message in enumerate(topic.records(), 1):
            letter = letter_of(message)
            if selection.contains(letter):
                yield letter
            on_record(number, topic.size)


def find_letters(
    settings: Settings, positions: Iterable[Position]
) -> Iterator[tuple[Position, Letter | None]]:
    """Yield the dead letter at each position, or None where the topic has none.

    Raises:
        ConfigurationError: there is no such topic, or the broker rejects our credentials.
        UnavailableError: no broker answers.
    """
    with open_dead_letters(settings) as topic:
        for position in positions:
            yield position, _letter_at(topic, position)


def _letter_at(topic: TopicReader, position: Position) -> Letter | None:
    partition, offset = position
    low, high = topic.bounds.get(partition, (0, 0))
    if not low <= offset < high:
        return None
    message = next(topic.records({partition: offset}), None)
    return None if message is None or message.offset() != offset else letter_of(message)


def count_by_reason(letters: Iterable[Letter]) -> Mapping[str, ReasonCount]:
    """Count dead letters by reason; those without a reason count as `unknown`."""
    counts: dict[str, ReasonCount] = {}
    for letter in letters:
        count = counts.setdefault(letter.reason or "unknown", ReasonCount())
        count.letters += 1
        count.first = min(count.first or letter.at, letter.at)
        count.last = max(count.last, letter.at)
        count.example, count.position = letter.detail, letter.position
        count.tenants.add((letter.key or b"").partition(b":")[0].decode("utf-8", "replace"))
    return counts


def read_letter(
    position: Position, at: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Letter:
    """Return the dead letter in a record of the dead-letter topic. No record is an error."""
    parsed = read_dead_letter_headers(headers)
    return Letter(
        position,
        at,
        parsed.reason,
        parsed.detail,
        parsed.origin,
        parsed.arrived_ms,
        key,
        value,
        parsed.original,
        parsed.redrives,
        parsed.cut,
    )


def letter_of(message: Message) -> Letter:
    """Return the dead letter in a message of the dead-letter topic."""
    return read_letter(
        (message.partition() or 0, message.offset() or 0),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers_of(message),
    )
