"""Read policies from TOML: policy files and the presets.

A file sets keys of `pipeline.resolve.policy.Policy` (docs/reference/outcomes.md §2.1). A key that it
leaves out comes from its `base`: a preset or another file, and finally the default preset.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

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
_ABSENT = "absent"  # unsets a value of the base, because TOML has no null
_UNBOUNDED = "unbounded"
_PRICE_MAX = 1_000_000_000
_PRICE_DECIMALS_MAX = 12
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_Table = dict[str, Any]  # a TOML table
_Parse = Callable[[object], Any]  # raises ValueError; its text continues `file: key: `


# --- values ---------------------------------------------------------------------------------------


def _invalid(value: object, expected: str) -> ValueError:
    return ValueError(f"is {value!r}; it must be {expected}")


def parse_duration(text: object) -> int:
    """Return the milliseconds of a duration such as `"24h"`, `"7d"`, `"90m"` or `"30s"`.

    Raises:
        ValueError: the message shows the text and the expected form.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _invalid(text, 'a duration such as "24h", "7d", "90m" or "30s"')
    return int(match[1]) * _UNITS_MS[match[2]]


def _one_of(literal: object) -> _Parse:
    choices = get_args(literal)

    def parse(value: object) -> object:
        if value not in choices:
            raise _invalid(value, f"one of {', '.join(choices)}")
        return value

    return parse


def _names(choices: Sequence[str] | None = None) -> _Parse:
    """Parse a list of names. With `choices`, each name must be one of them."""

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise _invalid(value, 'a list of names, such as ["resolution"]')
        for name in value:
            if not isinstance(name, str) or not 1 <= len(name) <= 64:
                raise ValueError(f"has {name!r}; a name has 1 to 64 characters")
            if choices is not None and name not in choices:
                raise ValueError(f"has {name!r}; each name must be one of {', '.join(choices)}")
            if value.count(name) > 1:
                raise ValueError(f"duplicate name {name!r}")
        return tuple(value)

    return parse


def _whole(lowest: int, highest: int) -> _Parse:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise _invalid(value, f"a whole number from {lowest} to {highest}")
        return value

    return parse


def _or_absent(parse: _Parse) -> _Parse:
    return lambda value: None if value == _ABSENT else parse(value)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(value, "true or false")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value, re.ASCII):
        raise _invalid(value, "1 to 64 characters of A-Z a-z 0-9 . _ -")
    return value


