"""The `Meter` protocol: what the sink asks of a biller, and what follows from its response. Pure."""

from typing import Literal, Protocol

from pipeline.ledger.entries import Conclusion, Lease, MeterEvent, Result

Next = Literal["done", "retry", "halt"]

# `unanswered` is not here: only a call that was never concluded has it.
NEXT: dict[Result, Next] = {
    "delivered": "done",
    "duplicate": "done",
    "collision": "done",
    "rejected": "done",
    "failed": "retry",
    "refused": "retry",
    "halted": "halt",
}


class Meter(Protocol):
    """Takes meter events: a biller, or a stand-in within the process."""

    @property
    def name(self) -> str:
        """The biller's name, for messages."""

    @property
    def remembered_seconds(self) -> int:
        """For how long the biller surely recognises an identifier that it has counted.

        After that, the sink does not repeat a call that may have been counted.
        """

    def body_sha256(self, event: MeterEvent) -> str:
        """Return the digest of what `deliver` sends: equal digests, equal calls."""

    async def deliver(self, event: MeterEvent, lease: Lease) -> Conclusion:
        """Make one call. A failure of any kind is a conclusion, not an exception."""

    async def close(self) -> None: ...
