"""Read usage records and grants from lines of JSON. Pure.

docs/reference/money.md §5.1 has the members. Every line is checked: a problem names it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import fields

from pipeline.billing.grants import Credit, CreditNote, Goes, Grant, Pack, Void, entered_order
from pipeline.billing.money import read_amount
from pipeline.billing.periods import ALWAYS_MS, NEVER_MS
from pipeline.billing.units import Entered
from pipeline.decoding import json_decoder
from pipeline.events.hints import misspelt
from pipeline.events.times import parse_time

PriceOf = Callable[[str, str, str, int], "tuple[Decimal, str] | None"]

_Parsed = TypeVar("_Parsed")
_UNITS_MAX = 1_000_000_000
_MS_MAX = 253_402_300_800_000  # the year 10000
Time = str | int  # RFC 3339, or milliseconds since the epoch
_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a decimal number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_TIMES = ("occurred_at", "stored_at", "created_at", "starts_at", "ends_at", "of_period")


class RecordLine(msgspec.Struct, frozen=True, kw_only=True):
    """A usage record, of which a bill needs only a part, with when it was stored."""

    id: str
    tenant_id: str = msgspec.field(name="tenantid")
    outcome: str
    quantity: Literal[1, -1]
    occurred_at: Time
    stored_at: Time | None = None
    supersedes: str | None = None
    policy: str | None = None
    policy_version: int | None = None


class GrantLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of grants; members that its kind does not have are None."""

    kind: Literal["pack", "credit", "credit_note", "void"]
    created_at: Time
    account: str | None = None
    id: str | None = None
    starts_at: Time | None = None
    ends_at: Time | None = None
    outcomes: list[str] | None = None
    units: int | None = None
    price: str | None = None
    amount: str | None = None
    source: Literal["reallocated", "goodwill", "correction"] | None = None
    invoice: str | None = None
    of_period: Time | None = None
    goes: Goes | None = None
    grant: str | None = None
    takes: int | str | None = None


# --- records --------------------------------------------------------------------------------------


def read_record_lines(
    lines: Iterable[tuple[str, bytes]],
) -> tuple[list[tuple[str, RecordLine]], list[str]]:
    """Return the usage record of each line with the line's label, and the problems of the others."""
    return _read_lines(lines, RecordLine, "a usage record")


def entered_records(
    labelled: Iterable[tuple[str, RecordLine]], price_of: PriceOf, currency: str
) -> tuple[list[Entered], list[str]]:
    """Return the records as a bill sees them, and problems.

    The same record twice counts once. The price is that of the record's policy version, None if that
    has no price in the currency of the account.
    """
    problems: list[str] = []
    found: dict[str, tuple[str, RecordLine]] = {}
    entered: dict[str, Entered] = {}
    for label, line in labelled:
        record = _entered(line, price_of, currency)
        # One time may be written in several ways.
        if entered.setdefault(line.id, record) != record:
            problems.append(f"{label}: {line.id!r} is in {found[line.id][0]} with other content")
        found.setdefault(line.id, (label, line))
    return list(entered.values()), problems + _problems_of_reversals(found)


def _entered(line: RecordLine, price_of: PriceOf, currency: str) -> Entered:
    occurred_at = _ms(line.occurred_at)
    priced = None
    if line.policy is not None and line.policy_version is not None:
        priced = price_of(line.tenant_id, line.outcome, line.policy, line.policy_version)
    return Entered(
        id=line.id,
        tenant_id=line.tenant_id,
        outcome=line.outcome,
        quantity=line.quantity,
        occurred_at=occurred_at,
        stored_at=occurred_at if line.stored_at is None else _ms(line.stored_at),
        supersedes=line.supersedes,
        price=priced[0] if priced is not None and priced[1].lower() == currency else None,
        policy=line.policy,
        policy_version=line.policy_version,
    )