def parse_instant(value: object) -> int:
    """Return the milliseconds of a TOML time with a zone, or of an RFC 3339 text.

    Raises:
        ValueError: the message says what is wrong.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"has no time zone: write {value.isoformat()}Z")
        try:
            return parse_time(value.astimezone(UTC).isoformat())
        except OverflowError:
            raise ValueError(f"{value} is out of range") from None
    if isinstance(value, str):
        return parse_time(value)
    if value is None:
        raise ValueError("is missing; it must be a time such as 2026-01-01T00:00:00Z")
    raise ValueError(f"is {value}; it must be a time such as 2026-01-01T00:00:00Z")


def _horizon(value: object) -> int | None:
    return None if value == _UNBOUNDED else parse_duration(value)


def _price(value: object) -> Decimal:
    # The TOML reader returns 0.1 as a float, whose shortest text is the decimal in the file.
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _invalid(value, "a decimal such as 0.99")
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        raise _invalid(value, "a decimal such as 0.99") from None
    if not price.is_finite() or not 0 <= price <= _PRICE_MAX:
        raise _invalid(value, f"an amount from 0 to {_PRICE_MAX}")
    if int(price.as_tuple().exponent) < -_PRICE_DECIMALS_MAX:
        raise ValueError(f"is {value!r}; it may have at most {_PRICE_DECIMALS_MAX} decimals")
    return price


def _currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]{3}", value):
        raise _invalid(value, 'a currency such as "usd"')
    return value


_KEYS: dict[str, _Parse] = {
    "name": _name,
    "version": _whole(1, 1_000_000),
    "effective_from": parse_instant,
    "unit": _one_of(Unit),
    "window_anchor": _one_of(WindowAnchor),
    "silence": _one_of(Silence),
    "human_reply": _one_of(HumanReply),
    "human_request_sticky": _truth,
    "unknown_intent": _one_of(UnknownIntent),
    "handoff_causes_billed": _names(get_args(Cause)),
    "outcomes_billed": _names(),
    "precedence": _names(),
    "reversible": _names(),
    "reversal_horizon": _horizon,
    "csat_reverses_below": _or_absent(_whole(2, 5)),
    "csat_confirms_from": _or_absent(_whole(1, 5)),
    "spam_grace": parse_duration,
    "grace": parse_duration,
    "currency": _currency,
}
# Tables are merged with those of the base. Each has a parser for its values, and its possible keys
# (None: any key).
_TABLES: dict[str, tuple[_Parse, Sequence[str] | None]] = {
    "window": (parse_duration, ("default", *get_args(Channel))),
    "price": (_price, None),
}


# --- files ----------------------------------------------------------------------------------------


def read_policies(texts: Mapping[str, str]) -> list[Policy]:
    """Return the policy in each TOML text; `base` may name a preset or another of the texts.

    Args:
        texts: the TOML texts, by the label that errors show, such as the file's path.

    Raises:
        ConfigurationError: with the problems of all texts.
    """
    problems: list[str] = []
    tables: dict[str, _Table] = {}
    for label, text in texts.items():
        try:
            tables[label] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{label}: is not valid TOML: {error}")
    policies: list[Policy] = []
    for label in tables:
        try:
            policies.append(_policy(label, tables))
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigurationError(problems)
    return policies


def _policy(label: str, tables: Mapping[str, _Table]) -> Policy:
    problems: list[str] = []
    try:
        chain = _chain(label, tables)
    except ValueError as error:
        problems.append(f"{label}: base: {error}")
        chain = [(DEFAULT, _preset_table(DEFAULT)), (label, tables[label])]
    merged: _Table = {"csat_reverses_below": None, "csat_confirms_from": None}
    for source, table in chain:
        values, problems_of_table = _parse_table(source, table)
        if source == label:  # the problems of a base are reported for the base
            problems += problems_of_table
        merged |= {
            key: merged.get(key, {}) | value if key in _TABLES else value
            for key, value in values.items()
        }
    problems = problems or [
        f"{label}: {key}: is missing" for key in Policy.__struct_fields__ if key not in merged
    ]
    if problems:
        raise ConfigurationError(problems)
    return Policy(**merged)


def _chain(label: str, tables: Mapping[str, _Table]) -> list[tuple[str, _Table]]:
    """Return the tables that a policy is merged from, the deepest base first.

    If a base has a wrong base itself, the chain ends there: that error is reported for that file.

    Raises:
        ValueError: the policy's own base is wrong.
    """
    by_name: dict[str, tuple[str, _Table]] = {}
    for other, table in tables.items():
        if isinstance(table.get("name"), str):
            by_name.setdefault(table["name"], (other, table))
            by_name[f"{table['name']}@{table.get('version')}"] = (other, table)
    chain = [(label, tables[label])]
    while True:
        source, table = chain[0]
        base = table.get("base", None if source == DEFAULT else DEFAULT)
        if base is None:
            return chain
        if isinstance(base, str) and base in PRESETS:
            source_of_base = (base, _preset_table(base))
        elif isinstance(base, str) and base in by_name:
            source_of_base = by_name[base]
        elif source == label:
            others = {name for name, (other, _) in by_name.items() if other != label}
            raise _invalid(base, f"one of {', '.join(sorted({*PRESETS, *others}))}")
        else:
            break
        if source_of_base[0] == label:
            raise ValueError(f"cycle: {tables[label]['base']!r} is based on this policy")
        if source_of_base[0] in (name for name, _ in chain):
            break
        chain.insert(0, source_of_base)
    return [(DEFAULT, _preset_table(DEFAULT)), *chain]


def _parse_table(label: str, table: _Table) -> tuple[_Table, list[str]]:
    """Return the valid values of a policy's table, and the problems of the others."""
    values: _Table = {}
    problems: list[str] = []
    for key, value in table.items():
        if key in _TABLES:
            values[key], problems_of_entries = _parse_entries(
                f"{label}: {key}", value, *_TABLES[key]
            )
            problems += problems_of_entries
        elif key in _KEYS:
            try:
                values[key] = _KEYS[key](value)
            except ValueError as error:
                problems.append(f"{label}: {key}: {error}")
        elif key != "base":
            problems.append(f"{label}: {key}: {_unknown(key, [*_KEYS, *_TABLES, 'base'])}")
    return values, problems


def read_policy(name_or_file: str) -> Policy:
    """Return one policy, by the name of a preset or from a file.

    Raises:
        ConfigurationError: there is no such policy, or it is not valid.
    """
    if name_or_file in PRESETS:
        return preset(name_or_file)
    try:
        text = Path(name_or_file).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(PRESETS)
        raise ConfigurationError(
            [f"policy: {name_or_file!r} is neither a preset ({known}) nor a file: {error}"]
        ) from None
    return read_policies({name_or_file: text})[0]


def _parse_entries(
    where: str, table: object, parse: _Parse, keys: Sequence[str] | None
) -> tuple[_Table, list[str]]:
    if not isinstance(table, dict):
        key = where.rpartition(": ")[2]
        return {}, [f"{where}: is {table!r}; it must be a table: write [{key}]"]
    values: _Table = {}
    problems: list[str] = []
    for key, value in table.items():
        if keys is not None and key not in keys:
            problems.append(f"{where}.{key}: {_unknown(key, keys)}")
            continue
        try:
            values[key] = parse(value)
        except ValueError as error:
            problems.append(f"{where}.{key}: {error}")
    return values, problems


def _unknown(key: str, keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, keys, 1)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "")


# --- presets --------------------------------------------------------------------------------------


@cache
def _preset_text(name: str) -> str:
    return (resources.files("pipeline.catalog") / "presets" / f"{name}.toml").read_text("utf-8")


@cache
def _preset_table(name: str) -> _Table:
    return tomllib.loads(_preset_text(name))


@cache
def preset(name: str) -> Policy:
    """Return the policy of a preset.

    Raises:
        ConfigurationError: no preset has this name.
    """
    if name not in PRESETS:
        raise ConfigurationError([f"policy: is {name!r}; it must be one of {', '.join(PRESETS)}"])
    return read_policies({name: _preset_text(name)})[0]
