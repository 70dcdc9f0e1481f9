"""The `Meter` protocol, which a biller implements, and the next step after each result. Pure."""

from collections.abc import Collection
from typing import Literal, Protocol

from pipeline.ledger.entries import Conclusion, Lease, MeterEvent, Result

Next = Literal["done", "retry", "halt"]

# No entry for `unanswered`: a call has that result only until it is concluded.
NEXT: dict[Result, Next] = {
    "delivered": "done",
    "duplicate": "done",
    "collision": "done",
    "rejected": "done",
    "failed": "retry",
    "foreign": "retry",
    "refused": "retry",
    "halted": "halt",
    "withdrawn": "done",
}


# After these, the call has certainly not counted.
NOT_COUNTED: tuple[Result, ...] = ("refused", "halted")


class Meter(Protocol):
    """Counts meter events: a biller, or a stand-in within the process."""

    @property
    def name(self) -> str:
        """The biller's name, for messages."""

    @property
    def remembered_seconds(self) -> int:
        """How long the biller is certain to recognise an identifier that it has counted.

        Later, the sink does not repeat a call that may have been counted.
        """

    def body_sha256(self, event: MeterEvent) -> str:
        """Return the digest of the body that `deliver` sends; equal bodies have equal digests."""

    async def deliver(self, event: MeterEvent, lease: Lease) -> Conclusion:
        """Make one call. A failure of any kind is a conclusion, not an exception."""

    async def withdraw(self, event: MeterEvent, lease: Lease) -> Conclusion:
        """Ask the biller to cancel a meter event that it has counted, in one call."""

    async def unfit(self, event_names: Collection[str], /) -> dict[str, str]:
        """Return which of these meters would take meter events and not count them, and why.

        Empty if the biller does not say: then nothing is known to be wrong.
        """

    async def close(self) -> None: ...
