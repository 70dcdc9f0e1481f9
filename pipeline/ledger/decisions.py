"""Release or settle meter events that wait for an operator.

Each meter event gets one decision. A release creates a second meter event with the same usage records.
Its identifier is new, because the biller may know the first one, and contains the first one.

A sink writes the decision to the journal. Before it has read it back, it sends nothing for the second
meter event. If the journal has an earlier decision of another ledger, that one replaces it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, case, func, insert, select, update

from pipeline.catalog.prices import Billing
from pipeline.events.times import format_time
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import (
    HOUR_MS,
    PERHAPS_COUNTED,
    STUCK,
    Decided,
    Decision,
    MeterEvent,
    State,
    WaitingEvent,
)
from pipeline.ledger.lineage import lineage, next_identifier
from pipeline.ledger.tables import (
    attempt,
    awaited_record,
    delivery_decision,
    meter_event,
    meter_event_record,
    usage_record,
)

_event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]


def waiting(
    ledger: Ledger,
    *,
    states: Sequence[State] = STUCK,
    tenant_id: str | None = None,
    since_ms: int | None = None,
    identifiers: Sequence[str] | None = None,
) -> list[WaitingEvent]:
    """Return meter events by state, or by identifier if given, those that changed longest ago first.

    `since_ms` leaves out those that changed before.
    """
    m = meter_event.c
    chosen = m.state.in_(states) if identifiers is None else m.identifier.in_(identifiers)
    query = (
        select(*_event_columns, *_of_attempts())
        .select_from(meter_event)
        .outerjoin(attempt, attempt.c.identifier == m.identifier)
        .where(chosen)
        .group_by(*meter_event.c)
        .order_by(m.updated_at, m.identifier)
    )
    if tenant_id is not None:
        query = query.where(m.tenant_id == tenant_id)
    if since_ms is not None:
        query = query.where(m.updated_at >= since_ms)
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
        last = _last_details(connection, [row.last_call for row in rows if row.last_call])
    return [
        WaitingEvent(
            event=MeterEvent(**{n: getattr(row, n) for n in MeterEvent.__struct_fields__}),
            calls=row.calls,
            perhaps_counted=_is_perhaps_counted(row),
            detail=last.get(row.last_call),
        )
        for row in rows
    ]


def _of_attempts() -> tuple[Any, ...]:
    a = attempt.c
    # Include collisions: the biller has counted this identifier, though not from our call.
    # Earlier versions took the response of a proxy, which has no Request-Id of Stripe's, for a
    # rejection.
    counted = a.result.in_((*PERHAPS_COUNTED, "collision")) | (
        (a.result == "rejected") & a.request_id.is_(None)
    )
    return (
        func.count(a.seq).label("calls"),
        func.coalesce(func.sum(case((counted, 1), else_=0)), 0).label("perhaps_counted"),
        func.max(a.seq).label("last_call"),
    )


def _is_perhaps_counted(row: Any) -> bool:
    # Without a call in this ledger, another ledger made it.
    called_elsewhere = row.state == "rejected" and not row.calls
    return bool(row.perhaps_counted) or row.state == "uncertain" or called_elsewhere


def _last_details(connection: Connection, calls: list[int]) -> dict[int, str]:
    details: dict[int, str] = {}
    for start in range(0, len(calls), 500):
        query = select(attempt.c.seq, attempt.c.result, attempt.c.http_status, attempt.c.detail)
        for row in connection.execute(query.where(attempt.c.seq.in_(calls[start : start + 500]))):
            status = "" if row.http_status is None else f" (HTTP {row.http_status})"
            details[row.seq] = f"{row.result}{status}" + (f": {row.detail}" if row.detail else "")
    return details


def decided(ledger: Ledger, identifiers: Sequence[str]) -> list[Decided]:
    """Return the decisions about these meter events, oldest first."""
    with ledger.reading() as connection:
        return decisions_about(connection, identifiers)


def decisions_about(connection: Connection, identifiers: Sequence[str]) -> list[Decided]:
    """Return the decisions about these meter events, oldest first."""
    d = delivery_decision.c
    query = (
        select(*(d[name] for name in Decided.__struct_fields__))
        .where(d.identifier.in_(identifiers))
        .order_by(d.seq)
    )
    return [Decided(**row._mapping) for row in connection.execute(query)]


def decide(
    ledger: Ledger,
    found: WaitingEvent,
    decision: Decision,
    billing: Billing,
    body_sha256: Callable[[MeterEvent], str],
    *,
    apply: bool,
) -> Decided | str:
    """Store a decision about one meter event in one transaction; return it, or why it is not possible.

    Without `apply`, store nothing and return what would be decided. If the meter event has a
    decision with the same action, return that one.
    """
    identifier = found.event.identifier
    with ledger.writing() as connection:
        row = connection.execute(
            select(*_event_columns, meter_event.c.lease_until, *_of_attempts())
            .select_from(meter_event)
            .outerjoin(attempt, attempt.c.identifier == meter_event.c.identifier)
            .where(meter_event.c.identifier == identifier)
            .group_by(*meter_event.c)
        ).one()
        event = MeterEvent(**{n: getattr(row, n) for n in MeterEvent.__struct_fields__})
        earlier = decisions_about(connection, [identifier])
        if earlier:
            (first,) = earlier
            if first.action == decision.action:
                return first
            return f"{first.who} has already decided to {first.action} it"
        if event.state not in STUCK:
            return f"it is {event.state}: only {', '.join(STUCK)} wait for a decision"
        replacement: MeterEvent | None = None
        if decision.action == "release":
            made = _replacement(connection, event, decision, billing, body_sha256)
            if isinstance(made, str):
                return made
            replacement = made
            if _is_perhaps_counted(row) and not decision.stripe_checked:
                return (
                    "Stripe may have counted it: compare Stripe's sum (`resmeter deliveries show "
                    "--stripe`), then release it with --stripe-checked, or settle it"
                )
        if decision.at < row.lease_until <= decision.at + HOUR_MS:  # no lease is longer
            until = format_time(row.lease_until)
            return f"a call for it is under way, until {until} at the latest: decide after that"
        result = Decided(
            at=decision.at,
            action=decision.action,
            identifier=identifier,
            replaced_by=None if replacement is None else replacement.identifier,
            state=event.state,
            who=decision.who,
            reason=decision.reason,
            stripe_checked=decision.stripe_checked,
        )
        if apply and not _store(connection, result, replacement):
            return "somebody else has just decided about it: look again"
        return result


def _replacement(
    connection: Connection,
    event: MeterEvent,
    decision: Decision,
    billing: Billing,
    body_sha256: Callable[[MeterEvent], str],
) -> MeterEvent | str:
    """Return a meter event with the same records, for the customer and meter in today's catalog."""
    customer = billing.customer_for(event.tenant_id, event.hour * HOUR_MS)
    if customer is None:
        return (
            f"the catalog has no Stripe customer of tenant {event.tenant_id}: name it in the tenant file, "
            "and run resmeter catalog apply"
        )
    awaits = select(awaited_record.c.id).where(awaited_record.c.identifier == event.identifier)
    awaited = connection.scalar(select(func.count()).select_from(awaits.subquery()))
    if awaited and event.state == "altered":
        return (
            f"{awaited} of its usage records are not in this ledger, so nobody knows its units: let a "
            "sink read them, or settle it"
        )
    units = connection.execute(
        select(func.sum(usage_record.c.quantity))
        .join_from(
            meter_event_record, usage_record, usage_record.c.seq == meter_event_record.c.record_seq
        )
        .where(meter_event_record.c.identifier == event.identifier)
    ).scalar()
    if awaited:
        units = event.value  # as the journal has it
    if not units or units < 0:
        return f"its usage records add up to {units or 0}: settle it"
    timestamp = event.timestamp if decision.bill_at is None else decision.bill_at // 1000
    frozen = msgspec.structs.replace(
        event,
        identifier=next_identifier(event.identifier),
        customer=customer,
        event_name=billing.event_name_for(event.outcome),
        hour=timestamp * 1000 // HOUR_MS,
        value=int(units),
        timestamp=timestamp,
        state="planned",
        created_at=decision.at,
        updated_at=decision.at,
    )
    return msgspec.structs.replace(frozen, body_sha256=body_sha256(frozen))


