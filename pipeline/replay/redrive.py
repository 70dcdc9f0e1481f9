"""This file reads dead letters back into what they were, and says which would be taken now. Pure."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from pipeline.events.model import Headers, Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import read_record
from pipeline.kafka.headers import REDRIVES_HEADER, read_dead_letter_headers

REDRIVES_MAX = 5  # what was refused so often is refused for a reason that stays
ANOTHER_REASON = "another reason"
WRITTEN_TWICE = "written twice"
REFUSED_SINCE = "sent again, and refused again: its newest dead letter stands for it"
# Another one goes in its place, or none was meant.
NOT_LEFT = frozenset({ANOTHER_REASON, WRITTEN_TWICE, REFUSED_SINCE})
# What reading alone cannot see: whether it holds now depends on the conversation.
_OF_CONVERSATIONS = frozenset({"conversation_too_long", "too_late"})


class Letter(msgspec.Struct, frozen=True):
    """A dead letter. `place` is where it lies, `origin` where the record was; both as topic's ends.

    Where headers are missing or unreadable, `reason` is empty and `origin` None: somebody else
    wrote it.
    """

    place: tuple[int, int]  # partition, offset
    at: int  # when it was written, ms
    reason: str
    detail: str
    origin: tuple[str, int, int] | None  # topic, partition, offset
    arrived: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # those that the record came with
    redrives: int
    cut: str  # of what parts only a beginning is here


def read_letter(
    place: tuple[int, int], at: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Letter:
    """Return the dead letter in a record of the dead-letter topic; never raises."""
    read = read_dead_letter_headers(headers)
    return Letter(
        place,
        at,
        read.reason,
        read.detail,
        read.origin,
        read.arrived_ms,
        key,
        value,
        read.original,
        read.redrives,
        read.cut,
    )


class Verdict(NamedTuple):
    """Whether a dead letter is sent again; why not, where it is not."""

    letter: Letter
    why_not: str  # empty: it is sent


def judge(
    letters: Iterable[Letter],
    reasons: frozenset[str],
    now: int,
    keys: Mapping[str, Key] | None = None,
) -> Iterator[Verdict]:
    """Say of each dead letter whether it goes into the events topic again.

    Each record goes once, however often its dead letter was written; one that was refused again goes
    as its newest dead letter, which knows how often that was. What would be refused today is left
    where it is.

    Args:
        letters: in the order of the topic.
        reasons: those alone; none means all that can be judged here.
        now: the time at which they would arrive, ms.
        keys: of producers, where signatures are asked for.
    """
    listed = [(letter, _digest(letter)) for letter in letters]
    sent: dict[bytes, int] = {}
    for letter, content in listed:
        sent[content] = max(letter.redrives, sent.get(content, 0))
    seen: set[tuple[str, int, int]] = set()
    for letter, content in listed:
        why_not = _why_not(letter, reasons, now, seen, keys)
        if not why_not and letter.redrives < sent[content]:
            why_not = REFUSED_SINCE
        yield Verdict(letter, why_not)
        if letter.origin is not None:
            seen.add(letter.origin)


def _digest(letter: Letter) -> bytes:
    record = (letter.key, letter.value, letter.headers)
    return hashlib.sha256(msgspec.msgpack.encode(record)).digest()


def _why_not(
    letter: Letter,
    reasons: frozenset[str],
    now: int,
    seen: set[tuple[str, int, int]],
    keys: Mapping[str, Key] | None,
) -> str:
    if letter.origin is None or not letter.reason:
        return "not written by resmeter"
    if reasons and letter.reason not in reasons:
        return ANOTHER_REASON
    if letter.origin in seen:
        return WRITTEN_TWICE
    if letter.cut:
        return "cut: the original is in the events topic alone"
    if letter.redrives >= REDRIVES_MAX:
        return f"sent again {letter.redrives} times already"
    if letter.reason in _OF_CONVERSATIONS and letter.reason not in reasons:
        return "depends on its conversation: name it with --reason"
    found = read_record(letter.value, letter.key, now, letter.headers)
    if keys and not isinstance(found, Rejected):
        found = verify(keys, found.tenant_id, letter.key, letter.value, letter.headers) or found
    return f"refused again: {found.reason}" if isinstance(found, Rejected) else ""


def headers_again(letter: Letter) -> list[tuple[str, bytes | None]]:
    """Return the headers of the record that is sent again: its own, and how often it was."""
    return [*letter.headers, (REDRIVES_HEADER, str(letter.redrives + 1).encode())]


def counts(letters: Iterable[Letter]) -> Mapping[str, "Count"]:
    """Return what there is of each reason."""
    found: dict[str, Count] = {}
    for letter in letters:
        count = found.setdefault(letter.reason or "unknown", Count())
        count.letters += 1
        count.first = min(count.first or letter.at, letter.at)
        count.last = max(count.last, letter.at)
        count.example, count.place = letter.detail, letter.place
        count.tenants.add((letter.key or b"").partition(b":")[0].decode("utf-8", "replace"))
    return found


class Count(msgspec.Struct):
    """Dead letters of one reason. Times in ms; the example is the newest."""

    letters: int = 0
    first: int = 0
    last: int = 0
    example: str = ""
    tenants: set[str] = msgspec.field(default_factory=set)
    place: tuple[int, int] = (0, 0)  # of the newest: partition, offset
