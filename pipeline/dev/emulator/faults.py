"""Faults that are injected into calls for meter events. Pure."""

from typing import Annotated, Literal

import msgspec

FaultKind = Literal[
    "500_before",
    "500_after",
    "cut_before",
    "cut_after",
    "foreign_before",
    "foreign_after",
    "slow",
    "409",
    "429",
    "401",
]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """A fault for the next meter events: for `times` of them, every `every`-th.

    `500_before` fails before the event is counted, `500_after` after it; `cut` cuts the connection.
    `foreign` answers as something between us and Stripe does: with `status`, `headers` and `body`.
    """

    kind: FaultKind
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # of `slow`
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = (
        404  # this and the next two: of `foreign`
    )
    headers: dict[str, str] = {}
    body: str = "<html><title>Not found</title></html>"
    seen: int = 0


def next_fault(faults: list[Fault]) -> Fault | None:
    """Return the fault of this meter event, if it has one; a fault that is used up is removed."""
    for fault in faults:
        fault.seen += 1
        if fault.seen % fault.every == 0:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None
