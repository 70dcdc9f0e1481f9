"""Read contracts from TOML: what outcomes cost an account (docs/reference/money.md §2.1). Pure.

A file has one version of a contract, or several: a list `versions`, whose tables have what differs
from the keys above them.
"""

import tomllib
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

from pipeline.billing.contract import CapAction, Contract, Terms, Tier
from pipeline.billing.money import minor_units
from pipeline.billing.periods import ALWAYS_MS, HOUR_MS
from pipeline.catalog.entry import ContractVersion
from pipeline.catalog.toml_values import (
    Parse,
    invalid,
    one_of,
    parse_currency,
    parse_instant,
    parse_name,
    parse_price,
    parse_truth,
    parse_whole,
    unknown_key,
)
from pipeline.errors import ConfigurationError
from pipeline.events.model import TENANT_ID

_UNITS_MAX = 1_000_000_000
_OUTCOME_CHARACTERS_MAX = 64

_Table = dict[str, Any]


# --- values ---------------------------------------------------------------------------------------


def _currency(value: object) -> str:
    return parse_currency(value.lower() if isinstance(value, str) else value)


def _account(value: object) -> str:
    if not isinstance(value, str) or not TENANT_ID.fullmatch(value):
        raise invalid(value, "1 to 128 characters of A-Z a-z 0-9 . _ -")
    return value


def _anchor(value: object) -> int:
    anchor_ms = parse_instant(value)
    if anchor_ms % HOUR_MS:
        raise invalid(str(value), "a time on the whole hour, such as 2026-01-01T00:00:00Z")
    return anchor_ms


def _tiers(value: object) -> tuple[Tier, ...]:
    example = "a list such as [{ up_to = 100, price = 0.99 }, { price = 0.50 }]"
    if not isinstance(value, list) or not value:
        raise invalid(value, example)
    tiers: list[Tier] = []
    for number, tier in enumerate(value, 1):
        if not isinstance(tier, dict):
            raise invalid(value, example)
        if unknown := tier.keys() - {"up_to", "price"}:
            name = min(unknown)
            raise ValueError(f"{name}: {unknown_key(name, ['up_to', 'price'])}")
        if "price" not in tier:
            raise ValueError(f"tier {number} has no price")
        is_last = number == len(value)
        if ("up_to" in tier) == is_last:
            raise ValueError("the last tier has no up_to, and each tier before it has one")
        lowest = (tiers[-1].up_to or 0) + 1 if tiers else 1
        up_to = None if is_last else parse_whole(lowest, _UNITS_MAX)(tier["up_to"])
        tiers.append(Tier(up_to, parse_price(tier["price"])))
    return tuple(tiers)


def _alerts(value: object) -> tuple[Decimal, ...]:
    if not isinstance(value, list):
        raise invalid(value, "a list of shares such as [0.5, 0.8, 1.0]")
    shares = tuple(parse_price(share) for share in value)
    if not all(0 < share <= 1 for share in shares):
        raise invalid(value, "a list of shares above 0 and up to 1")
    return shares


def _of_outcomes(parse: Parse) -> Parse:
    """Parse a table whose keys are outcomes."""

    def parse_table(value: object) -> _Table:
        if not isinstance(value, dict):
            raise invalid(value, "a table of outcomes")
        problems: list[str] = []
        parsed: _Table = {}
        for outcome, each in value.items():
            try:
                parsed[outcome] = parse(each)
            except ValueError as error:
                problems.append(f"{outcome}: {error}")
            if not 1 <= len(outcome) <= _OUTCOME_CHARACTERS_MAX:
                problems.append(f"{outcome}: an outcome has 1 to 64 characters")
        if problems:
            raise ValueError("; ".join(problems))
        return parsed

    return parse_table


