"""Read policies: what bills, as TOML, in versions with effective dates; and the presets."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from typing import Any, TypeVar, get_args

from pipeline.errors import ConfigurationError
from pipeline.events.model import Cause, Channel
from pipeline.events.times import parse_time
from pipeline.resolve.policy import (
    HumanReply,
    Policy,
    Silence,
    Unit,
    UnknownIntent,
    WindowAnchor,
)

PRESETS = ("fin-2026", "zendesk-2026", "gorgias", "hubspot-2026", "confirmed-only")
DEFAULT = "fin-2026"
_ABSENT = "absent"  # how a file takes back what its base sets, as TOML has no null
_UNBOUNDED = "unbounded"
_PRICE_MAX = 1_000_000_000
_PRICE_DECIMALS_MAX = 12
_T = TypeVar("_T")

_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(text: object) -> int:
    """Return milliseconds for `"24h"`, `"7d"`, `"90m"`, `"30s"`.

    Raises:
        ValueError: naming what is wrong.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'{text!r} is not a duration such as "24h", "7d", "90m" or "30s"')
    return int(match[1]) * _UNITS_MS[match[2]]


def _one_of(literal: object) -> Callable[[object], Any]:
    choices = get_args(literal)

    def read(value: object) -> object:
        if value not in choices:
            raise ValueError(f"{value!r} is none of {', '.join(map(str, choices))}")
        return value

    return read


def _names_of(literal: object | None) -> Callable[[object], tuple[str, ...]]:
    choices = get_args(literal) if literal else None

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{value!r} is not a list of names")
        for name in value:
            if not isinstance(name, str) or not 1 <= len(name) <= 64:
                raise ValueError(f"{name!r} is not a name of 1 to 64 characters")
            if choices is not None and name not in choices:
                raise ValueError(f"{name!r} is none of {', '.join(choices)}")
        if len(set(value)) != len(value):
            raise ValueError("a name stands there twice")
        return tuple(value)

    return read


def _whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
        return value

    return read


def _or_absent(read: Callable[[object], int]) -> Callable[[object], int | None]:
    return lambda value: None if value == _ABSENT else read(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value, re.ASCII):
        raise ValueError(f"{value!r} is not a name: 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return value


def _time(value: object) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone: write {value.isoformat()}Z")
        try:
            return parse_time(value.astimezone(UTC).isoformat())
        except OverflowError:
            raise ValueError(f"{value} is out of range") from None
    if isinstance(value, str):
        return parse_time(value)
    raise ValueError(f"{value} is not a time such as 2026-01-01T00:00:00Z")


def _horizon(value: object) -> int | None:
    return None if value == _UNBOUNDED else parse_duration(value)


def _price(value: object) -> Decimal:
    # A float in TOML was written as a decimal: its shortest text is what was meant.
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"{value!r} is not a decimal such as 0.99")
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a decimal such as 0.99") from None
    if not price.is_finite() or not 0 <= price <= _PRICE_MAX:
        raise ValueError(f"{value!r} is not an amount from 0 to {_PRICE_MAX}")
    if int(price.as_tuple().exponent) < -_PRICE_DECIMALS_MAX:
        raise ValueError(f"{value!r} has more than {_PRICE_DECIMALS_MAX} decimals")
    return price


def _currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]{3}", value):
        raise ValueError(f'{value!r} is not a currency such as "usd"')
    return value


_KEYS: dict[str, Callable[[object], Any]] = {
    "name": _name,
    "version": _whole(1, 1_000_000),
    "effective_from": _time,
    "unit": _one_of(Unit),
    "window_anchor": _one_of(WindowAnchor),
    "silence": _one_of(Silence),
    "human_reply": _one_of(HumanReply),
    "human_request_sticky": _truth,
    "unknown_intent": _one_of(UnknownIntent),
    "handoff_causes_billed": _names_of(Cause),
    "outcomes_billed": _names_of(None),
    "precedence": _names_of(None),
    "reversible": _names_of(None),
    "reversal_horizon": _horizon,
    "csat_reverses_below": _or_absent(_whole(2, 5)),
    "csat_confirms_from": _or_absent(_whole(1, 5)),
    "spam_grace": parse_duration,
    "grace": parse_duration,
    "currency": _currency,
}
_WINDOW_KEYS = ("default", *get_args(Channel))


