"""Write events from lines of JSON to the events topic, and check each event first."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import orjson

from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.events.model import Rejected
from pipeline.events.reader import hints_for
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.events.wire import check_record, read_event
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.topics import TopicAdmin
from pipeline.kafka.writer import TopicWriter
from pipeline.progress import OnRecord, ignore_progress

Line: TypeAlias = tuple[str, int, bytes]  # file, line number from 1, content
# Without the key's length and the headers, which the record needs too. A broker takes a million bytes.
_SENDABLE_BYTES_MAX = 950_000
_HEADERS: list[tuple[str, bytes]] = [("content-type", b"application/cloudevents+json")]


class Signer(NamedTuple):
    """A producer's key, and its id in the tenant file."""

    key_id: str
    key: Key


class Produced(NamedTuple):
    """How many events were acknowledged, and how many lines were rejected."""

    sent: int
    rejected: int


def produce_lines(
    settings: Settings,
    lines: Iterable[Line],
    *,
    by_event_time: bool = True,
    is_checked: bool = True,
    signer: Signer | None = None,
    on_rejected: Callable[[str, int, Rejected], object],
    on_interrupted: Callable[[int], object],
    on_record: OnRecord = ignore_progress,
    on_hint: Callable[[str, int, str], object] | None = None,
) -> Produced:
    """Write lines to the events topic, and wait until the broker has acknowledged all of them.

    Args:
        settings: broker and topics.
        lines: the lines, with file and line number.
        by_event_time: give each record its event's time; otherwise, or if the event is from the
            future, it gets the current time.
        is_checked: skip lines that a worker would reject. Otherwise skip only lines that are too
            large for a Kafka record.
        signer: signs each record; lines of tenants that the key may not write for are rejected.
        on_rejected: called with file, line number and reason of each line that is skipped.
        on_interrupted: called with the number of acknowledged events if reading a line fails or the
            user interrupts.
        on_record: called for each event sent.
        on_hint: called with file, line number and hint for each member that seems to be misspelt.

    Raises:
        UnavailableError: the topic does not exist, or not everything was acknowledged.
    """
    topic = settings.topics.events
    if topic not in TopicAdmin(settings).existing():
        raise UnavailableError(f"there is no topic {topic}: run `resmeter topics create`")
    sent = rejected = 0
    partitioner = settings.topics.producers_partitioner
    with TopicWriter(librdkafka_options(settings.kafka), topic, partitioner) as writer:
        try:
            for file, number, line in lines:
                key, event_ms, reason = _check(line, int(time.time() * 1000))
                if reason is None and signer is not None:
                    reason = _check_signer(key, signer)
                is_sendable = len(line) + len(key or b"") <= _SENDABLE_BYTES_MAX
                if reason is not None and (is_checked or not is_sendable):
                    rejected += 1
                    on_rejected(file, number, reason)
                    continue
                if on_hint is not None and reason is None:
                    for hint in hints_for(line):
                        on_hint(file, number, hint)
                headers = _HEADERS if signer is None else _signed_headers(signer, key, line)
                # A producer's clock may be ahead: the broker takes no time that is far in the future.
                is_past = event_ms is not None and event_ms <= time.time() * 1000
                timestamp = event_ms if by_event_time and is_past else None
                if not writer.write(key, line, headers, timestamp):
                    break
                sent += 1
                on_record(sent, None)
        except BaseException:
            writer.flush()
            on_interrupted(writer.acknowledged)
            raise
    return Produced(sent, rejected)


def _check(line: bytes, now: int) -> tuple[bytes | None, int | None, Rejected | None]:
    """Return the key and time (ms) of a line's event, and why a worker would reject it."""
    addressed = read_event(line)
    if not isinstance(addressed, Rejected):
        key = f"{addressed.tenant_id}:{addressed.conversation_id}".encode()
        # Compare the event's time with now, whichever timestamp its record will get: an event from
        # the future is always rejected.
        return key, addressed.event.at, check_record(addressed, key, now)
    try:
        value = orjson.loads(line)
        return f"{value['tenantid']}:{value['subject']}".encode(), None, addressed
    except (ValueError, TypeError, KeyError):
        return None, None, addressed


def _check_signer(key: bytes | None, signer: Signer) -> Rejected | None:
    tenant_id = (key or b"").decode().partition(":")[0]
    if signer.key.tenants is None or tenant_id in signer.key.tenants:
        return None
    return Rejected(
        "not_authorized", f"the key {signer.key_id!r} may not write for tenant {tenant_id!r}"
    )


def _signed_headers(signer: Signer, key: bytes | None, line: bytes) -> list[tuple[str, bytes]]:
    signature = sign(signer.key_id, signer.key.secret, key, line, _HEADERS)
    return [*_HEADERS, (SIGNATURE_HEADER, signature)]
