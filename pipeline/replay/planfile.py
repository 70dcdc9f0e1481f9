"""The file of a rebill plan: JSON lines, for people and for `jq`. Pure.

The first line describes the plan and its totals; each further line corrects one conversation. The
plan's id is a digest of the whole file, so a file that was changed after the plan was made is
rejected.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from pipeline.catalog.entry import Amendment
from pipeline.catalog.prices import Billing
from pipeline.decoding import json_decoder
from pipeline.errors import ConfigurationError
from pipeline.events.times import format_time, parse_time
from pipeline.replay.corrections import Correctable, Correction
from pipeline.resolve.policy import Policy
from pipeline.usage.record import Origin, decode_record, encode_record

FORM = 2  # 1: without the catalog that the plan was made under, and never under another policy
_FORMS_READ = (1, 2)
_DIGITS = 16


class Total(msgspec.Struct, frozen=True):
    """The sums of a plan for one outcome of a tenant. Without a price, amounts are None."""

    tenant_id: str = msgspec.field(name="tenantid")
    outcome: str
    added: int
    removed: int
    amount_added: str | None
    amount_removed: str | None
    currency: str | None


class Candidate(msgspec.Struct, frozen=True):
    """The policy that a plan puts in the place of what was in force, and who planned it and why."""

    name: str
    version: int
    digest: str
    who: str
    reason: str
    terms: Policy

    @classmethod
    def of(cls, policy: Policy, who: str, reason: str) -> "Candidate":
        """Name a policy with a digest of all its terms."""
        digest = hashlib.sha256(msgspec.json.encode(policy)).hexdigest()[:_DIGITS]
        return cls(policy.name, policy.version, digest, who, reason, policy)


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `log`: partition → first offset read, and the offset after the last.

    `catalog`: number and digest of the entry that the plan was made under. `policy`: what replaces
    the policies in force between `from` and `to`, if anything does.
    """

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
    catalog: tuple[int, str] | msgspec.UnsetType = msgspec.UNSET
    policy: Candidate | msgspec.UnsetType = msgspec.UNSET

    @property
    def amendment(self) -> Amendment | None:
        """What applying the plan enters in the catalog."""
        if self.policy is msgspec.UNSET or self.from_ is None or self.to is None:
            return None
        return Amendment(
            self.policy.terms,
            parse_time(self.from_),
            parse_time(self.to),
            self.tenant,
            self.id,
            parse_time(self.made_at),
        )


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


_decode_header, _decode_conversation = json_decoder(Header), json_decoder(_Conversation)


class RebillPlan(NamedTuple):
    """What to correct, conversation by conversation."""

    header: Header
    conversations: tuple[Correctable, ...]


def totals(correctables: Iterable[Correctable], prices: Billing) -> tuple[Total, ...]:
    """Add up corrections by tenant, outcome and currency; sort the totals in that order."""
    sums: dict[tuple[str, str, str | None], list[Decimal | int]] = {}
    for part in correctables:
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


def encode_plan(
    header: Header, correctables: Sequence[Correctable], prices: Billing
) -> tuple[RebillPlan, bytes]:
    """Return the plan, with its id in the header, and the content of its file."""
    lines = [_encoded(part, prices) for part in correctables]
    header = msgspec.structs.replace(header, id=_digest(header, lines))
    content = b"".join(line + b"\n" for line in [msgspec.json.encode(header), *lines])
    return RebillPlan(header, tuple(correctables)), content


def decode_plan(name: str, content: bytes) -> RebillPlan:
    """Return the plan in a file's content. `name`: the file's name, for error messages.

    Raises:
        ConfigurationError: the content is not a plan, is of another format, or was changed.
    """
    first, *lines = content.splitlines() or [b""]
    try:
        header = _decode_header(first)
        if header.resmeter_plan not in _FORMS_READ:
            problem = (
                f"{name}: its format is {header.resmeter_plan}, this version reads up to {FORM}"
            )
            raise ConfigurationError([f"{problem}: make a new plan"])
        if _digest(header, lines) != header.id:
            raise ConfigurationError(
                [f"{name}: the file was changed after plan {header.id} was made: make a new plan"]
            )
        return RebillPlan(header, tuple(map(_decoded, lines)))
    except ValueError as error:
        raise ConfigurationError(
            [f"{name}: not a plan that `resmeter rebill plan` made: {error}"]
        ) from None


def _encoded(part: Correctable, prices: Billing) -> bytes:
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
    read = _decode_conversation(line)
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


def _price(correction: Correction, prices: Billing) -> tuple[Decimal, str] | None:
    record = correction.record
    return prices.price_for(record.tenant_id, record.outcome, record.policy, record.policy_version)


def offset_bounds(bounds: Mapping[int, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return partition → offsets in the form that the header has."""
    return {str(partition): (low, high) for partition, (low, high) in sorted(bounds.items())}