_units = parse_whole(0, _UNITS_MAX)
_KEYS: dict[str, Parse] = {
    "name": parse_name,
    "account": _account,
    "version": parse_whole(1, 1_000_000),
    "effective_from": parse_instant,
    "currency": _currency,
    "alerts": _alerts,
    "prorate": parse_truth,
    "price": _of_outcomes(lambda value: (Tier(None, parse_price(value)),)),
    "tiers": _of_outcomes(_tiers),
    "included": _of_outcomes(_units),
}
_TABLES: dict[str, dict[str, Parse]] = {
    "period": {"anchor": _anchor},
    "cap": {"units": _units, "amount": parse_price, "action": one_of(CapAction)},
    "minimum": {"amount": parse_price},
}
# The fields of `Terms` that take a key's value as it is.
_FIELDS = {
    "effective_from": "effective_from",
    "period.anchor": "anchor_ms",
    "included": "included",
    "cap.units": "cap_units",
    "cap.action": "cap_action",
    "alerts": "alerts",
    "prorate": "prorate",
}


# --- files ----------------------------------------------------------------------------------------


def read_contract(
    texts: Mapping[str, str], of_policies: Collection[str], account: str | None = None
) -> Contract:
    """Return the contract whose versions are in TOML texts; without any, policies price all units.

    Args:
        texts: the texts, by the label that errors show, such as the file's path.
        of_policies: the currencies of the policies that price units. A contract that names no
            currency has theirs.
        account: whose contract it is; a text that names another account is refused.

    Raises:
        ConfigurationError: with the problems of all texts.
    """
    parsed, problems = _parse(texts)
    named = {label: table["account"] for label, table in parsed.items() if "account" in table}
    whose = account or next(iter(named.values()), None)
    problems += [
        f"{label}: account: is {each!r}; the statement is of {whose!r}"
        for label, each in named.items()
        if each != whose
    ]
    currency, terms, problems_of_terms = _versions(parsed, of_policies)
    problems += problems_of_terms
    if problems:
        raise ConfigurationError(problems)
    names = [table.get("account") or table.get("name") for table in parsed.values()]
    return Contract(
        currency, list(terms.values()) or [Terms()], account=next(filter(None, names), None)
    )


def read_contracts(
    texts: Mapping[str, str], of_policies: Callable[[str], Collection[str]]
) -> dict[str, tuple[ContractVersion, ...]]:
    """Return the versions of each contract by its name, as the catalog has them.

    Args:
        texts: the texts, by the label that errors show.
        of_policies: returns the currencies of the policies under which a contract's units are.

    Raises:
        ConfigurationError: with the problems of all texts.
    """
    parsed, problems = _parse(texts)
    by_name: dict[str, dict[str, _Table]] = {}
    for label, table in parsed.items():
        missing = [key for key in ("name", "version", "effective_from") if key not in table]
        problems += [f"{label}: {key}: is missing" for key in missing]
        if "account" in table:
            problems.append(
                f"{label}: account: in a catalog, the tenant file says who has the contract: write "
                f'[accounts.{table["account"]}] contract = "{table.get("name", "NAME")}" there'
            )
        if not missing:
            by_name.setdefault(table["name"], {})[label] = table
    contracts: dict[str, tuple[ContractVersion, ...]] = {}
    for name, tables in by_name.items():
        labels: dict[int, str] = {}
        for label, table in tables.items():
            if (number := table["version"]) in labels:
                problems.append(
                    f"{label}: version {number} of {name!r} already exists in {labels[number]}: "
                    "change its name or its version"
                )
            labels[number] = label
        currency, terms, problems_of_terms = _versions(tables, of_policies(name))
        problems += problems_of_terms
        contracts[name] = tuple(
            ContractVersion(name, tables[label]["version"], currency, version)
            for label, version in terms.items()
        )
    if problems:
        raise ConfigurationError(problems)
    return contracts


