"""The usage record, one unit charged or taken back, and its JSON. Pure."""

import msgspec

from pipeline.decoding import json_decoder
from pipeline.events.times import format_time, parse_time
from pipeline.resolve.values import Kind


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One unit of one outcome of one conversation (docs/reference/outcomes.md §4.4).

    The encoded form depends only on the log and the policies. The same events, read again, give the
    same bytes, so the ledger can recognise a record that it already has.

    `occurred_at` is in milliseconds since the epoch, UTC; in the JSON it is an RFC 3339 time.
    """

    id: str  # "<tenantid>:<conversation>:<n>", with n = 1, 2, 3 … in each conversation
    tenant_id: str
    conversation: str
    outcome: str
    quantity: int  # +1 or -1
    kind: Kind
    reason: str
    occurred_at: int
    policy: str
    policy_version: int
    evidence: tuple[str, ...]  # event ids
    supersedes: str | None = None  # on a -1: the id of the record that it takes back


class Origin(msgspec.Struct, frozen=True):
    """Where the evidence is in the log: topic, partition, and one offset for each event.

    An origin is written to the Kafka header `resmeter-origin`, not into the record, because the
    content of a record must not depend on where its conversation is stored.
    """

    topic: str
    partition: int
    offsets: tuple[int, ...]  # parallel to `UsageRecord.evidence`


class _Wire(msgspec.Struct, kw_only=True, gc=False):
    id: str
    tenant_id: str = msgspec.field(name="tenantid")
    conversation: str
    outcome: str
    quantity: int
    kind: Kind
    reason: str
    occurred_at: str
    policy: str
    policy_version: int
    evidence: tuple[str, ...]
    supersedes: str | None = None


_PARTITION_MAX, _OFFSET_MAX = 2**31 - 1, 2**63 - 1  # Kafka's
_encoder = msgspec.json.Encoder()
_decode = json_decoder(_Wire)
_decode_origin = json_decoder(Origin)


def encode_record(record: UsageRecord) -> bytes:
    """Return the record as JSON; equal records give equal bytes."""
    return _encoder.encode(
        _Wire(
            id=record.id,
            tenant_id=record.tenant_id,
            conversation=record.conversation,
            outcome=record.outcome,
            quantity=record.quantity,
            kind=record.kind,
            reason=record.reason,
            occurred_at=format_time(record.occurred_at),
            policy=record.policy,
            policy_version=record.policy_version,
            evidence=record.evidence,
            supersedes=record.supersedes,
        )
    )


def decode_record(value: bytes) -> UsageRecord:
    """Return the record that `encode_record` wrote.

    Raises:
        ValueError: the bytes are not a usage record; the message names the member.
    """
    wire = _decode(value)
    if wire.quantity not in {1, -1}:
        raise ValueError(f"quantity is {wire.quantity}, not +1 or -1 - at `$.quantity`")
    return UsageRecord(
        id=wire.id,
        tenant_id=wire.tenant_id,
        conversation=wire.conversation,
        outcome=wire.outcome,
        quantity=wire.quantity,
        kind=wire.kind,
        reason=wire.reason,
        occurred_at=parse_time(wire.occurred_at),
        policy=wire.policy,
        policy_version=wire.policy_version,
        evidence=wire.evidence,
        supersedes=wire.supersedes,
    )


def encode_origin(origin: Origin) -> bytes:
    """Return the value of the header `resmeter-origin`."""
    return _encoder.encode(origin)


def decode_origin(value: bytes) -> Origin:
    """Return the origin that `encode_origin` wrote.

    Raises:
        ValueError: the bytes are not an origin.
    """
    origin = _decode_origin(value)
    if not 0 <= origin.partition <= _PARTITION_MAX:
        raise ValueError(f"partition {origin.partition} is out of range")
    if not all(0 <= offset <= _OFFSET_MAX for offset in origin.offsets):
        raise ValueError("an offset is out of range")
    if "\0" in origin.topic:
        raise ValueError("the topic has a NUL character, and no topic of Kafka does")
    return origin
