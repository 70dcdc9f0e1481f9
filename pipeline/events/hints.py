"""Guess which member a producer meant by an unknown name. Pure.

Unknown members are ignored without a message, so a misspelt member has no effect. A hint names it and
the known member that it resembles. Hints are for people: they never decide whether an event is valid.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache

import msgspec

from pipeline.events.data import DATA
from pipeline.events.model import TYPES

REQUIRED = ("id", "source", "type", "subject", "time", "tenantid")
_ATTRIBUTES = (*REQUIRED, "specversion", "channel", "environment", "sequence", "data")
_OPTIONAL_ATTRIBUTES = ("channel", "environment", "sequence", "data")
_FIELDS = {TYPES[rank]: msgspec.structs.fields(form) for rank, form in DATA.items()}
_CLOSENESS_MIN = 0.8
# The last word of a member, and others that producers write for it. By letters alone, a time may be
# closer to an id.
_ENDINGS = {
    "at": ("at", "time", "timestamp", "date", "datetime", "ts", "on"),
    "id": ("id", "ids", "identifier", "uuid", "key", "ref"),
}
_NAMES_MAX = 50  # of one object


def missing(name: str, known: Collection[str], present: Iterable[str]) -> str:
    """Return a hint if a missing member seems to be present under a misspelt name; otherwise ""."""
    for found in list(present)[:_NAMES_MAX]:
        if found not in known and _meant(found, (name,)):
            return f"; there is {found[:60]!r}: did you mean {name!r}?"
    return ""


def misspelt(present: Iterable[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return each unknown name that resembles a known one that is absent, with the known one."""
    found = list(present)[:_NAMES_MAX]
    absent = tuple(name for name in known if name not in found)
    return [(n, meant) for n in found if n not in known and (meant := _meant(n, absent))]


def missing_attribute(name: str, attributes: Mapping[str, object]) -> str:
    """Return a hint for a missing attribute; "" if there is none."""
    return missing(name, _ATTRIBUTES, attributes)


def ignored_members(attributes: Mapping[str, object], data: object) -> list[str]:
    """Return a hint for each unknown member whose name resembles that of an optional member.

    An optional member that is present under its own name gets no hint.
    """
    found = _ignored("", attributes, _ATTRIBUTES, _OPTIONAL_ATTRIBUTES)
    name = attributes.get("type")
    fields = _FIELDS.get(name, ()) if isinstance(name, str) else ()
    if isinstance(data, Mapping):
        known = [field.name for field in fields]
        found += _ignored("data.", data, known, [f.name for f in fields if not f.required])
        found += [
            f"{name}: is ignored outside of data; did you mean 'data.{name}'?"
            for name in known
            if name in attributes and name not in _ATTRIBUTES and name not in data
        ]
    return found


def binary_meant(headers: Iterable[str]) -> str:
    """Return a hint for headers that look like those of binary mode, of which nothing reads any."""
    names = {name.lower(): name for name in list(headers)[:_NAMES_MAX]}
    if "ce_specversion" in names:
        return (
            "the record has the headers of binary mode, and a content-type that says that the value is "
            "the whole event: set content-type to that of data"
        )
    if any(name.startswith("ce_") for name in names):
        return "the header ce_specversion is missing, so the other ce_ headers have no effect"
    for name, written in names.items():
        if name.startswith(("ce-", "cloudevents_", "cloudevents:")):
            return f"the header {written[:60]!r} has no effect: in Kafka, names of attributes begin with ce_"
    return ""


def _ignored(
    prefix: str,
    members: Mapping[str, object],
    known: Collection[str],
    optional: Collection[str],
) -> list[str]:
    absent = tuple(name for name in optional if name not in members)
    return [
        f"{prefix}{name[:60]}: is ignored; did you mean {meant!r}?"
        for name in list(members)[:_NAMES_MAX]
        if name not in known and (meant := _meant(name, absent))
    ]


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "")


@lru_cache(1_000)  # a producer that misspells a name does it in every event
def _meant(name: str, known: tuple[str, ...]) -> str:
    """Return the known name that is closest to a name; empty if none is close."""
    spelt = name[:60].lower()
    plain = _plain(spelt)
    for each in known:
        for ending, others in _ENDINGS.items():
            stem = _plain(each).removesuffix(ending)
            if each.endswith(f"_{ending}") and plain in [stem + other for other in others]:
                return each
    # The first letter is rarely misspelt, and comparing with every known name would be slow.
    likely = [each for each in known if each[:1] == spelt[:1]]
    close = get_close_matches(spelt, likely, 1, _CLOSENESS_MIN)
    return close[0] if close else ""
