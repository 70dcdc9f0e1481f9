"""Read the ledger: usage, the units that Stripe must count, the records of a conversation."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import chain, groupby
from typing import Any

import msgspec
import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    cast,
    func,
    not_,
    or_,
    select,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.decisions import decisions_about
from pipeline.ledger.entries import (
    STUCK,
    Attempt,
    Decided,
    DeliveredSum,
    MeterEvent,
    Receipt,
    StatedOn,
    UsageSum,
    Withdrawn,
)
from pipeline.ledger.lineage import lineage
from pipeline.ledger.tables import (
    attempt,
    closing,
    meter_event,
    meter_event_record,
    pending_record,
    stated_record,
    usage_record,
    withdrawn_record,
)
from pipeline.usage.record import Origin, UsageRecord

# Withdrawn meter events are counted too, for a while: Stripe's sums follow later.
_TRIED = (
    *("sent", "delivered", "rejected", "uncertain", "altered", "settled"),
    *("withdrawing", "withdrawn"),
)
_SHOWN = ("netted", "settled", *STUCK)
_FIRST_MS, _LAST_MS = -(2**62), 2**62
_IDENTIFIERS_LOOKUP_MAX = 500
_ROWS_AT_ONCE = 10_000


def usage(
    ledger: Ledger,
    *,
    tenant_id: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    account_of: Callable[[str, int], str] | None = None,
) -> list[UsageSum]:
    """Add up usage by tenant, outcome, policy version and price, sorted by these.

    Covers records with `from_ms <= occurred_at < to_ms`. `account_of` says who is billed for a tenant's
    units of a time; without it, late units count as pending.
    """
    r, s = usage_record.alias("r"), usage_record.alias("s")  # s: the charge that a -1 takes back
    by = {
        "tenant_id": r.c.tenant_id,
        "outcome": r.c.outcome,
        **{
            name: func.coalesce(s.c[name], r.c[name])
            for name in ("policy", "policy_version", "price", "currency")
        },
    }
    key = [column.label(name) for name, column in by.items()]
    kind = func.coalesce(s.c.kind, r.c.kind)
    at = r.c.occurred_at
    which = [at >= (_FIRST_MS if from_ms is None else from_ms)]
    which.append(at < (_LAST_MS if to_ms is None else to_ms))
    if tenant_id is not None:
        which.append(r.c.tenant_id == tenant_id)

    def total(condition: Any) -> Any:
        return cast(func.sum(case((condition, r.c.quantity), else_=0)), BigInteger)

    query = (
        select(
            *key,
            cast(func.sum(r.c.quantity), BigInteger).label("quantity"),
            total(kind == "confirmed").label("confirmed"),
            total(kind == "assumed").label("assumed"),
            total(stated_record.c.record_seq.is_not(None)).label("stated"),
            total(meter_event.c.state.in_(("delivered", "withdrawing"))).label("delivered"),
            *(total(meter_event.c.state == state).label(state) for state in _SHOWN),
        )
        .select_from(r)
        .outerjoin(s, s.c.id == r.c.supersedes)
        .outerjoin(stated_record, stated_record.c.record_seq == r.c.seq)
        .outerjoin(meter_event_record, meter_event_record.c.record_seq == r.c.seq)
        .outerjoin(meter_event, meter_event.c.identifier == meter_event_record.c.identifier)
        .where(*which)
        .group_by(*by.values())
    )
    p = pending_record.c
    of_pending = (
        select(*key, r.c.quantity, p.occurred_at.label("unit_at"))
        .select_from(r)
        .join(pending_record, p.seq == r.c.seq)
        .outerjoin(s, s.c.id == r.c.supersedes)
        .where(p.missing_charge.is_(None), *which)
    )
    with ledger.reading() as connection:
        rows = connection.execute(query).all()
        late = _late(connection, of_pending, account_of) if account_of else {}
    sums = [UsageSum(**row._mapping, late=late.get(tuple(row[: len(key)]), 0)) for row in rows]
    # Sorted here, because databases differ in how they order text.
    return sorted(
        sums, key=lambda u: (u.tenant_id, u.outcome, u.policy, u.policy_version, u.price or "")
    )


def _late(
    connection: Connection, of_pending: Select[Any], account_of: Callable[[str, int], str]
) -> Counter[tuple[Any, ...]]:
    """Add up the pending units of closed periods, by what `usage` adds up by."""
    c, units = closing.c, Counter[tuple[Any, ...]]()
    rows = connection.execute(select(c.account, func.max(c.period_end)).group_by(c.account))
    closed_until = dict(map(tuple, rows))
    if closed_until:
        before = pending_record.c.occurred_at < max(closed_until.values())
        for *key, quantity, unit_at in connection.execute(of_pending.where(before)):
            if unit_at < closed_until.get(account_of(key[0], unit_at), 0):
                units[tuple(key)] += quantity
    return units


def reversals_across(
    ledger: Ledger, tenant_id: str | None, from_ms: int | None, to_ms: int | None
) -> tuple[int, int]:
    """Count the reversals in a range of times whose charge is outside of it, and the opposite.

    `usage` counts a reversal when it occurred, a statement in the period of its charge.
    """
    r, s = usage_record.alias("r"), usage_record.alias("s")

    def is_within(at: Any) -> Any:
        return and_(
            at >= (_FIRST_MS if from_ms is None else from_ms),
            at < (_LAST_MS if to_ms is None else to_ms),
        )

    own, of_charge = is_within(r.c.occurred_at), is_within(s.c.occurred_at)
    query = select(
        func.coalesce(func.sum(case((and_(own, not_(of_charge)), 1), else_=0)), 0),
        func.coalesce(func.sum(case((and_(of_charge, not_(own)), 1), else_=0)), 0),
    ).select_from(r.join(s, s.c.id == r.c.supersedes))
    if tenant_id is not None:
        query = query.where(r.c.tenant_id == tenant_id)
    with ledger.reading() as connection:
        here, elsewhere = connection.execute(query).one()
    return int(here), int(elsewhere)


def receipts(ledger: Ledger, tenant_id: str, conversation: str) -> list[Receipt]:
    """Return all usage records of a conversation, in the order in which they were stored."""
    r, s = usage_record.alias("r"), usage_record.alias("s")
    prefix = f"{tenant_id}:{conversation}:"
    query = (
        select(
            *(column.label(name) for name, column in r.c.items()),
            s.c.policy.label("superseded_policy"),
            s.c.policy_version.label("superseded_version"),
            meter_event_record.c.identifier.label("identifier"),
            closing.c.account.label("stated_account"),
            closing.c.period_start.label("stated_period"),
        )
        .select_from(r)
        .outerjoin(s, s.c.id == r.c.supersedes)
        .outerjoin(meter_event_record, meter_event_record.c.record_seq == r.c.seq)
        .outerjoin(stated_record, stated_record.c.record_seq == r.c.seq)
        .outerjoin(closing, closing.c.seq == stated_record.c.closing_seq)
        # The index serves this range. The range also has conversations whose id merely begins with
        # this one, which the next line leaves out.
        .where(r.c.id >= prefix, r.c.id < prefix[:-1] + chr(ord(":") + 1))
        .where(r.c.tenant_id == tenant_id, r.c.conversation == conversation)
        .order_by(r.c.seq)
    )
    with ledger.reading() as connection:
        rows = list(connection.execute(query))
        withdrawn = _withdrawn(connection, [row.id for row in rows])
        identifiers = sorted(
            {row.identifier for row in rows if row.identifier is not None}
            | {identifier for names in withdrawn.values() for identifier in names}
        )
        # What an operator released has its calls under the earlier identifiers, too.
        lineages = {identifier: lineage(identifier) for identifier in identifiers}
        of_all = sorted({each for names in lineages.values() for each in names})
        events, attempts = _deliveries(connection, of_all)
        decided = decisions_about(connection, of_all)
    receipts: list[Receipt] = []
    for row in rows:
        names = lineages.get(row.identifier, [])
        calls = (attempts.get(name, ()) for name in names)
        about = tuple(decision for decision in decided if decision.identifier in names)
        before = tuple(
            Withdrawn(events[name], tuple(attempts.get(name, ())))
            for name in withdrawn.get(row.id, ())
        )
        receipt = _receipt(row, events.get(row.identifier), tuple(chain(*calls)), about)
        receipts.append(msgspec.structs.replace(receipt, withdrawn=before))
    return receipts


def _withdrawn(connection: Connection, ids: list[str]) -> dict[str, list[str]]:
    """Return the withdrawn meter events of usage records, by record, oldest first."""
    w, m = withdrawn_record.c, meter_event.c
    found: dict[str, list[str]] = {}
    for start in range(0, len(ids), _IDENTIFIERS_LOOKUP_MAX):
        query = (
            select(w.id, w.identifier)
            .join(meter_event, m.identifier == w.identifier)
            .where(w.id.in_(ids[start : start + _IDENTIFIERS_LOOKUP_MAX]))
            .order_by(m.created_at, m.identifier)
        )
        for record_id, identifier in connection.execute(query):
            found.setdefault(record_id, []).append(identifier)
    return found


def _deliveries(
    connection: Connection, identifiers: list[str]
) -> tuple[dict[str, MeterEvent], dict[str, list[Attempt]]]:
    """Return meter events and their attempts, oldest first, by identifier."""
    events: dict[str, MeterEvent] = {}
    attempts: dict[str, list[Attempt]] = {}
    event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]
    attempt_columns = [attempt.c[name] for name in Attempt.__struct_fields__]
    for start in range(0, len(identifiers), _IDENTIFIERS_LOOKUP_MAX):
        part = identifiers[start : start + _IDENTIFIERS_LOOKUP_MAX]
        query = select(*event_columns).where(meter_event.c.identifier.in_(part))
        for row in connection.execute(query):
            events[row.identifier] = MeterEvent(**row._mapping)
        calls = (
            select(attempt.c.identifier, *attempt_columns)
            .where(attempt.c.identifier.in_(part))
            .order_by(attempt.c.seq)
        )
        for row in connection.execute(calls):
            fields = {name: getattr(row, name) for name in Attempt.__struct_fields__}
            attempts.setdefault(row.identifier, []).append(Attempt(**fields))
    return events, attempts


def attempts_of(ledger: Ledger, identifier: str) -> list[Attempt]:
    """Return the calls for a meter event, and for those that it replaces, oldest first."""
    names = lineage(identifier)
    with ledger.reading() as connection:
        _, attempts = _deliveries(connection, names)
    return [call for name in names for call in attempts.get(name, ())]


def delivered_sums(ledger: Ledger, start: int, end: int, certain_until: int) -> list[DeliveredSum]:
    """Add up the units that Stripe must count, by customer and meter, sorted by both.

    Covers meter events with `start <= timestamp < end`, in seconds. Stripe's sums may not include
    an event yet that was delivered after `certain_until`, in ms, and still one that was withdrawn after it.
    """
    m = meter_event.c
    certain = and_(m.state == "delivered", m.updated_at <= certain_until)
    rejected = m.state == "rejected"
    is_gone = or_(rejected, and_(m.state == "withdrawn", m.updated_at <= certain_until))
    query = (
        select(
            m.customer,
            m.event_name,
            m.tenant_id,
            cast(func.sum(case((certain, m.value), else_=0)), BigInteger).label("least"),
            cast(func.sum(case((is_gone, 0), else_=m.value)), BigInteger).label("most"),
            cast(func.sum(case((rejected, m.value), else_=0)), BigInteger).label("rejected"),
        )
        .where(m.state.in_(_TRIED), m.timestamp >= start, m.timestamp < end)
        .group_by(m.customer, m.event_name, m.tenant_id)
    )
    with ledger.reading() as connection:
        rows = sorted(map(tuple, connection.execute(query)))
    sums: list[DeliveredSum] = []
    for (customer, event_name), rows_of_meter in groupby(rows, key=lambda row: row[:2]):
        group = list(rows_of_meter)
        sums.append(
            DeliveredSum(
                customer=customer,
                event_name=event_name,
                tenant_ids=tuple(row[2] for row in group),
                least=sum(row[3] for row in group),
                most=sum(row[4] for row in group),
                rejected=sum(row[5] for row in group),
            )
        )
    return sums


def delivered_between(ledger: Ledger) -> tuple[int, int] | None:
    """Return the first and the last timestamp of the meter events sent to Stripe, in seconds."""
    m = meter_event.c
    query = select(func.min(m.timestamp), func.max(m.timestamp)).where(m.state.in_(_TRIED))
    with ledger.reading() as connection:
        first, last = connection.execute(query).one()
    return None if first is None else (first, last)


def decided_from(ledger: Ledger, topic: str, partition: int | None) -> Iterator[UsageRecord]:
    """Yield the records whose evidence is in a partition, in the order in which they were stored.

    If `partition` is None, yield the records whose evidence has no known position.
    """
    r = usage_record.c
    return _stored(
        ledger,
        r.origin_topic.is_(None)
        if partition is None
        else and_(r.origin_topic == topic, r.origin_partition == partition),
    )


def decided_elsewhere(
    ledger: Ledger, topic: str, partitions: Collection[int]
) -> Iterator[UsageRecord]:
    """Yield the records whose evidence is in another topic, or in a partition that the topic lacks."""
    r = usage_record.c
    return _stored(ledger, or_(r.origin_topic != topic, r.origin_partition.not_in(partitions)))


def _stored(ledger: Ledger, which: ColumnElement[bool]) -> Iterator[UsageRecord]:
    r = usage_record.c
    query = (
        select(*(r[name].label(name) for name in UsageRecord.__struct_fields__))
        .where(which)
        .order_by(r.seq)
    )
    with ledger.reading() as connection:
        for row in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query):
            yield _record(row)


def ids_of(ledger: Ledger, tenant_id: str, conversation: str) -> list[str]:
    """Return the ids of a conversation's usage records, in no particular order."""
    r = usage_record.c
    prefix = f"{tenant_id}:{conversation}:"
    query = (
        select(r.id)
        .where(r.id >= prefix, r.id < prefix[:-1] + chr(ord(":") + 1))
        .where(r.tenant_id == tenant_id, r.conversation == conversation)
    )
    with ledger.reading() as connection:
        return list(connection.execute(query).scalars())


def _record(row: Any) -> UsageRecord:
    fields = {name: getattr(row, name) for name in UsageRecord.__struct_fields__}
    fields["evidence"] = orjson.loads(row.evidence)
    return msgspec.convert(fields, UsageRecord)


def _receipt(
    row: Any,
    event: MeterEvent | None,
    attempts: tuple[Attempt, ...],
    decisions: tuple[Decided, ...],
) -> Receipt:
    origin = None
    if row.origin_topic is not None:
        origin = Origin(
            row.origin_topic, row.origin_partition, tuple(orjson.loads(row.origin_offsets))
        )
    superseded = None
    if row.superseded_policy is not None:
        superseded = (row.superseded_policy, row.superseded_version)
    return Receipt(
        record=_record(row),
        topic=row.record_topic,
        partition=row.record_partition,
        offset=row.record_offset,
        origin=origin,
        meter_event=event,
        attempts=attempts,
        superseded_policy=superseded,
        stated=None
        if row.stated_account is None
        else StatedOn(row.stated_account, row.stated_period),
        decisions=decisions,
    )
