"""Say how long the oldest usage has waited for the biller, by each of its deadlines."""

import msgspec
from sqlalchemy import func, or_, select

from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import PERHAPS_COUNTED
from pipeline.ledger.tables import attempt, meter_event, pending_record

_OPEN = ("planned", "sent")


class Oldest(msgspec.Struct, frozen=True):
    """When the oldest of it began to wait, in ms; None if nothing waits.

    A unit that the planner keeps does not wait: it needs later usage, a customer, or the close.
    """

    waiting_since_ms: int | None  # in the ledger
    used_at_ms: int | None  # when it was used: a biller takes no usage older than some weeks
    unanswered_since_ms: int | None  # the first call that may have counted


def oldest_open(ledger: Ledger, until_seq: int, parked_since_ms: int | None) -> Oldest:
    """Return the oldest usage that the biller has not taken.

    Args:
        ledger: the ledger.
        until_seq: pending records up to this number were planned, or are kept.
        parked_since_ms: when the oldest unit was used whose account has no customer. It grows old, and
            nobody is late with it.
    """
    p, m = pending_record.c, meter_event.c
    pending = select(func.min(p.stored_at), func.min(p.occurred_at)).where(
        p.seq > until_seq, p.quantity > 0
    )
    undelivered = select(func.min(m.created_at), func.min(m.timestamp)).where(m.state.in_(_OPEN))
    unanswered = (
        select(func.min(attempt.c.at))
        .join(meter_event, m.identifier == attempt.c.identifier)
        .where(m.state.in_((*_OPEN, "withdrawing")), attempt.c.result.in_(PERHAPS_COUNTED))
        .where(or_(m.state != "withdrawing", attempt.c.call == "withdraw"))
    )
    with ledger.reading() as connection:
        stored_at, new_used_at = connection.execute(pending).one()
        planned_at, used_at_seconds = connection.execute(undelivered).one()
        unanswered_since = connection.scalar(unanswered)
    planned_used_at = None if used_at_seconds is None else used_at_seconds * 1000
    return Oldest(
        _earliest(stored_at, planned_at),
        _earliest(new_used_at, planned_used_at, parked_since_ms),
        unanswered_since,
    )


def _earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)
