"""Write a policy as TOML, for tests that read it back with the catalog's reader."""

from collections.abc import Sequence

import msgspec

from pipeline.events.times import format_time
from pipeline.resolve.policy import Policy

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNBOUNDED = "unbounded"
_ABSENT = "absent"


def format_duration(ms: int) -> str:
    """Return the shortest text that `parse_duration` reads as `ms`."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms" if ms else "0s"


def write_policy(policy: Policy) -> str:
    """Return a policy as TOML, with every key and without a base."""

    def names(values: Sequence[str]) -> str:
        return f"[{', '.join(_quoted(value) for value in values)}]"

    horizon = policy.reversal_horizon
    lines = [
        f"name = {_quoted(policy.name)}",
        f"version = {policy.version}",
        f"effective_from = {_quoted(format_time(policy.effective_from))}",
        f"unit = {_quoted(policy.unit)}",
        f"window_anchor = {_quoted(policy.window_anchor)}",
        f"silence = {_quoted(policy.silence)}",
        f"human_reply = {_quoted(policy.human_reply)}",
        f"human_request_sticky = {str(policy.human_request_sticky).lower()}",
        f"unknown_intent = {_quoted(policy.unknown_intent)}",
        f"handoff_causes_billed = {names(policy.handoff_causes_billed)}",
        f"outcomes_billed = {names(policy.outcomes_billed)}",
        f"precedence = {names(policy.precedence)}",
        f"reversible = {names(policy.reversible)}",
        f"reversal_horizon = {_quoted(_UNBOUNDED if horizon is None else format_duration(horizon))}",
    ]
    for key in ("csat_reverses_below", "csat_confirms_from"):
        value = getattr(policy, key)
        lines.append(f"{key} = {_quoted(_ABSENT) if value is None else value}")
    lines += [
        f"spam_grace = {_quoted(format_duration(policy.spam_grace))}",
        f"grace = {_quoted(format_duration(policy.grace))}",
        f"currency = {_quoted(policy.currency)}",
        "",
        "[window]",
        *(f"{key} = {_quoted(format_duration(ms))}" for key, ms in policy.window.items()),
        "",
        "[price]",
        *(f"{_quoted(key)} = {_quoted(str(price))}" for key, price in policy.price.items()),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
