"""Store meter events with their usage records, and add up what the biller does not have yet."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import (
    STUCK,
    MeterEvent,
    OpenSum,
    PendingKey,
    PendingRecord,
    PendingSum,
    PlannedEvent,
    State,
)
from pipeline.ledger.pending import delete_pending, takes_back
from pipeline.ledger.tables import (
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
    withdrawn_record,
)
from pipeline.ledger.withdrawals import is_being_withdrawn

_OPEN: tuple[State, ...] = ("planned", "sent")


def _pending_records() -> Select[Any]:
    """Select the pending records of a tenant and outcome, each with the price of its charge."""
    p, r, c = pending_record.c, _record.c, _charge.c
    withdrawn = select(func.count()).select_from(withdrawn_record)
    withdrawn = withdrawn.where(withdrawn_record.c.id == r.id)
    priced = ("policy", "policy_version", "price", "currency")
    return (
        select(p.seq, r.id, p.quantity, p.occurred_at, r.supersedes)
        .add_columns(*(case((c.id.is_(None), r[name]), else_=c[name]) for name in priced))
        .add_columns(withdrawn.scalar_subquery(), is_being_withdrawn(_charge))
        .join_from(pending_record, _record, r.seq == p.seq)
        .outerjoin(_charge, takes_back(_record, _charge))
        .where(p.tenant_id == bindparam("tenant"), p.outcome == bindparam("of"))
        .where(p.occurred_at >= bindparam("from"), p.occurred_at < bindparam("to"))
        .where(p.missing_charge.is_(None))
        .order_by(p.occurred_at, p.seq)
        .limit(bindparam("max"))
    )


# To make it again for each tenant would take longer than to execute it.
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
