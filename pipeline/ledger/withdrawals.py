"""Find delivered meter events with units that were taken back, and free the records of withdrawn ones.

A sink asks the biller to cancel a meter event, once the journal has its withdrawal. When the journal has
the answer too, its usage records are pending again, beside the reversals. The planner nets them, and
sends the rest under another identifier.
"""

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import PERHAPS_COUNTED, MeterEvent
from pipeline.ledger.pending import takes_back, time_of_unit
from pipeline.ledger.tables import (
    attempt,
    awaited_record,
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
    withdrawn_record,
)

_event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]


def with_reversals(
    ledger: Ledger, pending_before_ms: int, received_after_ms: int, events_max: int
) -> list[tuple[MeterEvent, int]]:
    """Return delivered meter events of which units were taken back, and when they were first called.

    Only where a reversal has been pending since before a time, and no call before the other one can have
    counted: the biller has received them since.
    """
    p, m, a, link = pending_record.c, meter_event.c, attempt.c, meter_event_record.c
    reversal, charge = usage_record.alias("reversal"), usage_record.alias("charge")
    first_call = (
        select(func.min(a.at))
        .where(a.identifier == m.identifier, a.call == "deliver", a.result.in_(PERHAPS_COUNTED))
        .correlate(meter_event)
        .scalar_subquery()
    )
    query = (
        select(*_event_columns, m.vouched_at, first_call.label("called_at"))
        .distinct()
        .select_from(pending_record)
        .join(reversal, reversal.c.seq == p.seq)
        .join(charge, charge.c.id == reversal.c.supersedes)
        .join(meter_event_record, link.record_seq == charge.c.seq)
        .join(meter_event, m.identifier == link.identifier)
        .where(p.quantity < 0, p.stored_at <= pending_before_ms)
        .where(m.state == "delivered", m.journal_state == "delivered")
        .where(m.vouched_at > received_after_ms)
        .order_by(m.vouched_at, m.identifier)
        .limit(events_max)
    )
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
    found = [
        (
            MeterEvent(**{name: getattr(row, name) for name in MeterEvent.__struct_fields__}),
            min(row.vouched_at, row.called_at or row.vouched_at),
        )
        for row in rows
    ]
    return [(event, since_ms) for event, since_ms in found if since_ms > received_after_ms]


def is_being_withdrawn(charge: FromClause) -> ColumnElement[bool]:
    """Return whether the biller is asked to cancel the meter event of a charge."""
    m, link = meter_event.c, meter_event_record.c
    return exists().where(
        link.record_seq == charge.c.seq,
        m.identifier == link.identifier,
        m.journal_state == "withdrawing",
    )


def begin_withdrawal(connection: Connection, identifier: str, until_ms: int, now_ms: int) -> None:
    """Note that the biller is to cancel a meter event, and before which time it is asked first."""
    values = {"state": "withdrawing", "withdraw_until": until_ms, "lease_until": 0}
    connection.execute(
        update(meter_event)
        .where(meter_event.c.identifier == identifier)
        .values(**values, updated_at=now_ms)
    )


def free_records(connection: Connection, identifier: str, now_ms: int) -> None:
    """Let the usage records of a withdrawn meter event be pending again, and remember that they were in it."""
    p, link, awaited = pending_record.c, meter_event_record.c, awaited_record.c
    record, charge = usage_record.alias(), usage_record.alias()
    r = record.c
    held = (
        select()
        .select_from(meter_event_record)
        .join(record, r.seq == link.record_seq)
        .outerjoin(charge, takes_back(record, charge))
        .where(link.identifier == identifier)
    )
    is_unmatched = and_(r.quantity < 0, charge.c.id.is_(None))
    rows = held.add_columns(
        r.tenant_id,
        r.outcome,
        time_of_unit(record, charge),
        r.seq,
        r.quantity,
        func.coalesce(r.stored_at, now_ms),
        case((is_unmatched, func.coalesce(r.supersedes, ""))),
    )
    columns = [p.tenant_id, p.outcome, p.occurred_at, p.seq, p.quantity, p.stored_at]
    columns.append(p.missing_charge)
    waiting = select(awaited.id, awaited.identifier).where(awaited.identifier == identifier)
    names = [withdrawn_record.c.id, withdrawn_record.c.identifier]
    ids = held.add_columns(r.id, literal(identifier))
    connection.execute(insert(withdrawn_record).from_select(names, ids))
    connection.execute(insert(withdrawn_record).from_select(names, waiting))
    connection.execute(insert(pending_record).from_select(columns, rows))
    connection.execute(delete(meter_event_record).where(link.identifier == identifier))
    connection.execute(delete(awaited_record).where(awaited.identifier == identifier))


def forget_withdrawals(connection: Connection, now_ms: int) -> None:
    """Settle what the journal that is lost alone could say.

    What the biller cancelled is free. Of the rest nobody knows: an operator decides.
    """
    m = meter_event.c
    cancelled = select(m.identifier).where(
        m.state == "withdrawn", m.journal_state.in_(("withdrawing", "kept"))
    )
    for identifier in connection.scalars(cancelled).all():
        free_records(connection, identifier, now_ms)
    connection.execute(
        update(meter_event).where(m.state == "withdrawn").values(journal_state="withdrawn")
    )
    connection.execute(
        update(meter_event)
        .where(m.state == "withdrawing")
        .values(state="uncertain", lease_until=0, updated_at=now_ms)
    )