def _problems_of_reversals(found: Mapping[str, tuple[str, RecordLine]]) -> list[str]:
    problems: list[str] = []
    taken: dict[str, str] = {}
    for label, line in found.values():
        if line.supersedes is None:
            continue
        if line.quantity > 0:
            problems.append(f"{label}: {line.id!r} is a charge; only a record of -1 has supersedes")
            continue
        if line.supersedes in taken:
            other = taken[line.supersedes]
            problems.append(f"{label}: {line.supersedes!r} is taken back already, by {other}")
        taken[line.supersedes] = label
        if (charge := found.get(line.supersedes)) is None:
            continue
        named = (charge[1].quantity, charge[1].tenant_id, charge[1].outcome)
        if named != (1, line.tenant_id, line.outcome):
            problems.append(
                f"{label}: supersedes {line.supersedes!r} in {charge[0]}, which is not a charge of "
                "the same tenant and outcome"
            )
    return problems


# --- grants ---------------------------------------------------------------------------------------


def read_grant_lines(
    lines: Iterable[tuple[str, bytes]],
) -> tuple[list[tuple[str, GrantLine]], list[str]]:
    """Return the grant or void of each line with the line's label, and the problems of the others."""
    return _read_lines(lines, GrantLine, "a grant")


def time_ms(time: Time) -> int:
    """Return a time that a line has, ms."""
    return _ms(time)


def created_ms(line: GrantLine) -> int:
    """Return when a grant or a void entered, ms."""
    return _ms(line.created_at)


def entered_grants(
    parsed: Sequence[tuple[str, GrantLine]], account: str, currency: str
) -> tuple[list[Grant], list[str]]:
    """Return the grants of an account in the order in which they entered, and problems."""
    problems: list[str] = []
    labelled: list[tuple[str, Grant]] = []
    of_money = {line.id for _, line in parsed if line.kind in {"credit", "credit_note"}}
    for label, line in parsed:
        if line.account not in {None, account}:
            problems.append(
                f"{label}: account is {line.account!r}; the statement is of {account!r}"
            )
            continue
        try:
            labelled.append((label, _grant(line, currency, is_money=line.grant in of_money)))
        except ValueError as error:
            problems.append(f"{label}: {error}")
    labelled.sort(key=lambda each: entered_order(each[1]))
    entered: dict[str, Grant] = {}
    voids: dict[str, str] = {}
    for label, grant in labelled:
        if not isinstance(grant, Void):
            if grant.id in entered:
                problems.append(f"{label}: id {grant.id!r} is that of another grant of the account")
            entered[grant.id] = grant
        elif grant.grant in voids:
            problems.append(f"{label}: {grant.grant!r} is void already, by {voids[grant.grant]}")
        elif grant.grant not in entered:
            problems.append(f"{label}: no grant {grant.grant!r} was created before this void")
        else:
            voids[grant.grant] = label
    return [grant for _, grant in labelled], problems


def _grant(line: GrantLine, currency: str, *, is_money: bool) -> Grant:
    created_at = _ms(line.created_at)
    if line.kind == "void":
        return Void(
            grant=_needed("grant", line.grant),
            created_at=created_at,
            takes=_takes(line.takes, currency, is_money=is_money),
        )
    if line.kind == "credit_note":
        if line.of_period is None:
            raise ValueError("of_period: is missing")
        return CreditNote(
            id=_needed("id", line.id),
            created_at=created_at,
            amount=_amount("amount", line.amount, currency),
            invoice=_needed("invoice", line.invoice),
            of_period=_ms(line.of_period),
            goes=line.goes,
        )
    starts_at = ALWAYS_MS if line.starts_at is None else _ms(line.starts_at)
    ends_at = NEVER_MS if line.ends_at is None else _ms(line.ends_at)
    if ends_at <= starts_at:
        raise ValueError(f"ends_at {line.ends_at} is not after starts_at {line.starts_at}")
    grant_id = _needed("id", line.id)
    if line.kind == "credit":
        amount = _amount("amount", line.amount, currency)
        return Credit(
            id=grant_id, created_at=created_at, amount=amount, starts_at=starts_at, ends_at=ends_at
        )
    units, outcomes = _needed("units", line.units), _needed("outcomes", line.outcomes)
    if not 1 <= units <= _UNITS_MAX:
        raise ValueError(f"units: is {units}; it must be a whole number from 1 to {_UNITS_MAX}")
    if not outcomes:
        raise ValueError("outcomes: is empty; name the outcomes that the pack is for")
    if line.price is not None:
        _amount("price", line.price, currency)
    return Pack(
        id=grant_id,
        created_at=created_at,
        outcomes=frozenset(outcomes),
        units=units,
        starts_at=starts_at,
        ends_at=ends_at,
    )


