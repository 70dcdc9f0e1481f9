"""Choose the fault to inject into a call for a meter event. Pure."""

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
    """A fault for meter events: it affects every `every`-th event, `times` in all.

    `500_before` fails before the event is counted, `500_after` after that. `cut_before` and
    `cut_after` cut the connection instead.
    `foreign` responds as a proxy between us and Stripe would: with `status`, `headers` and `body`.
    """

    kind: FaultKind
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # how long `slow` waits
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 404  # of `foreign`, as the next two
    headers: dict[str, str] = {}
    body: str = "<html><title>Not found</title></html>"
    seen: int = 0  # events so far


def next_fault(faults: list[Fault]) -> Fault | None:
    """Return the fault for this meter event, if there is one, and remove a fault that is used up."""
    for fault in faults:
        fault.seen += 1
        if fault.seen % fault.every == 0:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None
