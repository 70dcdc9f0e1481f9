"""Choose the fault to inject into a call. Pure."""

from fnmatch import fnmatchcase
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
    "403",
]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """A fault for the calls to a path: it affects every `every`-th of them, `times` in all.

    `500_before` fails before the call has its effect, `500_after` after that. `cut_before` and
    `cut_after` cut the connection instead.
    `foreign` responds as a proxy between us and Stripe would: with `status`, `headers` and `body`.
    In `path`, `*` stands for any text.
    """

    kind: FaultKind
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    every: Annotated[int, msgspec.Meta(ge=1)] = 1
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # how long `slow` waits
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 404  # of `foreign`, as the next two
    headers: dict[str, str] = {}
    body: str = "<html><title>Not found</title></html>"
    method: Literal["POST", "GET", "DELETE"] = "POST"
    path: str = "/v1/billing/meter_events"
    seen: int = 0  # calls so far


def next_fault(faults: list[Fault], method: str, path: str) -> Fault | None:
    """Return the fault for this call, if there is one, and remove a fault that is used up."""
    for fault in faults:
        if method != fault.method or not fnmatchcase(path, fault.path):
            continue
        fault.seen += 1
        if fault.seen % fault.every == 0:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
            return fault
    return None
