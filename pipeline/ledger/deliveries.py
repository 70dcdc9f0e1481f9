"""Store meter events and attempts. An event is planned once; its state only moves forward."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.decisions import counted_again, take_back_release
from pipeline.ledger.entries import (
    HOUR_MS,
    PERHAPS_COUNTED,
    STUCK,
    Conclusion,
    Lease,
    MeterEvent,
    NotLeased,
    OpenSum,
    PendingKey,
    PendingRecord,
    PendingSum,
    PlannedEvent,
    Result,
    State,
)
from pipeline.ledger.pending import delete_pending, takes_back
from pipeline.ledger.tables import (
    attempt,
    delivery_takeover,
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
)

LEASE_MS_MAX = HOUR_MS  # the settings allow ten minutes
# The clocks of two sinks, or of one before and after a correction. Below the hour that the biller
# remembers an identifier longer than the sink relies on it.
CLOCKS_DIFFER_MS_MAX = HOUR_MS // 2
# The state of a meter event after a call, by result. Other results leave the event `sent`.
_STATE_AFTER: dict[Result, State] = {
    "delivered": "delivered",
    "duplicate": "delivered",
    "collision": "rejected",
    "rejected": "rejected",
}
_RETRIED: tuple[Result, ...] = ("failed", "foreign", "refused")
_OPEN: tuple[State, ...] = ("planned", "sent")
# Whatever happened since the call: if it counted, its meter event is delivered.
_BEFORE_DELIVERED: tuple[State, ...] = (*_OPEN, *STUCK)
_event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]


def _pending_records() -> Select[Any]:
    """Select the pending records of a tenant and outcome, each with the price of its charge."""
    p, r, c = pending_record.c, _record.c, _charge.c
    priced = ("policy", "policy_version", "price", "currency")
    return (
        select(p.seq, r.id, p.quantity, p.occurred_at, r.supersedes)
        .add_columns(*(case((c.id.is_(None), r[name]), else_=c[name]) for name in priced))
        .join_from(pending_record, _record, r.seq == p.seq)
        .outerjoin(_charge, takes_back(_record, _charge))
        .where(p.tenant_id == bindparam("tenant"), p.outcome == bindparam("of"))
        .where(p.occurred_at >= bindparam("from"), p.occurred_at < bindparam("to"))
        .where(p.missing_charge.is_(None))
        .order_by(p.occurred_at, p.seq)
        .limit(bindparam("max"))
    )


# To make it for each tenant anew would take longer than to execute it.
_record, _charge = usage_record.alias(), usage_record.alias()
_PENDING = _pending_records()


def pending_sums(ledger: Ledger) -> list[PendingSum]:
    """Add up the pending records by tenant and outcome, sorted by both."""
    p = pending_record.c
    at = case((p.missing_charge.is_(None), p.occurred_at))
    query = (
        select(p.tenant_id, p.outcome, func.count(), func.count(p.missing_charge))
        .add_columns(func.sum(p.quantity), func.min(at), func.max(at))
        .group_by(p.tenant_id, p.outcome)
        .order_by(p.tenant_id, p.outcome)
    )
    with ledger.reading() as connection:
        return [
            PendingSum(tenant, outcome, number - missing, int(total) + missing, -missing, *times)
            for tenant, outcome, number, missing, total, *times in connection.execute(query)
        ]


def pending_records(
    ledger: Ledger,
    tenant_id: str,
    outcome: str,
    records_max: int,
    from_ms: int = -(2**62),
    to_ms: int = 2**62,
    before: Mapping[int, int] | None = None,
) -> list[PendingRecord]:
    """Return pending records by (occurred_at, seq), without reversals of unknown charges.

    Covers units with `from_ms <= occurred_at < to_ms`. `before` limits them to charges before an offset
    of the topic, by partition.
    """
    query = _PENDING
    if before is not None:
        places = [
            and_(_record.c.record_partition == partition, _record.c.record_offset < end)
            for partition, end in before.items()
        ]
        query = query.where(or_(*places), pending_record.c.quantity > 0)
    values = {"tenant": tenant_id, "of": outcome, "from": from_ms, "to": to_ms, "max": records_max}
    with ledger.reading() as connection:
        return [PendingRecord(*row) for row in connection.execute(query, values)]


def open_sums(ledger: Ledger) -> list[OpenSum]:
    """Add up the units that the biller does not have yet: pending, planned or sent.

    Units of meter events that wait for an operator have not either. A -1 counts under the policy of
    the record that it takes back.
    """
    r, s = usage_record.alias("r"), usage_record.alias("s")
    unplanned = select(pending_record.c.seq.label("seq"), literal("pending").label("state"))
    # Two queries, because each has an index of its own.
    open_, stuck = (
        select(meter_event_record.c.record_seq, meter_event.c.state)
        .join(meter_event, meter_event.c.identifier == meter_event_record.c.identifier)
        .where(meter_event.c.state.in_(states))
        for states in (_OPEN, STUCK)
    )
    seqs = unplanned.union_all(open_, stuck).subquery()
    policy = func.coalesce(s.c.policy, r.c.policy)
    version = func.coalesce(s.c.policy_version, r.c.policy_version)
    query = (
        select(seqs.c.state, r.c.tenant_id, r.c.outcome, policy, version, func.sum(r.c.quantity))
        .select_from(seqs)
        .join(r, r.c.seq == seqs.c.seq)
        .outerjoin(s, s.c.id == r.c.supersedes)
        .group_by(seqs.c.state, r.c.tenant_id, r.c.outcome, policy, version)
    )
    with ledger.reading() as connection:
        return [
            OpenSum(state, tenant_id, outcome, name, number, int(quantity))
            for state, tenant_id, outcome, name, number, quantity in connection.execute(query)
        ]


def stuck_counts(ledger: Ledger) -> dict[str, int]:
    """Return how many meter events wait for an operator, by state."""
    m = meter_event.c
    query = select(m.state, func.count()).where(m.state.in_(STUCK)).group_by(m.state)
    counts: dict[str, int] = dict.fromkeys(STUCK, 0)
    with ledger.reading() as connection:
        counts.update((state, number) for state, number in connection.execute(query))
    return counts


def rejected_queues(ledger: Ledger) -> set[tuple[str, str]]:
    """Return the customers and meters that have a rejected meter event."""
    m = meter_event.c
    query = select(m.customer, m.event_name).where(m.state == "rejected").distinct()
    with ledger.reading() as connection:
        return {(customer, event_name) for customer, event_name in connection.execute(query)}


def store_planned(ledger: Ledger, planned: Sequence[PlannedEvent], now_ms: int) -> bool:
    """Store meter events that the journal does not have yet, with their records, all or nothing.

    Nothing is sent for them before they are in the journal. Returns False, and stores nothing, if
    another process has planned one of the records.
    """
    if not planned:
        return True
    covered = [
        PendingKey(item.event.tenant_id, item.event.outcome, record.occurred_at, record.seq)
        for item in planned
        for record in item.records
    ]
    links = [
        {"record_seq": record.seq, "identifier": item.event.identifier}
        for item in planned
        for record in item.records
    ]
    events = [
        {**_fields(item.event), "lease_until": 0, "created_at": now_ms, "updated_at": now_ms}
        for item in planned
    ]
    with ledger.writing() as connection:
        # 1. Deleting the pending rows decides which sink plans the records.
        if delete_pending(connection, covered) != len(covered):
            connection.rollback()
            return False
        # 2. The events and their records. Later, only an event's state and lease change.
        connection.execute(insert(meter_event), events)
        connection.execute(insert(meter_event_record), links)
    return True


def _fields(event: MeterEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in MeterEvent.__struct_fields__}


def due(
    ledger: Ledger,
    now_ms: int,
    events_max: int,
    *,
    run: str | None = None,
    without: Collection[str] = (),
) -> list[MeterEvent]:
    """Return meter events that can be sent now and that no sink has leased.

    Only those that the journal has, and that `run` may call: it planned them, or took them over.
    Leaves out those for the meters of `without`, which are event names.

    First the oldest of each customer and meter, then the second of each, and so on: one with many
    events, or one whose calls fail, holds up no other. Those tried least recently come first.

    An event with a timestamp after `now_ms` waits, because a biller may reject it for good.
    """
    m = meter_event.c
    turn = func.row_number().over(
        partition_by=(m.customer, m.event_name), order_by=(m.hour, m.identifier)
    )
    query = (
        select(*_event_columns)
        .where(m.state.in_(_OPEN), _is_free(now_ms))
        .where(m.timestamp <= now_ms // 1000, m.event_name.not_in(without))
        .where(m.journal_state.is_not(None))
        .order_by(turn, m.updated_at, m.hour, m.identifier)
        .limit(events_max)
    )
    if run is not None:
        query = query.where(or_(m.voucher == run, _taken_over(run)))
    with ledger.reading() as connection:
        return [MeterEvent(**row._mapping) for row in connection.execute(query)]


def _taken_over(run: str) -> ColumnElement[bool]:
    t = delivery_takeover.c
    return exists().where(t.identifier == meter_event.c.identifier, t.run == run)


def _is_free(now_ms: int) -> ColumnElement[bool]:
    """Return whether no sink has leased a meter event. No lease is long: a clock was set back."""
    until = meter_event.c.lease_until
    return or_(until <= now_ms, until > now_ms + LEASE_MS_MAX)


def _earlier_calls(event: MeterEvent) -> Select[Any, Any, int]:
    """Select the first and the last call that may have counted, and how many responses were repeated."""
    perhaps_counted = attempt.c.result.in_(PERHAPS_COUNTED)
    return (
        select(
            func.min(attempt.c.at).filter(perhaps_counted),
            func.max(attempt.c.at).filter(perhaps_counted),
            func.count().filter(and_(attempt.c.result.in_(_RETRIED), attempt.c.replayed)),
        )
        .where(attempt.c.identifier == event.identifier)
        .where(attempt.c.body_sha256 == event.body_sha256)
    )


def lease(
    ledger: Ledger,
    event: MeterEvent,
    owner: str,
    now_ms: int,
    *,
    until_ms: int,
    remembered_from_ms: int,
    perhaps_counted: bool = False,
) -> Lease | NotLeased:
    """Store that a call is about to be made, before the call.

    The lease of `owner`, the run of the sink, ends at `until_ms`; then another sink may send the
    event. An attempt before `remembered_from_ms` that may have been counted makes the event
    UNCERTAIN, for good, because the biller may no longer recognise its identifier. The first such
    attempt decides, not the last: it is the one that the biller forgets first. So does one of a time
    to come: a clock was set back, and nobody knows how old it is. Nobody may have made an attempt that
    the ledger does not have before `vouched_at` (see `journal`): so if that is too long ago, the event
    is UNCERTAIN too.

    `perhaps_counted`: the caller knows of such an attempt, even if the ledger has lost it.
    """
    m = meter_event.c
    move = (
        update(meter_event)
        .where(
            m.identifier == event.identifier,
            m.state.in_(_OPEN),
            or_(_is_free(now_ms), m.owner == owner),
            or_(m.voucher == owner, _taken_over(owner)),
        )
        .values(state="sent", owner=owner, lease_until=until_ms, updated_at=now_ms)
    )
    with ledger.writing() as connection:
        if connection.execute(move).rowcount != 1:
            return NotLeased.TAKEN
        perhaps_counted_at, last_at, replays = connection.execute(_earlier_calls(event)).one()
        vouched = select(m.vouched_at, m.voucher).where(m.identifier == event.identifier)
        vouched_at, voucher = connection.execute(vouched).one()
        is_old = min(vouched_at, perhaps_counted_at or vouched_at) < remembered_from_ms
        if is_old or (last_at or 0) > now_ms + CLOCKS_DIFFER_MS_MAX:
            values = {"state": "uncertain", "lease_until": 0}
            connection.execute(
                update(meter_event).where(m.identifier == event.identifier).values(values)
            )
            return NotLeased.UNCERTAIN
        # For a day the biller repeats the response that it stored for a key. After a repeated failure,
        # only a new key makes a real call.
        key = event.identifier if not replays else f"{event.identifier}.{replays}"
        written = connection.execute(
            insert(attempt).values(
                identifier=event.identifier,
                at=now_ms,
                owner=owner,
                body_sha256=event.body_sha256,
                idempotency_key=key,
                result="unanswered",
                replayed=False,
            )
        )
        assert written.inserted_primary_key is not None
        return Lease(
            identifier=event.identifier,
            owner=owner,
            attempt=written.inserted_primary_key[0],
            perhaps_counted=(perhaps_counted or perhaps_counted_at is not None or voucher != owner),
            idempotency_key=key,
        )


def conclude(ledger: Ledger, lease: Lease, conclusion: Conclusion, now_ms: int) -> list[str]:
    """Store a call's result, move the event's state if the result decides it, end the lease.

    Returns other identifiers under which the same units were counted: an operator released them
    while a call was under way. Usually there are none.
    """
    m, a = meter_event.c, attempt.c
    with ledger.writing() as connection:
        # A restored ledger may have given the number of this attempt to another one.
        ours = and_(a.seq == lease.attempt, a.identifier == lease.identifier)
        connection.execute(
            update(attempt)
            .where(ours, a.owner == lease.owner, a.result == "unanswered")
            .values(answered_at=now_ms, **msgspec.structs.asdict(conclusion))
        )
        move = update(meter_event).where(m.identifier == lease.identifier)
        state = _STATE_AFTER.get(conclusion.result)
        # A late response never undoes another sink's conclusion; that the event counts is certain.
        before: tuple[State, ...] = _BEFORE_DELIVERED if state == "delivered" else ("sent",)
        moved = None
        if state is not None:
            values = {"state": state, "lease_until": 0, "updated_at": now_ms}
            moved = connection.execute(move.where(m.state.in_(before)).values(values))
        if moved is None or moved.rowcount == 0:
            owned = move.where(m.owner == lease.owner, m.lease_until > now_ms)
            updated_at = case((m.state == "sent", now_ms), else_=m.updated_at)
            connection.execute(owned.values(lease_until=now_ms, updated_at=updated_at))
        if state != "delivered":
            return []
        if moved is not None and moved.rowcount == 0:
            take_back_release(connection, lease.identifier, now_ms)
        return counted_again(connection, lease.identifier)


def mark_altered(ledger: Ledger, event: MeterEvent, now_ms: int) -> bool:
    """Keep a meter event from being sent, because its content is not the one that was planned.

    Returns False if another sink holds its lease, or it is concluded.
    """
    m = meter_event.c
    move = (
        update(meter_event)
        .where(m.identifier == event.identifier, m.state.in_(_OPEN), _is_free(now_ms))
        .values(state="altered", updated_at=now_ms)
    )
    with ledger.writing() as connection:
        return connection.execute(move).rowcount == 1
