"""Read the parameters of a call. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

from pipeline.dev.emulator.response import StripeError, missing

_NESTED = re.compile(r"\[([^\]]*)\]")

Params = Mapping[str, Any]

# The parameters that are objects or lists.
_WITH_PARAMETERS = {
    "amount", "applicability_config", "billing_cycle_anchor_config", "cancel", "created", "customer_mapping",
    "default_aggregation", "expand", "ids", "items", "lines", "lookup_keys", "metadata", "monetary",
    "payload", "period", "price_data", "prices", "pricing", "product_data", "recurring", "scope",
    "tiers", "value_settings",
}  # fmt: skip


def nested(form: str) -> dict[str, Any]:
    """Parse form parameters; brackets nest them, as in `payload[value]=1`."""
    params: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        parts = [name.split("[", 1)[0], *_NESTED.findall(name)]
        target = params
        for part in parts[:-1]:
            inner = target.setdefault(part or str(len(target)), {})
            if not isinstance(inner, dict):
                break
            target = inner
        else:
            target[parts[-1] or str(len(target))] = value
    return params


def check_shape(params: Params) -> None:
    """Check that no plain parameter has parameters inside.

    Raises:
        StripeError: one has.
    """
    for name, value in params.items():
        if isinstance(value, Mapping):
            if name not in _WITH_PARAMETERS and not name.isdecimal():
                raise StripeError(400, f"Invalid string: {name}")
            check_shape(value)


def check_names(params: Params, known: Collection[str]) -> None:
    """Check the names of a call's parameters.

    Raises:
        StripeError: Stripe, or the emulator, does not know one of them.
    """
    for name in params:
        if name not in known and name != "expand":
            raise StripeError(400, f"Received unknown parameter: {name}", code="parameter_unknown")


def required(params: Params, name: str) -> str:
    """Return a parameter that must be there.

    Raises:
        StripeError: it is absent or empty.
    """
    if not params.get(name):
        raise missing(name)
    return str(params[name])


def whole(params: Params, name: str) -> int:
    """Return a parameter as an integer.

    Raises:
        StripeError: it is absent, or not an integer.
    """
    if name not in params:
        raise missing(name)
    try:
        return int(str(params[name]))
    except ValueError:
        raise StripeError(
            400, f"Invalid integer: {params[name]}", code="parameter_invalid_integer"
        ) from None


def whole_or(params: Params, name: str, default: int | None) -> int | None:
    """Return a parameter as an integer; if it is absent or empty, the default."""
    return whole(params, name) if params.get(name) not in {None, ""} else default


def flag(params: Params, name: str, *, default: bool) -> bool:
    """Return a parameter that is true or false.

    Raises:
        StripeError: it is neither.
    """
    if name not in params:
        return default
    if params[name] not in {"true", "false"}:
        raise StripeError(400, f"Invalid boolean: {params[name]}")
    return bool(params[name] == "true")


def one_of(params: Params, name: str, values: Collection[str], default: str | None = None) -> str:
    """Return a parameter that has one of a few values.

    Raises:
        StripeError: it has another value, or is absent and has no default.
    """
    value = params.get(name) or default
    if value is None:
        raise missing(name)
    if value not in values:
        raise StripeError(400, f"Invalid {name}: must be one of {', '.join(sorted(values))}")
    return str(value)


def listed(params: Params, name: str) -> list[Any]:
    """Return a parameter that is a list, such as `items[0][price]`; if it is absent, an empty list.

    Raises:
        StripeError: it is a plain value.
    """
    return list(mapping(params, name).values())


def with_metadata(old: Params, params: Params) -> dict[str, str]:
    """Return metadata after a call: an empty value takes a key away, an empty `metadata` all.

    https://docs.stripe.com/api/metadata
    """
    given = params.get("metadata")
    if given == "":
        return {}
    merged = {**old, **mapping(params, "metadata")}
    return {key: str(value) for key, value in merged.items() if value != ""}


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