def _store(connection: Connection, result: Decided, replacement: MeterEvent | None) -> bool:
    """Store a decision; return False if somebody else has just decided."""
    m = meter_event.c
    # 1. The meter event: this locks its row, so that only one of two operators decides.
    state: State = "settled" if replacement is None else "released"
    moved = connection.execute(
        update(meter_event)
        .where(m.identifier == result.identifier, m.state == result.state)
        .values(state=state, updated_at=result.at)
    )
    if moved.rowcount != 1:
        connection.rollback()
        return False
    # 2. The meter event that replaces it; the records move to it.
    if replacement is not None:
        values = msgspec.structs.asdict(replacement)
        connection.execute(insert(meter_event).values(**values, lease_until=0))
        move_records(connection, result.identifier, replacement.identifier)
    # 3. Who decided, and why.
    connection.execute(insert(delivery_decision).values(**msgspec.structs.asdict(result)))
    return True


def move_records(connection: Connection, identifier: str, to: str) -> None:
    """Move the usage records of a meter event to another, also those that are not stored yet."""
    for table in (meter_event_record, awaited_record):
        connection.execute(
            update(table).where(table.c.identifier == identifier).values(identifier=to)
        )


# --- what a call counted after the decision -------------------------------------------------------


def take_back_release(connection: Connection, identifier: str, now_ms: int) -> None:
    """Undo the release of a meter event that was counted after all, or make it uncertain.

    A call was under way when the operator decided, which the clocks of two machines can hide.
    """
    m = meter_event.c
    after = _replacements(connection, identifier)
    if not after:
        return
    last = after[-1]
    counted = select(attempt.c.seq).where(
        attempt.c.identifier.in_(after), attempt.c.result.in_(PERHAPS_COUNTED)
    )
    open_ = update(meter_event).where(
        m.identifier == last, m.state.in_(("planned", "sent", "rejected", "altered"))
    )
    # No call for the replacement may have counted: its records go back.
    cancelled = connection.execute(
        open_.where(m.lease_until <= now_ms, ~counted.exists()).values(
            state="cancelled", updated_at=now_ms
        )
    )
    if cancelled.rowcount != 1:
        connection.execute(open_.values(state="uncertain", updated_at=now_ms))
        return
    move_records(connection, last, identifier)
    connection.execute(
        update(meter_event)
        .where(m.identifier == identifier)
        .values(state="delivered", updated_at=now_ms)
    )


def counted_again(connection: Connection, identifier: str) -> list[str]:
    """Return the other identifiers of the same units under which a call has counted."""
    others = [*lineage(identifier)[:-1], *_replacements(connection, identifier)]
    if not others:
        return []
    counted = (
        select(attempt.c.identifier)
        .join(meter_event, meter_event.c.identifier == attempt.c.identifier)
        .where(attempt.c.identifier.in_(others), attempt.c.result.in_(("delivered", "duplicate")))
        # One that the biller was asked to cancel was counted; its release says that it no longer is.
        .where(meter_event.c.withdraw_until.is_(None))
        .distinct()
    )
    return sorted(connection.scalars(counted))


def _replacements(connection: Connection, identifier: str) -> list[str]:
    """Return the meter events that replaced one, in their order."""
    d = delivery_decision.c
    found: list[str] = []
    following: str | None = identifier
    while following is not None:
        query = select(d.replaced_by).where(d.identifier == following)
        following = connection.scalar(query)
        if following is not None:
            found.append(following)
    return found