def read_policies(texts: Mapping[str, str]) -> list[Policy]:
    """Return the policy in each TOML text; `base` may name a preset or another of them.

    Args:
        texts: TOML by the name that errors shall use, such as a file's.

    Raises:
        ConfigurationError: with every problem of every text.
    """
    problems: list[str] = []
    raw: dict[str, dict[str, Any]] = {}
    for label, text in texts.items():
        try:
            raw[label] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{label}: not TOML: {error}")
    policies: list[Policy] = []
    for label in raw:
        try:
            policies.append(_read(label, raw))
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigurationError(problems)
    return policies


def _read(label: str, raw: Mapping[str, dict[str, Any]]) -> Policy:
    problems: list[str] = []
    merged: dict[str, Any] = {}
    for source, table in _chain(label, raw, problems):
        _merge(merged, table, source, problems if source == label else [])
    if problems:
        raise ConfigurationError(problems)
    missing = [key for key in Policy.__struct_fields__ if key not in merged]
    if missing:
        raise ConfigurationError([f"{label}: {key}: is absent" for key in missing])
    return Policy(**merged)


def _chain(
    label: str, raw: Mapping[str, dict[str, Any]], problems: list[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables that a policy rests on, the deepest base first.

    Where a base is wrong it ends there, and whatever else is wrong can be told: by the file whose
    it is.
    """
    by_name: dict[str, tuple[str, dict[str, Any]]] = {}
    for other, table in raw.items():
        if isinstance(table.get("name"), str):
            by_name.setdefault(table["name"], (other, table))
            by_name[f"{table['name']}@{table.get('version')}"] = (other, table)
    chain = [(label, raw[label])]
    while True:
        source, table = chain[0]
        base = table.get("base", None if source == DEFAULT else DEFAULT)
        if base is None:
            return chain
        if isinstance(base, str) and base in PRESETS:
            found = (base, _preset_table(base))
        elif isinstance(base, str) and base in by_name:
            found = by_name[base]
        else:
            if source == label:
                others = {name for name, (other, _) in by_name.items() if other != label}
                known = ", ".join(sorted({*PRESETS, *others}))
                problems.append(f"{source}: base: {base!r} is none of {known}")
            return [(DEFAULT, _preset_table(DEFAULT)), *chain]
        if found[0] in (entry[0] for entry in chain):
            if found[0] == label:
                problems.append(f"{label}: base: {table['base']!r} rests on itself")
            return [(DEFAULT, _preset_table(DEFAULT)), *chain]
        chain.insert(0, found)


def _merge(
    merged: dict[str, Any], table: Mapping[str, Any], label: str, problems: list[str]
) -> None:
    merged.setdefault("csat_reverses_below", None)
    merged.setdefault("csat_confirms_from", None)
    for key, value in table.items():
        if key == "base":
            continue
        if key == "window":
            merged["window"] = merged.get("window", {}) | _entries(
                value, label, key, parse_duration, _WINDOW_KEYS, problems
            )
        elif key == "price":
            merged["price"] = merged.get("price", {}) | _entries(
                value, label, key, _price, None, problems
            )
        elif key in _KEYS:
            try:
                merged[key] = _KEYS[key](value)
            except ValueError as error:
                problems.append(f"{label}: {key}: {error}")
        else:
            problems.append(f"{label}: {key}: {_unknown(key, [*_KEYS, 'window', 'price', 'base'])}")


def _entries(
    value: object,
    label: str,
    key: str,
    read: Callable[[object], _T],
    known: Sequence[str] | None,
    problems: list[str],
) -> dict[str, _T]:
    if not isinstance(value, dict):
        problems.append(f"{label}: {key}: {value!r} is not a table: write [{key}]")
        return {}
    entries: dict[str, _T] = {}
    for name, entry in value.items():
        if known is not None and name not in known:
            problems.append(f"{label}: {key}.{name}: {_unknown(name, known)}")
            continue
        try:
            entries[name] = read(entry)
        except ValueError as error:
            problems.append(f"{label}: {key}.{name}: {error}")
    return entries


def _unknown(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"is no key of a policy{f'; did you mean {close[0]}?' if close else ''}"


@cache
def _preset_text(name: str) -> str:
    return (resources.files("pipeline.catalog") / "presets" / f"{name}.toml").read_text("utf-8")


@cache
def _preset_table(name: str) -> dict[str, Any]:
    return tomllib.loads(_preset_text(name))


@cache
def preset(name: str) -> Policy:
    """Return a shipped policy.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigurationError([f"policy: {name!r} is none of {', '.join(PRESETS)}"])
    return read_policies({name: _preset_text(name)})[0]
