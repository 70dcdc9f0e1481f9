"""Send dead letters to the events topic again, where today's rules accept them."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.events.model import Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import read_record
from pipeline.kafka.headers import REDRIVES_HEADER
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.writer import TopicWriter
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import Letter, Selection, read_letters

REDRIVES_MAX = 5  # a record that was rejected this often is rejected for a reason that stays
OTHER_REASON = "other reason"
DUPLICATE = "duplicate dead letter of the same record"
REJECTED_SINCE = "sent again and rejected again; its newest dead letter is used"
OVER_LIMIT = "over the limit"
# Nothing is lost by leaving these: another dead letter is sent instead, or they were not asked for.
NOT_LEFT = frozenset({OTHER_REASON, DUPLICATE, REJECTED_SINCE})
# The record alone does not show whether these hold: that depends on the conversation.
_OF_CONVERSATIONS = frozenset({"conversation_too_long", "too_late"})


class Redriven(NamedTuple):
    """How many dead letters were sent (or would be), and why others were left, and how many."""

    sent: int
    left: Counter[str]

    @property
    def is_complete(self) -> bool:
        """Nothing that was asked for is left."""
        return not self.left.keys() - NOT_LEFT


class Verdict(NamedTuple):
    """Whether a dead letter is sent again."""

    letter: Letter
    why_not: str  # empty: it is sent


def redrive(
    settings: Settings,
    tenants: Tenants,
    selection: Selection,
    *,
    records_per_second: float,
    limit: int | None,
    apply: bool,
    on_record: OnRecord = ignore_progress,
) -> Redriven:
    """Send the dead letters of a selection again; without `apply`, say which would be sent.

    Args:
        settings: broker and topics.
        tenants: whose producers sign events.
        selection: which dead letters.
        records_per_second: how fast to send, at most.
        limit: how many to send, at most.
        apply: send them.
        on_record: called for each dead letter read, then for each record sent.

    Raises:
        ConfigurationError: a topic is not there, or a producer's key cannot be read.
        UnavailableError: no broker answers, or it did not acknowledge everything.
    """
    keys = load_keys(tenants.producers)
    now = int(time.time() * 1000)
    left: Counter[str] = Counter()
    chosen: list[Letter] = []
    # All reasons are read: a record may have a dead letter of another one as well.
    letters = read_letters(settings, selection._replace(reasons=frozenset()), on_record)
    for letter, why_not in judge(letters, selection.reasons, now, keys):
        if not why_not and (limit is None or len(chosen) < limit):
            chosen.append(letter)
        else:
            left[why_not or OVER_LIMIT] += 1
    if apply:
        _send(settings, chosen, records_per_second, on_record)
    return Redriven(len(chosen), left)


def _send(
    settings: Settings, letters: Sequence[Letter], records_per_second: float, on_record: OnRecord
) -> None:
    started = time.monotonic()
    with TopicWriter(librdkafka_options(settings.kafka), settings.topics.events) as writer:
        for number, letter in enumerate(letters):
            # Without the old timestamp: the record arrives now. Otherwise a worker would measure a
            # window that is long over by a clock that has moved on.
            if not writer.write(letter.key, letter.value, redriven_headers(letter)):
                return
            due = number / records_per_second - (time.monotonic() - started)
            writer.poll(max(0.0, due))
            on_record(number + 1, len(letters))


def judge(
    letters: Iterable[Letter],
    reasons: frozenset[str],
    now: int,
    keys: Mapping[str, Key] | None = None,
) -> Iterator[Verdict]:
    """Say for each dead letter whether to send it again.

    A record is sent once, however many dead letters it has. A record that was sent again and
    rejected again is sent as its newest dead letter, which carries the count. What today's rules
    would reject stays where it is.

    Args:
        letters: in the order of the topic.
        reasons: only these; none means all that the record alone can decide.
        now: when the records would arrive, ms.
        keys: of producers, where signatures are required.
    """
    listed = [(letter, _digest(letter)) for letter in letters]
    redrives: dict[bytes, int] = {}
    for letter, digest in listed:
        redrives[digest] = max(letter.redrives, redrives.get(digest, 0))
    seen: set[tuple[str, int, int]] = set()
    for letter, digest in listed:
        why_not = _why_not(letter, reasons, now, seen, keys)
        if not why_not and letter.redrives < redrives[digest]:
            why_not = REJECTED_SINCE
        yield Verdict(letter, why_not)
        if letter.origin is not None:
            seen.add(letter.origin)


def redriven_headers(letter: Letter) -> list[tuple[str, bytes | None]]:
    """Return the headers of the record to send: its own, and how often it was sent again."""
    return [*letter.headers, (REDRIVES_HEADER, str(letter.redrives + 1).encode())]


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
        return OTHER_REASON
    if letter.origin in seen:
        return DUPLICATE
    if letter.cut:
        return "too large to be kept whole; only the events topic has the original"
    if letter.redrives >= REDRIVES_MAX:
        return f"already sent again {letter.redrives} times"
    if letter.reason in _OF_CONVERSATIONS and letter.reason not in reasons:
        return "depends on its conversation; to send it, select its reason"
    decoded = read_record(letter.value, letter.key, now, letter.headers)
    if keys and not isinstance(decoded, Rejected):
        decoded = (
            verify(keys, decoded.tenant_id, letter.key, letter.value, letter.headers) or decoded
        )
    return f"would be rejected again: {decoded.reason}" if isinstance(decoded, Rejected) else ""
