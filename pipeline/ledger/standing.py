"""What the journal says of a meter event. Pure."""

from typing import Literal

import msgspec

HANDED_OVER = ""  # a voucher that makes no call any more: the next run that takes over vouches

JournalState = Literal[
    "planned",
    "netted",
    "delivered",
    "rejected",
    "released",
    "settled",
    "withdrawing",
    "withdrawn",  # its records are free
    "kept",  # delivered, and not withdrawn when the biller was asked
]
ConcludedState = Literal["delivered", "rejected", "withdrawn", "kept"]
# The states in which a conclusion is valid. That the biller has counted or cancelled a meter event is
# certain, whatever another sink was told.
BEFORE: dict[ConcludedState, tuple[JournalState, ...]] = {
    "delivered": ("planned", "rejected"),
    "rejected": ("planned",),
    "withdrawn": ("withdrawing", "kept"),
    "kept": ("withdrawing",),
}


class Standing(msgspec.Struct, frozen=True):
    """What the journal says of a meter event.

    `vouched_at`: no call before this time counted, ms. `voucher`: the run that may vouch again;
    `HANDED_OVER`: the next run that takes over; None: nobody, because several runs may have called.
    """

    state: JournalState
    vouched_at: int
    voucher: str | None
