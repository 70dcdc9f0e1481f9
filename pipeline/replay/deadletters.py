"""Read dead letters: restore the rejected records, count, select and find them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import repeat
from typing import NamedTuple, TypeAlias

import msgspec
import orjson
from confluent_kafka import Message

from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.events.model import Headers
from pipeline.events.times import is_within
from pipeline.kafka.headers import REDRIVES_HEADER, read_dead_letter_headers, redrives_in
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.progress import OnRecord, ignore_progress

FROM_EVENTS = "from the events topic"  # the reason is not known any more
Identity: TypeAlias = tuple[str, str, str]  # tenant, source, id
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
    """Dead letters of some reasons (empty: all), a time of writing, a tenant and a source."""

    reasons: frozenset[str] = frozenset()
    from_ms: int | None = None
    to_ms: int | None = None
    tenant_id: str | None = None
    source: str | None = None  # of the event, as CloudEvents names it

    def contains(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and is_within(letter.at, self.from_ms, self.to_ms)
            and (self.tenant_id is None or self.tenant_id in tenants_of(letter))
            and self.source in {None, source_of(letter)}
        )


class ReasonCount(msgspec.Struct):
    """Dead letters of one reason. Times in ms; the example is the detail of the newest."""

    letters: int = 0
    first: int = 0
    last: int = 0
    example: str = ""
    tenants: set[str] = msgspec.field(default_factory=set)
    position: Position = (0, 0)  # of the newest
    redriven: int = 0
    accepted: int = 0  # an event of the same source and id was accepted

    @property
    def open(self) -> int:
        return self.letters - self.redriven - self.accepted


def open_dead_letters(settings: Settings) -> closing[TopicReader]:
    """Open the dead-letter topic, as a context manager."""
    return closing(TopicReader(librdkafka_options(settings.kafka), settings.topics.dead_letters))


def read_letters(
    settings: Settings, selection: Selection, on_record: OnRecord = ignore_progress
) -> Iterator[Letter]:
    """Yield the dead letters of a selection, in the order of the topic.

    Raises:
        ConfigurationError: there is no such topic, or the broker rejects our credentials.
        UnavailableError: no broker responds.
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
        UnavailableError: no broker responds.
    """
    with open_dead_letters(settings) as topic:
        for position in positions:
            yield position, _letter_at(topic, position)


def read_originals(settings: Settings, origins: Iterable[Position]) -> Iterator[Letter]:
    """Yield records of the events topic as if each had a dead letter.

    Raises:
        ConfigurationError: the topic does not exist or has no such record, or the broker rejects us.
        UnavailableError: no broker responds.
    """
    name = settings.topics.events
    with closing(TopicReader(librdkafka_options(settings.kafka), name)) as topic:
        for partition, offset in origins:
            low, high = topic.bounds.get(partition, (0, 0))
            found = low <= offset < high
            message = next(topic.records({partition: offset}), None) if found else None
            if message is None or message.offset() != offset:
                raise ConfigurationError(
                    [
                        f"{name}[{partition}] has no record at offset {offset}: it has {low} to {high - 1}"
                    ]
                )
            yield _original(message, name)


def _original(message: Message, topic: str) -> Letter:
    position = (message.partition() or 0, message.offset() or 0)
    arrived = message.timestamp()[1]
    headers = headers_of(message)
    return Letter(
        position,
        arrived,
        FROM_EVENTS,
        "",
        (topic, *position),
        arrived,
        message.key(),
        message.value(),
        tuple(header for header in headers if header[0] != REDRIVES_HEADER),
        redrives_in(headers),
        "",
    )


def digest_of(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    """Return a digest of a record as its producer wrote it."""
    names = [(name.encode("utf-8", "surrogateescape"), content) for name, content in headers]
    return hashlib.sha256(msgspec.msgpack.encode((key, value, names))).digest()


def _letter_at(topic: TopicReader, position: Position) -> Letter | None:
    partition, offset = position
    low, high = topic.bounds.get(partition, (0, 0))
    if not low <= offset < high:
        return None
    message = next(topic.records({partition: offset}), None)
    return None if message is None or message.offset() != offset else letter_of(message)


def identity_of(letter: Letter) -> Identity | None:
    """Return tenant, source and id of a rejected event, where the record still shows them."""
    attributes = _attributes(letter)
    tenant, source, event_id = (attributes.get(name) for name in ("tenantid", "source", "id"))
    if isinstance(tenant, str) and isinstance(source, str) and isinstance(event_id, str):
        return tenant, source, event_id
    return None


def place_of(letter: Letter) -> tuple[str, str] | None:
    """Return tenant and conversation of a rejected event, where the record still shows them."""
    attributes = _attributes(letter)
    tenant, subject = attributes.get("tenantid"), attributes.get("subject")
    if isinstance(tenant, str) and isinstance(subject, str):
        return tenant, subject
    return None


def tenants_of(letter: Letter) -> set[str]:
    """Return the tenants that a rejected record names: its event's and its key's."""
    of_event = _attributes(letter).get("tenantid")
    of_key = (letter.key or b"").partition(b":")[0].decode("utf-8", "replace")
    return {named for named in (of_event, of_key) if isinstance(named, str) and named}


def source_of(letter: Letter) -> str:
    """Return the `source` of a rejected event, or nothing."""
    named = _attributes(letter).get("source")
    return named if isinstance(named, str) else ""


def _attributes(letter: Letter) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, content in letter.headers:
        if name.lower().startswith("ce_"):
            found[name.lower()[3:]] = (content or b"").decode("utf-8", "replace")
    try:
        value = orjson.loads(letter.value or b"")
    except ValueError:
        return found
    return {**value, **found} if isinstance(value, dict) else found


def count_by_reason(
    letters: Iterable[Letter], statuses: Iterable[str] | None = None
) -> Mapping[str, ReasonCount]:
    """Count dead letters by reason; those without a reason count as `unknown`."""
    counts: dict[str, ReasonCount] = {}
    for letter, status in zip(letters, statuses or repeat("open"), strict=False):
        count = counts.setdefault(letter.reason or "unknown", ReasonCount())
        count.letters += 1
        count.first = min(count.first or letter.at, letter.at)
        count.last = max(count.last, letter.at)
        count.example, count.position = letter.detail, letter.position
        count.tenants |= tenants_of(letter)
        count.redriven += status == "redriven"
        count.accepted += status == "accepted"
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