def _takes(takes: int | str | None, currency: str, *, is_money: bool) -> int:
    if is_money:
        return _amount("takes", takes, currency)
    if not isinstance(takes, int) or not 0 <= takes <= _UNITS_MAX:
        raise ValueError(f"takes: is {takes!r}; it must be the number of units that were left")
    return takes


def _amount(key: str, value: object, currency: str) -> int:
    try:
        return read_amount(value, currency)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _needed(key: str, value: _Parsed | None) -> _Parsed:
    if value is None:
        raise ValueError(f"{key}: is missing")
    return value


# --- lines ----------------------------------------------------------------------------------------


def _read_lines(
    lines: Iterable[tuple[str, bytes]], form: type[_Parsed], what: str
) -> tuple[list[tuple[str, _Parsed]], list[str]]:
    decode = json_decoder(form)
    parsed: list[tuple[str, _Parsed]] = []
    problems: list[str] = []
    for label, line in lines:
        try:
            each = decode(line)
            _check_times(each)
            if form is GrantLine:
                _check_names(msgspec.json.decode(line))
            parsed.append((label, each))
        except msgspec.ValidationError as error:
            problems.append(f"{label}: is not {what}: {_in_words(str(error), form)}")
        except ValueError as error:  # also msgspec's error for what is not JSON
            problems.append(f"{label}: is not {what}: {error}")
    return parsed, problems


def _check_times(line: object) -> None:
    for name in _TIMES:
        time = getattr(line, name, None)
        if time is not None:
            try:
                _ms(time)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def _check_names(members: Mapping[str, object]) -> None:
    """Refuse a misspelt member: without its `starts_at`, a credit would always have worked."""
    for name, meant in misspelt(members, [field.name for field in fields(GrantLine)]):
        raise ValueError(f"{name}: is unknown; did you mean {meant!r}?")


def _in_words(error: str, form: type) -> str:
    """Say what msgspec found in the words of the other problems."""
    if match := re.fullmatch(r"Object missing required field `(\w+)`", error):
        return f"{match[1]}: is missing"
    if error.startswith("Expected `object`"):
        return "expected a JSON object"
    if match := re.fullmatch(r"(.+) - at `\$\.(\w+)(?:\[.*)?`", error):
        found, name = match.groups()
        field = next(field for field in fields(form) if field.encode_name == name)
        options = [str(each) for each in _options(field.type)]
        if options:
            return f"{name}: it must be one of {', '.join(options)}"
        if match := re.fullmatch(r"Expected `(.+)`, got `(\w+)`", found):
            wanted = [_KINDS.get(kind, kind) for kind in match[1].split(" | ") if kind != "null"]
            return f"{name}: is {_KINDS.get(match[2], match[2])}; it must be {' or '.join(wanted)}"
    return error


def _options(annotation: object) -> Iterator[object]:
    """Yield the values of a type's literals."""
    for each in get_args(annotation):
        if get_origin(each) is Literal:
            yield from get_args(each)
        elif get_origin(annotation) is Literal:
            yield each


def _ms(time: Time) -> int:
    if isinstance(time, str):
        return parse_time(time)
    if not 0 <= time < _MS_MAX:
        raise ValueError(f"the time {time} is not in milliseconds since 1970")
    return time
