"""Find what the journal does not have yet of this ledger.

That is meter events, conclusions and decisions; and, if the ledger follows another journal than before,
closings, grants and approvals.
"""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Connection, Select, exists, func, or_, select

from pipeline.ledger import months
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import PERHAPS_COUNTED, Decided, MeterEvent
from pipeline.ledger.journal import (
    Conclusion,
    Decision,
    Item,
    Plan,
    plan_of,
)
from pipeline.ledger.standing import ConcludedState
from pipeline.ledger.tables import (
    attempt,
    awaited_record,
    delivery_decision,
    delivery_takeover,
    meter_event,
    meter_event_record,
    unjournalled,
    usage_record,
)

_event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]
_OPEN = ("planned", "sent")
# What the journal lacks of a meter event, by its state there and here.
_CONCLUDED: dict[tuple[str, str], ConcludedState] = {
    ("planned", "delivered"): "delivered",
    ("planned", "rejected"): "rejected",
    ("rejected", "delivered"): "delivered",
    ("withdrawing", "withdrawn"): "withdrawn",
    ("withdrawing", "delivered"): "kept",
    ("kept", "withdrawn"): "withdrawn",
}


def unjournalled_items(ledger: Ledger, items_max: int) -> list[Item]:
    """Return items for the journal: at most so many of each kind.

    Some depend on others, so they come in turns: once the plan of a meter event was read back, its
    conclusion or its decision follows.
    """
    m, d = meter_event.c, delivery_decision.c
    with ledger.reading() as connection:
        query = select(*_event_columns, m.journal_state).where(unjournalled)
        replaces = exists().where(d.replaced_by == m.identifier)
        query = query.where(or_(m.journal_state.is_not(None), ~replaces))
        rows = connection.execute(query.order_by(m.identifier).limit(items_max)).all()
        items: list[Item] = []
        plans = [_event(row) for row in rows if row.journal_state is None]
        if plans:
            items += _plans(connection, plans)
        items += [
            Conclusion(row.identifier, _CONCLUDED[row.journal_state, row.state])
            for row in rows
            if (row.journal_state, row.state) in _CONCLUDED
        ]
        items += [
            Decision(_cancelled(_event(row)))
            for row in rows
            if row.journal_state is not None and row.state == "cancelled"
        ]
        items += _decisions(connection, items_max)
        if not items:  # what was sent before a close comes before it
            items += months.unjournalled(connection)
    return items


def _plans(connection: Connection, events: Iterable[MeterEvent]) -> list[Item]:
    return [
        plan_of(event, _records(connection, event), _called_since(connection, event))
        for event in events
    ]


def _records(connection: Connection, event: MeterEvent) -> list[str]:
    """Return the ids of a meter event's records; those of a released one belong to its successors."""
    d, link = delivery_decision.c, meter_event_record.c
    holder = event.identifier
    while True:
        replaced_by = connection.scalar(select(d.replaced_by).where(d.identifier == holder))
        if replaced_by is None:
            break
        holder = replaced_by
    query = select(usage_record.c.id).join_from(
        meter_event_record, usage_record, usage_record.c.seq == link.record_seq
    )
    awaited = select(awaited_record.c.id).where(awaited_record.c.identifier == holder)
    return [
        *connection.scalars(query.where(link.identifier == holder)),
        *connection.scalars(awaited),
    ]


def _called_since(connection: Connection, event: MeterEvent) -> int | None:
    """Return since when calls may have counted; 0: nobody knows, so it must not be called again."""
    if event.state not in _OPEN:
        return 0
    a = attempt.c
    query = select(func.min(a.at)).where(
        a.identifier == event.identifier, a.result.in_(PERHAPS_COUNTED)
    )
    first: int | None = connection.scalar(query)
    return first


def _decisions(connection: Connection, items_max: int) -> list[Item]:
    m, d = meter_event.c, delivery_decision.c
    query = (
        select(*(d[name] for name in Decided.__struct_fields__))
        .join_from(delivery_decision, meter_event, m.identifier == d.identifier)
        .where(m.journal_state.in_(("planned", "rejected", "withdrawing")))
        .order_by(d.seq)
        .limit(items_max)
    )
    return [
        Decision(decided, _replacement(connection, decided))
        for decided in (Decided(**row._mapping) for row in connection.execute(query).all())
    ]


def _replacement(connection: Connection, decided: Decided) -> Plan | None:
    if decided.replaced_by is None:
        return None
    query = select(*_event_columns).where(meter_event.c.identifier == decided.replaced_by)
    event = _event(connection.execute(query).one())
    return plan_of(event, (), _called_since(connection, event))


def _cancelled(event: MeterEvent) -> Decided:
    """Return the decision about a release that was taken back: no ledger may send it."""
    return Decided(
        at=event.updated_at,
        action="settle",
        identifier=event.identifier,
        replaced_by=None,
        state=event.state,
        who="resmeter",
        reason="the meter event that it replaces was counted after all",
        stripe_checked=False,
    )


def _event(row: Any) -> MeterEvent:
    return MeterEvent(**{name: getattr(row, name) for name in MeterEvent.__struct_fields__})


# --- vouching -------------------------------------------------------------------------------------


def not_ours(ledger: Ledger, run: str, vouched_before_ms: int, events_max: int) -> list[str]:
    """Return open meter events that `run` may not call yet; see `journal.Takeover`."""
    m, t = meter_event.c, delivery_takeover.c
    query = (
        _open_events()
        .where(or_(m.voucher.is_(None), m.voucher != run), m.vouched_at <= vouched_before_ms)
        .where(~exists().where(t.identifier == m.identifier, t.run == run))
        .limit(events_max)
    )
    with ledger.reading() as connection:
        return list(connection.scalars(query))


def renewable(
    ledger: Ledger,
    run: str,
    vouched_before_ms: int,
    events_max: int,
    *,
    doubtful: Collection[str] = (),
) -> list[str]:
    """Return open meter events for which `run` can vouch again: no call of it may have counted.

    `doubtful` are those of which the run knows, even if the ledger has lost the attempt.
    """
    m, a = meter_event.c, attempt.c
    called = exists().where(
        a.identifier == m.identifier,
        a.result.in_(PERHAPS_COUNTED),
        or_(m.state != "withdrawing", a.call == "withdraw"),
    )
    query = _open_events().where(m.voucher == run, m.vouched_at <= vouched_before_ms, ~called)
    with ledger.reading() as connection:
        found = connection.scalars(query.limit(events_max))
        return [identifier for identifier in found if identifier not in doubtful]


def _open_events() -> Select[Any]:
    m = meter_event.c
    return (
        select(m.identifier)
        .where(m.state.in_((*_OPEN, "withdrawing")))
        .where(m.journal_state.in_(("planned", "withdrawing")))
        .order_by(m.hour, m.identifier)
    )
