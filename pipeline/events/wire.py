"""Read the event of a Kafka record, and check the record's key and arrival. Pure. Memoised.

Ordinary events are decoded in C, into typed structs made from the table in `data`. All other events
go to `reader`, which accepts them or explains what is wrong.
"""

from typing import Annotated, Any, ClassVar, Literal, Union

import msgspec
from msgspec import Meta

from pipeline.events import hints, reader
from pipeline.events.data import DATA, Data, Identifier
from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    EVENT_BYTES_MAX,
    FUTURE_MS_MAX,
    SEQUENCE_CHARACTERS_MAX,
    TENANT_ID,
    TYPES,
    Addressed,
    Channel,
    Environment,
    Event,
    Headers,
    Rejected,
)
from pipeline.events.times import format_time, parse_canonical

# The headers that most producers send, as aiokafka gives them.
_STRUCTURED = [("content-type", b"application/cloudevents+json")]
_BACKSLASH = ord("\\")
_CE_PREFIXES = frozenset({"ce_", "CE_", "Ce_", "cE_"})
_Sequence = Annotated[str, Meta(max_length=SEQUENCE_CHARACTERS_MAX)]


class _Wire(msgspec.Struct, tag_field="type", kw_only=True, gc=False):
    """An event in JSON. `_wire_of` derives one class for each type."""

    rank: ClassVar[int]
    data: Any
    specversion: Literal["1.0"]
    id: Identifier
    source: Identifier
    subject: Identifier
    time: str
    tenant_id: str = msgspec.field(name="tenantid")
    channel: Channel = "messenger"
    environment: Environment = "live"
    sequence: _Sequence = ""


def _wire_of(rank: int, data: type[Data]) -> type[_Wire]:
    wire_class = msgspec.defstruct(
        f"{data.__name__}Wire",
        [("data", data)],
        bases=(_Wire,),
        namespace={"rank": rank},
        tag=TYPES[rank],
        kw_only=True,
        gc=False,
    )
    assert issubclass(wire_class, _Wire)
    return wire_class


_decode_wire = msgspec.json.Decoder(
    Union[tuple(_wire_of(rank, data) for rank, data in DATA.items())]  # noqa: UP007 - made from a table
).decode


def read_record(
    value: bytes | None, key: bytes | None, timestamp: int, headers: Headers = ()
) -> Addressed | Rejected:
    """Return the event of a record from the events topic, or why it is rejected; never raises.

    Args:
        value: the record's value.
        key: the record's key; it must be `<tenantid>:<subject>`.
        timestamp: when the record arrived, ms since the epoch.
        headers: the record's headers. The header `ce_specversion` means binary mode, unless the
            content type says that the value is a whole CloudEvent.
    """
    result = read_event(value, headers)
    if type(result) is Rejected:
        return result
    return check_record(result, key, timestamp) or result


def check_record(addressed: Addressed, key: bytes | None, timestamp: int) -> Rejected | None:
    """Return why an event does not match the key or the arrival of its record, or None."""
    expected = f"{addressed.tenant_id}:{addressed.conversation_id}".encode()
    if key != expected:
        given = "missing" if key is None else repr(key[:80].decode(errors="replace"))
        return Rejected(
            "key_mismatch",
            f"key is {given}; with this tenantid and subject it must be "
            f"{expected[:80].decode(errors='replace')!r}",
        )
    name, at = "time", addressed.event.at
    if addressed.event.last_answer_at is not None and addressed.event.last_answer_at > at:
        name, at = "data.last_answer_at", addressed.event.last_answer_at
    if at > timestamp + FUTURE_MS_MAX:
        return Rejected(
            "future_time",
            f"{name} {format_time(at)} is more than 5 minutes after the record arrived "
            f"({format_time(timestamp)}): check the producer's clock",
        )
    return None


def read_event(value: bytes | None, headers: Headers = ()) -> Addressed | Rejected:
    """Return the event in a record's value and headers, or why it is rejected; never raises."""
    if value is None:
        value = b""
    if len(value) > EVENT_BYTES_MAX:
        return Rejected("too_large", f"{len(value)} bytes; the limit is {EVENT_BYTES_MAX}")
    if headers and headers != _STRUCTURED:
        for name, _ in headers:
            if not name.isascii() and (unreadable := reader.unreadable_name(name)) is not None:
                return unreadable
        if any(name[:3] in _CE_PREFIXES for name, _ in headers):
            attributes = reader.binary_attributes(headers)
            if type(attributes) is Rejected:
                return attributes
            if attributes is not None:
                return reader.read_binary(attributes, value)
    try:
        wire = _decode_wire(value)
        if not value.isascii():
            value.decode()  # msgspec does not check the text of members that it ignores
        # An escaped NUL. Most values have no backslash, and the search for one byte is much faster.
        if _BACKSLASH in value and b"\\u0000" in value:
            return reader.read_structured(value)
        at, data = parse_canonical(wire.time), wire.data
        source = _sources.get(wire.source) or _memoised_source(wire.source)
        rank, channel, is_live = wire.rank, wire.channel, wire.environment == "live"
        # Arguments by position are much faster, and the two most frequent types build no dict.
        if rank == AI_MESSAGE:
            kind, billable = data.kind, data.billable
            event = Event(
                at, rank, source, wire.id, wire.sequence, channel, is_live, None, kind, billable
            )
        elif rank == CUSTOMER_MESSAGE:
            event = Event(at, rank, source, wire.id, wire.sequence, channel, is_live, data.intent)
        else:
            event = Event(
                at, rank, source, wire.id, wire.sequence, channel, is_live, **data.members()
            )
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _explained(reader.read_structured(value), headers)
    tenant_id = wire.tenant_id
    if tenant_id not in _tenants and not _is_tenant_id(tenant_id):
        return reader.read_structured(value)
    return Addressed(tenant_id, wire.subject, event)


def _explained(read: Addressed | Rejected, headers: Headers) -> Addressed | Rejected:
    """Add what the headers lack if the value is not an event: its producer may have meant binary mode."""
    if type(read) is not Rejected or read.reason not in {"not_cloudevents", "malformed_json"}:
        return read
    hint = hints.binary_meant(name for name, _ in headers)
    return Rejected(read.reason, f"{hint}; {read.detail}") if hint else read


# Memoised: the tenant ids that are known to be valid, and one string for all events of a source,
# which keeps more of a batch in the processor's cache. Neither changes a result.
_TENANTS_MAX = 100_000
_tenants: set[str] = set()
_SOURCES_MAX = 10_000
_sources: dict[str, str] = {}


def _is_tenant_id(text: str) -> bool:
    if not TENANT_ID.fullmatch(text):
        return False
    if len(_tenants) >= _TENANTS_MAX:
        _tenants.clear()
    _tenants.add(text)
    return True


def _memoised_source(source: str) -> str:
    if len(_sources) >= _SOURCES_MAX:
        _sources.clear()
    _sources[source] = source
    return source
