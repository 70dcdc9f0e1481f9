"""Say how long the oldest usage has waited for the biller, by each of its deadlines."""

from collections.abc import Collection

import msgspec
from sqlalchemy import func, select

from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import PERHAPS_COUNTED
from pipeline.ledger.tables import attempt, meter_event, pending_record

_OPEN = ("planned", "sent")


class Oldest(msgspec.Struct, frozen=True):
    """When the oldest of it began to wait, in ms; None if nothing waits.

    A negative sum that is carried forward does not wait: it needs later usage, not the biller.
    """

    waiting_since_ms: int | None  # in the ledger, of a tenant with a customer
    used_at_ms: int | None  # when it was used: a biller takes no usage older than some weeks
    unanswered_since_ms: int | None  # the first call that may have counted


def oldest_open(ledger: Ledger, parked: Collection[str]) -> Oldest:
    """Return the oldest usage that the biller has not taken.

    Args:
        ledger: the ledger.
        parked: the tenants without a customer. Their usage grows old, and nobody is late with it.
    """
    p, m = pending_record.c, meter_event.c
    pending = (
        select(p.tenant_id, func.min(p.stored_at), func.min(p.occurred_at))
        .group_by(p.tenant_id, p.outcome)
        .having(func.sum(p.quantity) > 0)
    )
    undelivered = select(func.min(m.created_at), func.min(m.timestamp)).where(m.state.in_(_OPEN))
    unanswered = (
        select(func.min(attempt.c.at))
        .join(meter_event, m.identifier == attempt.c.identifier)
        .where(m.state.in_(_OPEN), attempt.c.result.in_(PERHAPS_COUNTED))
    )
    with ledger.reading() as connection:
        groups = connection.execute(pending).all()
        planned_at, used_at_seconds = connection.execute(undelivered).one()
        unanswered_since = connection.scalar(unanswered)
    waiting = [stored_at for tenant, stored_at, _ in groups if tenant not in parked]
    used = [occurred_at for _, _, occurred_at in groups]
    if planned_at is not None:
        waiting.append(planned_at)
        used.append(used_at_seconds * 1000)
    return Oldest(min(waiting, default=None), min(used, default=None), unanswered_since)