def _parse(texts: Mapping[str, str]) -> tuple[dict[str, _Table], list[str]]:
    """Return the values of each version by its label, and the problems of all."""
    problems: list[str] = []
    tables: dict[str, _Table] = {}
    for label, text in texts.items():
        try:
            tables |= _tables_in(label, tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{label}: is not valid TOML: {error}")
        except ValueError as error:
            problems.append(f"{label}: versions: {error}")
    parsed: dict[str, _Table] = {}
    for label, table in tables.items():
        parsed[label], problems_of_table = _parse_table(label, table)
        problems += problems_of_table
    return parsed, problems


def _versions(
    parsed: Mapping[str, _Table], of_policies: Collection[str]
) -> tuple[str, dict[str, Terms], list[str]]:
    """Return currency and terms of one contract's versions, and the problems of both."""
    problems: list[str] = []
    named = {table["currency"] for table in parsed.values() if "currency" in table}
    currency, *others = sorted(named or of_policies)
    if others:
        whose = "all versions have the same" if named else "name the account's: the policies differ"
        problems.append(
            f"{' and '.join(parsed) or 'contract'}: currency: is {currency} and {', '.join(others)}; "
            f"{whose}"
        )
    versions: dict[int, str] = {}
    terms: dict[str, Terms] = {}
    for label, table in parsed.items():
        from_ms = table.get("effective_from", ALWAYS_MS)
        if from_ms in versions:
            problems.append(
                f"{label}: effective_from: is that of {versions[from_ms]} too; each version has its own"
            )
        versions[from_ms] = label
        version, problems_of_terms = _terms(label, table, currency)
        if version is not None:
            terms[label] = version
        problems += problems_of_terms
    return currency, terms, problems


def _tables_in(label: str, table: _Table) -> dict[str, _Table]:
    if "versions" not in table:
        return {label: table}
    versions = table.pop("versions")
    if not isinstance(versions, list) or not versions or not all(map(_is_table, versions)):
        raise invalid(versions, "a list of tables: write [[versions]]")
    return {f"{label}: versions[{n}]": table | each for n, each in enumerate(versions, 1)}


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _parse_table(label: str, table: _Table) -> tuple[_Table, list[str]]:
    """Return the valid values, those of a table by `table.key`, and the problems of the others."""
    values: _Table = {}
    problems: list[str] = []

    def parse(key: str, value: object, parser: Parse) -> None:
        try:
            values[key] = parser(value)
        except ValueError as error:
            problems.append(f"{label}: {key}: {error}")

    for key, value in table.items():
        if key in _KEYS:
            parse(key, value, _KEYS[key])
        elif key not in _TABLES:
            problems.append(f"{label}: {key}: {unknown_key(key, [*_KEYS, *_TABLES])}")
        elif not isinstance(value, dict):
            problems.append(f"{label}: {key}: is {value!r}; it must be a table: write [{key}]")
        else:
            for name, each in value.items():
                if name in _TABLES[key]:
                    parse(f"{key}.{name}", each, _TABLES[key][name])
                else:
                    unknown = unknown_key(name, list(_TABLES[key]))
                    problems.append(f"{label}: {key}.{name}: {unknown}")
    return values, problems


def _terms(label: str, values: _Table, currency: str) -> tuple[Terms | None, list[str]]:
    """Return a version with its amounts in minor units, or the problems that it has as a whole."""
    problems: list[str] = []
    minor: dict[str, int] = {}
    for key in ("cap.amount", "minimum.amount"):
        if key in values:
            try:
                minor[key] = minor_units(values[key], currency)
            except ValueError as error:
                problems.append(f"{label}: {key}: {error}")
    prices, tiers = values.get("price", {}), values.get("tiers", {})
    problems += [
        f"{label}: tiers.{outcome}: the outcome has a price as well; write one of the two"
        for outcome in sorted(prices.keys() & tiers.keys())
    ]
    cap, minimum = values.get("cap.amount"), values.get("minimum.amount")
    first_prices = [of[0].price for of in (*prices.values(), *tiers.values())]
    if cap is not None and first_prices and cap < min(first_prices):
        problems.append(
            f"{label}: cap.amount: is {cap}, below the first price {min(first_prices)}: no unit "
            "would ever be charged"
        )
    if minimum is not None and cap is not None and minimum > cap:
        problems.append(f"{label}: minimum.amount: is {minimum}, above cap.amount, which is {cap}")
    if minimum and "effective_from" not in values:
        problems.append(
            f"{label}: effective_from: is missing; a contract with a minimum needs it, because the "
            "minimum is owed from then on"
        )
    if problems:
        return None, problems
    terms = Terms(
        tiers={**prices, **tiers},
        cap_amount=minor.get("cap.amount"),
        minimum=minor.get("minimum.amount", 0),
        **{field: values[key] for key, field in _FIELDS.items() if key in values},
    )
    return terms, []
