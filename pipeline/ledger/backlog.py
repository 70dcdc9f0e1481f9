"""Read what a planner asks about pending records: of which units they are, and what is closed."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import func, select

from pipeline.ledger.database import Ledger
from pipeline.ledger.pending import takes_back
from pipeline.ledger.tables import account_grant, closing, pending_record, usage_record

_LOOKUP_IDS_MAX = 500
_record, _charge = usage_record.alias(), usage_record.alias()


class UnitSum(NamedTuple):
    """Pending units under one version of a policy; a -1 counts under the policy of its charge."""

    policy: str
    policy_version: int
    quantity: int


def closed_until(ledger: Ledger) -> dict[str, int]:
    """Return the end of the last closed period of each account that has one."""
    c = closing.c
    query = select(c.account, func.max(c.period_end)).group_by(c.account)
    with ledger.reading() as connection:
        return dict(map(tuple, connection.execute(query)))


def accounts_with_packs(ledger: Ledger) -> set[str]:
    """Return the accounts that have bought units in advance."""
    g = account_grant.c
    with ledger.reading() as connection:
        return set(connection.scalars(select(g.account).where(g.kind == "pack").distinct()))


def newest_seq(ledger: Ledger) -> int:
    """Return the number of the usage record that was stored last; 0 if there is none."""
    with ledger.reading() as connection:
        return connection.scalar(select(func.coalesce(func.max(usage_record.c.seq), 0))) or 0


def first_at(ledger: Ledger, tenant_id: str, outcome: str, from_ms: int) -> int | None:
    """Return the time of the first pending unit at or after a time; None if there is none."""
    p = pending_record.c
    query = select(func.min(p.occurred_at)).where(
        p.tenant_id == tenant_id,
        p.outcome == outcome,
        p.occurred_at >= from_ms,
        p.missing_charge.is_(None),
    )
    with ledger.reading() as connection:
        at: int | None = connection.scalar(query)
    return at


def has_charge(ledger: Ledger, tenant_id: str, outcome: str, from_ms: int, to_ms: int) -> bool:
    """Return whether a +1 is among the pending units with `from_ms <= time < to_ms`."""
    p = pending_record.c
    query = (
        select(p.seq)
        .where(p.tenant_id == tenant_id, p.outcome == outcome, p.quantity > 0)
        .where(p.occurred_at >= from_ms, p.occurred_at < to_ms)
        .limit(1)
    )
    with ledger.reading() as connection:
        return connection.scalar(query) is not None


def unit_sums(
    ledger: Ledger, tenant_id: str, outcome: str, from_ms: int, to_ms: int
) -> list[UnitSum]:
    """Add up the pending units of a tenant and outcome with `from_ms <= time < to_ms`."""
    p = pending_record.c
    within = (p.occurred_at >= from_ms, p.occurred_at < to_ms, p.missing_charge.is_(None))
    return _sums(ledger, tenant_id, outcome, *within)


def unmatched_sums(ledger: Ledger, tenant_id: str, outcome: str) -> list[UnitSum]:
    """Add up the pending reversals whose charge the ledger lacks."""
    return _sums(ledger, tenant_id, outcome, pending_record.c.missing_charge.is_not(None))


def _sums(ledger: Ledger, tenant_id: str, outcome: str, *which: Any) -> list[UnitSum]:
    p, r, c = pending_record.c, _record.c, _charge.c
    policy = func.coalesce(c.policy, r.policy)
    version = func.coalesce(c.policy_version, r.policy_version)
    query = (
        select(policy, version, func.sum(p.quantity))
        .select_from(pending_record)
        .join(_record, r.seq == p.seq)
        .outerjoin(_charge, takes_back(_record, _charge))
        .where(p.tenant_id == tenant_id, p.outcome == outcome, *which)
        .group_by(policy, version)
    )
    with ledger.reading() as connection:
        return sorted(
            UnitSum(name, number, int(units)) for name, number, units in connection.execute(query)
        )


def pending_charges(
    ledger: Ledger, tenant_ids: Collection[str], from_ms: int, to_ms: int
) -> dict[str, str]:
    """Return the outcome of each pending +1 of tenants with `from_ms <= time < to_ms`, by id."""
    p, r = pending_record.c, usage_record.c
    query = (
        select(r.id, r.outcome)
        .join_from(pending_record, usage_record, r.seq == p.seq)
        .where(p.tenant_id.in_(tenant_ids), p.quantity > 0)
        .where(p.occurred_at >= from_ms, p.occurred_at < to_ms)
    )
    with ledger.reading() as connection:
        return dict(map(tuple, connection.execute(query)))


def span_of_charges(ledger: Ledger, tenant_ids: Collection[str]) -> tuple[int, int] | None:
    """Return the times of the first and the last pending +1 of tenants; None if there is none."""
    p = pending_record.c
    query = select(func.min(p.occurred_at), func.max(p.occurred_at)).where(
        p.tenant_id.in_(tenant_ids), p.quantity > 0
    )
    with ledger.reading() as connection:
        first, last = connection.execute(query).one()
    return None if first is None else (first, last)


def outcome_counts(ledger: Ledger, ids: Sequence[str]) -> Counter[str]:
    """Count usage records by outcome."""
    r = usage_record.c
    counts: Counter[str] = Counter()
    with ledger.reading() as connection:
        for start in range(0, len(ids), _LOOKUP_IDS_MAX):
            part = ids[start : start + _LOOKUP_IDS_MAX]
            query = select(r.outcome, func.count()).where(r.id.in_(part)).group_by(r.outcome)
            counts.update(dict(map(tuple, connection.execute(query))))
    return counts
