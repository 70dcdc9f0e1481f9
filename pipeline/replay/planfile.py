"""This file is the form in which a plan lies on disk: JSON lines, to be read by people and by `jq`.

The first line says what the plan is and what it comes to, each other line corrects one
conversation. The plan's id is a digest of all of it: a file that was changed is refused.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from pipeline.catalog.prices import Prices
from pipeline.errors import ConfigurationError
from pipeline.events.times import format_time, parse_time
from pipeline.replay.corrections import Correctable, Correction
from pipeline.usage.record import Origin, decode_record, encode_record

FORM = 1
_DIGITS = 16


class Total(msgspec.Struct, frozen=True):
    """What a plan comes to for a tenant's outcome; amounts are null where there is no price."""

    tenant_id: str = msgspec.field(name="tenantid")
    outcome: str
    added: int
    removed: int
    amount_added: str | None
    amount_removed: str | None
    currency: str | None


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `log`: partition → the offsets that were read, from and to."""

    resmeter_plan: int
    id: str = ""
    made_at: str
    tenant: str | None
    from_: str | None = msgspec.field(name="from")
    to: str | None
    topic: str
    log: dict[str, tuple[int, int]]
    conversations: int
    unsettled: int
    unjudged: int
    totals: tuple[Total, ...]


class _Line(msgspec.Struct, frozen=True):
    record: msgspec.Raw
    origin: Origin
    of: str
    amount: str | None
    currency: str | None


class _Conversation(msgspec.Struct, frozen=True):
    tenant_id: str = msgspec.field(name="tenantid")
    conversation: str
    why: str
    basis: str
    corrections: tuple[_Line, ...]


class Plan(NamedTuple):
    header: Header
    conversations: tuple[Correctable, ...]


def totals(found: Iterable[Correctable], prices: Prices) -> tuple[Total, ...]:
    """Add up by tenant, outcome and currency, in that order."""
    sums: dict[tuple[str, str, str | None], list[Decimal | int]] = {}
    for part in found:
        for correction in part.corrections:
            record = correction.record
            price = _price(correction, prices)
            place = (record.tenant_id, record.outcome, None if price is None else price[1])
            entry = sums.setdefault(place, [0, 0, Decimal(0), Decimal(0)])
            side = 0 if record.quantity > 0 else 1
            entry[side] += 1
            if price is not None:
                entry[2 + side] += price[0]
    return tuple(
        Total(
            tenant_id,
            outcome,
            int(added),
            int(removed),
            None if currency is None else format(amount_added, "f"),
            None if currency is None else format(amount_removed, "f"),
            currency,
        )
        for (tenant_id, outcome, currency), (
            added,
            removed,
            amount_added,
            amount_removed,
        ) in sorted(sums.items(), key=lambda item: tuple(map(str, item[0])))
    )


def write_plan(header: Header, found: Sequence[Correctable], prices: Prices) -> tuple[str, bytes]:
    """Return the plan's id, and the file."""
    lines = [_encoded(part, prices) for part in found]
    identity = _digest(header, lines)
    first = msgspec.json.encode(msgspec.structs.replace(header, id=identity))
    return identity, b"".join(line + b"\n" for line in [first, *lines])


def read_plan(name: str, content: bytes) -> Plan:
    """Return what `write_plan` wrote.

    Raises:
        ConfigurationError: it is no plan, or it was changed.
    """
    first, *lines = content.splitlines() or [b""]
    try:
        header = msgspec.json.decode(first, type=Header)
        if header.resmeter_plan != FORM:
            raise ConfigurationError([f"{name}: is of form {header.resmeter_plan}, not {FORM}"])
        if _digest(header, lines) != header.id:
            raise ConfigurationError(
                [f"{name}: was changed since plan {header.id} was made: make a new plan"]
            )
        return Plan(header, tuple(map(_decoded, lines)))
    except ValueError as error:
        raise ConfigurationError(
            [f"{name}: is no plan of `resmeter rebill plan`: {error}"]
        ) from None


def _encoded(part: Correctable, prices: Prices) -> bytes:
    lines = []
    for correction in part.corrections:
        price = _price(correction, prices)
        quantity = correction.record.quantity
        lines.append(
            _Line(
                msgspec.Raw(encode_record(correction.record)),
                correction.origin,
                format_time(correction.of),
                None if price is None else format(price[0] * quantity, "f"),
                None if price is None else price[1],
            )
        )
    return msgspec.json.encode(
        _Conversation(part.tenant_id, part.conversation, part.why, part.basis, tuple(lines))
    )


def _decoded(line: bytes) -> Correctable:
    read = msgspec.json.decode(line, type=_Conversation)
    return Correctable(
        read.tenant_id,
        read.conversation,
        read.basis,
        read.why,
        tuple(
            Correction(decode_record(bytes(each.record)), each.origin, parse_time(each.of))
            for each in read.corrections
        ),
    )


def _digest(header: Header, lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(header, id="")))
    for line in lines:
        digest.update(b"\n" + line)
    return digest.hexdigest()[:_DIGITS]


def _price(correction: Correction, prices: Prices) -> tuple[Decimal, str] | None:
    record = correction.record
    return prices.price_for(record.tenant_id, record.outcome, record.policy, record.policy_version)


def bounds(of: Mapping[int, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return partitions and their offsets as the header has them."""
    return {str(number): (low, high) for number, (low, high) in sorted(of.items())}
