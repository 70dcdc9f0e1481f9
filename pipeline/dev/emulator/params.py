"""Read the parameters of a call, and return one page of a list. Pure."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from pipeline.dev.emulator.response import StripeError

_NESTED = re.compile(r"\[([^\]]*)\]")

Params = Mapping[str, Any]


def nested(form: str) -> dict[str, Any]:
    """Parse form parameters; brackets nest them, as in `payload[value]=1`."""
    params: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        parts = [name.split("[", 1)[0], *_NESTED.findall(name)]
        target = params
        for part in parts[:-1]:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            target = inner
        else:
            target[parts[-1]] = value
    return params


def whole(params: Params, name: str) -> int:
    """Return a parameter as an integer.

    Raises:
        StripeError: it is not an integer.
    """
    try:
        return int(str(params[name]))
    except ValueError:
        raise StripeError(400, f"Invalid integer: {params[name]}") from None


def mapping(params: Params, name: str) -> Params:
    """Return a parameter that has parameters inside; if it is absent, an empty mapping.

    Raises:
        StripeError: it is a plain value.
    """
    value = params.get(name) or {}
    if not isinstance(value, Mapping):
        raise StripeError(400, f"Invalid object: {name}")
    return value


def check_length(text: str, characters_max: int) -> None:
    """Check the length of a name or an identifier.

    Raises:
        StripeError: it is too long.
    """
    if len(text) > characters_max:
        raise StripeError(
            400, f"Invalid string: {text[:20]}...; must be at most {characters_max} characters"
        )


def page(objects: list[dict[str, Any]], params: Params, url: str) -> dict[str, Any]:
    """Return the page of a list that the parameters `limit` and `starting_after` select.

    Raises:
        StripeError: one of these parameters is invalid.
    """
    limit = whole(params, "limit") if "limit" in params else 10
    if not 1 <= limit <= 100:
        raise StripeError(400, "Invalid limit: it must be 1 to 100")
    after = params.get("starting_after")
    start = 0
    if after is not None:
        places = [n for n, entry in enumerate(objects) if entry["id"] == after]
        if not places:
            raise StripeError(400, f"No such object: '{after}'")
        start = places[0] + 1
    return {
        "object": "list",
        "url": url,
        "data": objects[start : start + limit],
        "has_more": start + limit < len(objects),
    }
