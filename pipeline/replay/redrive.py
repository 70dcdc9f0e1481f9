"""Send dead letters to the events topic again, where today's rules accept them."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.events.model import Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import read_record
from pipeline.kafka.headers import REDRIVES_CLAIMED_MAX, REDRIVES_HEADER
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.writer import TopicWriter
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.deadletters import (
    Letter,
    Position,
    Selection,
    digest_of,
    read_letters,
    read_originals,
)

REDRIVES_MAX = 5  # a record that was rejected this often will not be accepted
OTHER_REASON = "other reason"
DUPLICATE = "duplicate dead letter of the same record"
REJECTED_SINCE = "sent again and rejected again; its newest dead letter is used"
OVER_LIMIT = "over the limit"
# These need not be sent: another dead letter is sent instead, or they were not selected.
NOT_LEFT = frozenset({OTHER_REASON, DUPLICATE, REJECTED_SINCE})
# Whether a record is rejected for one of these reasons depends on its conversation too.
_OF_CONVERSATIONS = frozenset({"conversation_too_long", "too_late"})


class Redriven(NamedTuple):
    """How many dead letters were sent (or would be), and how many were left, by cause."""

    sent: int
    left: Counter[str]

    @property
    def is_complete(self) -> bool:
        """Whether no selected record is left."""
        return not self.left.keys() - NOT_LEFT


class Verdict(NamedTuple):
    """Whether to send a dead letter again."""

    letter: Letter
    why_not: str  # empty: send it


def redrive(
    settings: Settings,
    tenants: Tenants,
    selection: Selection,
    *,
    origins: Sequence[Position] = (),
    records_per_second: float,
    limit: int | None,
    apply: bool,
    on_record: OnRecord = ignore_progress,
) -> Redriven:
    """Send the selected dead letters again; without `apply`, only count them.

    Args:
        settings: broker and topics.
        tenants: the tenants, whose producers sign events.
        selection: which dead letters to send.
        origins: partitions and offsets in the events topic. If there are any, send these records
            instead, with or without a dead letter: retention may have deleted theirs.
        records_per_second: how fast to send, at most.
        limit: how many to send, at most.
        apply: whether to send them.
        on_record: called for each dead letter read, then for each record sent.

    Raises:
        ConfigurationError: a topic does not exist, or a producer's key cannot be read.
        UnavailableError: no broker responds, or it did not acknowledge everything.
    """
    now = int(time.time() * 1000)
    keys = tenants.key_ring().at(now)
    left: Counter[str] = Counter()
    chosen: list[Letter] = []
    # Read all reasons: a record may have another dead letter with another reason.
    letters: Iterable[Letter] = (
        read_originals(settings, origins)
        if origins
        else read_letters(settings, selection._replace(reasons=frozenset()), on_record)
    )
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
    topics = settings.topics
    options = librdkafka_options(settings.kafka)
    with TopicWriter(options, topics.events, topics.producers_partitioner) as writer:
        for number, letter in enumerate(letters):
            # Without the old timestamp, so that the record arrives now. With it, the window that the
            # event opens might be over already, as windows end in arrival time.
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
    """Decide for each dead letter whether to send it again.

    A record is sent once, even if it has several dead letters. If a record was sent again and
    rejected again, its newest dead letter is sent, which has the count. Records that today's rules
    would reject are left.

    A producer can write any count into its record. So a count only puts the dead letters of a record
    in order: the record was sent again at most as often as it has dead letters with lower counts.

    Args:
        letters: dead letters in the order of the topic.
        reasons: send only these; none means all reasons that depend on the record alone.
        now: when the records would arrive, ms.
        keys: keys of the producers, if signatures are required.
    """
    listed = [(letter, digest_of(letter.key, letter.value, letter.headers)) for letter in letters]
    counts: dict[bytes, set[int]] = {}
    for letter, digest in listed:
        counts.setdefault(digest, set()).add(letter.redrives)
    seen: set[tuple[str, int, int]] = set()
    for letter, digest in listed:
        redrives = sum(count < letter.redrives for count in counts[digest])
        why_not = _why_not(letter, reasons, now, seen, keys, redrives)
        if not why_not and letter.redrives < max(counts[digest]):
            why_not = REJECTED_SINCE
        yield Verdict(letter, why_not)
        if letter.origin is not None:
            seen.add(letter.origin)


def redriven_headers(letter: Letter) -> list[tuple[str, bytes | None]]:
    """Return the headers of the record to send: its own, and the number of its redrives."""
    count = min(letter.redrives + 1, REDRIVES_CLAIMED_MAX)
    return [*letter.headers, (REDRIVES_HEADER, str(count).encode())]


def _why_not(
    letter: Letter,
    reasons: frozenset[str],
    now: int,
    seen: set[tuple[str, int, int]],
    keys: Mapping[str, Key] | None,
    redrives: int,
) -> str:
    if letter.origin is None or not letter.reason:
        return "not written by resmeter"
    if reasons and letter.reason not in reasons:
        return OTHER_REASON
    if letter.origin in seen:
        return DUPLICATE
    if letter.cut:
        return "too large to be kept whole; only the events topic has the original"
    if redrives >= REDRIVES_MAX:
        return f"already sent again {redrives} times"
    if letter.reason in _OF_CONVERSATIONS and letter.reason not in reasons:
        return "depends on its conversation; to send it, select its reason"
    decoded = read_record(letter.value, letter.key, now, letter.headers)
    if keys and not isinstance(decoded, Rejected):
        decoded = (
            verify(keys, decoded.tenant_id, letter.key, letter.value, letter.headers) or decoded
        )
    return f"would be rejected again: {decoded.reason}" if isinstance(decoded, Rejected) else ""
