"""Read policies from TOML: policy files and the presets.

A file sets keys of `pipeline.resolve.policy.Policy` (docs/reference/outcomes.md §2.1). A key that it
leaves out comes from its `base`: a preset or another file, and finally the default preset.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pipeline.catalog.toml_values import (
    Parse,
    invalid,
    names_of,
    one_of,
    or_absent,
    parse_currency,
    parse_duration,
    parse_horizon,
    parse_instant,
    parse_name,
    parse_price,
    parse_truth,
    parse_whole,
    unknown_key,
)
from pipeline.errors import ConfigurationError
from pipeline.events.model import Cause, Channel
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

_Table = dict[str, Any]  # a TOML table


_KEYS: dict[str, Parse] = {
    "name": parse_name,
    "version": parse_whole(1, 1_000_000),
    "effective_from": parse_instant,
    "unit": one_of(Unit),
    "window_anchor": one_of(WindowAnchor),
    "silence": one_of(Silence),
    "human_reply": one_of(HumanReply),
    "human_request_sticky": parse_truth,
    "unknown_intent": one_of(UnknownIntent),
    "handoff_causes_billed": names_of(get_args(Cause)),
    "outcomes_billed": names_of(),
    "precedence": names_of(),
    "reversible": names_of(),
    "reversal_horizon": parse_horizon,
    "csat_reverses_below": or_absent(parse_whole(2, 5)),
    "csat_confirms_from": or_absent(parse_whole(1, 5)),
    "spam_grace": parse_duration,
    "grace": parse_duration,
    "currency": parse_currency,
}
# Tables are merged with those of the base. Each has a parser for its values, and its possible keys
# (None: any key).
_TABLES: dict[str, tuple[Parse, Sequence[str] | None]] = {
    "window": (parse_duration, ("default", *get_args(Channel))),
    "price": (parse_price, None),
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


def _other_versions(label: str, tables: Mapping[str, _Table]) -> list[str]:
    """Return `name@version` of each other version of a file's policy."""
    name = tables[label].get("name")
    return [
        f"{name}@{table.get('version')}"
        for other, table in tables.items()
        if other != label and table.get("name") == name
    ]


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
            raise invalid(base, f"one of {', '.join(sorted({*PRESETS, *others}))}")
        else:
            break
        if source_of_base[0] == label:
            if source == label and (versions := _other_versions(label, tables)):
                raise ValueError(
                    f"{base!r} is this policy itself; name a version of it: {', '.join(versions)}"
                )
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
            problems.append(f"{label}: {key}: {unknown_key(key, [*_KEYS, *_TABLES, 'base'])}")
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
    where: str, table: object, parse: Parse, keys: Sequence[str] | None
) -> tuple[_Table, list[str]]:
    if not isinstance(table, dict):
        key = where.rpartition(": ")[2]
        return {}, [f"{where}: is {table!r}; it must be a table: write [{key}]"]
    values: _Table = {}
    problems: list[str] = []
    for key, value in table.items():
        if keys is not None and key not in keys:
            problems.append(f"{where}.{key}: {unknown_key(key, keys)}")
            continue
        try:
            values[key] = parse(value)
        except ValueError as error:
            problems.append(f"{where}.{key}: {error}")
    return values, problems


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
