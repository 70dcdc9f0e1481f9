"""Read what the ledger has of an account: usage records, grants and closings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, literal, select

from pipeline.billing.approvals import Decisions
from pipeline.billing.contract import BilledAccount, Contract
from pipeline.billing.grants import Grant
from pipeline.billing.periods import Period
from pipeline.billing.reading import entered_grants, read_grant_lines
from pipeline.billing.run import statements
from pipeline.billing.statement import Statement
from pipeline.billing.units import Entered
from pipeline.catalog.prices import Prices
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.ledger import months
from pipeline.ledger.closes import Closed, Closes
from pipeline.ledger.entries import STUCK
from pipeline.ledger.pricing import price_in_ledger
from pipeline.ledger.tables import (
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
)

# A withdrawn meter event has records only until the journal has its conclusion.
_UNDER_WAY = ("planned", "sent", "withdrawing", "withdrawn")


@dataclass(frozen=True)
class History:
    """What the ledger has of an account."""

    contract: Contract
    rows: list[Row[Any]]  # its usage records, in the order in which they were stored
    prices: list[Decimal | None]
    lines: list[tuple[str, bytes]]  # of grants
    grants: list[Grant]
    closes: Closes

    @cached_property
    def records(self) -> list[Entered]:
        """Its usage records, each with the time from which statements know it."""
        return [
            Entered(
                id=row.id,
                tenant_id=row.tenant_id,
                outcome=row.outcome,
                quantity=row.quantity,
                occurred_at=row.occurred_at,
                stored_at=self.closes.stored_at(
                    row.partition,
                    row.seq,
                    row.offset,
                    row.occurred_at if row.stored_at is None else row.stored_at,
                ),
                supersedes=row.supersedes,
                price=price,
                policy=row.policy,
                policy_version=row.policy_version,
            )
            for row, price in zip(self.rows, self.prices, strict=True)
        ]

    def closed_also(self, closed: Closed) -> "History":
        """Return the history as it is once a further period is closed."""
        return replace(self, closes=self.closes.also(closed))

    @property
    def awaited(self) -> Closed | None:
        """The first closing that knew usage records which the ledger has not read yet."""
        return next(filter(self.closes.reading.is_behind, self.closes.closings), None)

    def with_grant(self, account: str, line: bytes) -> tuple["History", list[str]]:
        """Return the history with a further grant or void, and the problems of that."""
        grants, problems = _grants([*self.lines, ("grant", line)], account, self.contract.currency)
        return replace(self, grants=grants), problems

    def statements(self, since: Period, through: Period, as_of: int) -> Iterator[Statement]:
        """Yield the statements up to a period, from `since` or the first with something to state."""
        closings = self.closes.closings
        if closings:
            since = min(since, self.contract.calendar.period_at(closings[0].period_start))
        return statements(
            self.contract, self.records, self.grants, self.closes, through, as_of, since
        )

    def named(self, period: str) -> Period:
        """Return the period with a name.

        Raises:
            ConfigurationError: there is none.
        """
        try:
            return self.contract.calendar.named(period)
        except ValueError as error:
            raise ConfigurationError([f"--period {period}: {error}"]) from None

    def next_to_close(self, at: int) -> Period:
        """Return the period after the last that is closed, else the last that has ended."""
        calendar = self.contract.calendar
        return self.closes.following or calendar.period_at(calendar.period_at(at).start_ms - 1)


def read_history(connection: Connection, account: BilledAccount, prices: Prices) -> History:
    """Read what the ledger has of an account, from one snapshot."""
    rows = _owned(
        account,
        [row for tenant_id in account.tenant_ids for row in _rows_of(connection, tenant_id)],
    )
    priced = [_price_of(row, prices) for row in rows]
    contract = account.contract_of({each[1].lower() for each in priced if each})
    closings = months.closings_of(connection, account.name)
    decisions = Decisions(months.approvals_of(connection, account.name))
    lines = months.grant_lines(connection, account.name)
    grants, problems = _grants(lines, account.name, contract.currency)
    if problems:
        raise BrokenInvariantError(f"the ledger has grants that it refuses: {problems}")
    return History(
        contract=contract,
        rows=rows,
        prices=[
            price[0] if price and price[1].lower() == contract.currency else None
            for price in priced
        ],
        lines=lines,
        grants=grants,
        closes=Closes(account.name, contract, closings, months.reading(connection), decisions),
    )


def _rows_of(connection: Connection, tenant_id: str) -> list[Row[Any]]:
    """Return the usage records of a tenant."""
    r = usage_record.c
    names = ("seq", "id", "tenant_id", "outcome", "quantity", "occurred_at", "supersedes")
    more = ("policy", "policy_version", "stored_at", "price", "currency")
    place = (r.record_partition.label("partition"), r.record_offset.label("offset"))
    # The index of ids serves this range: an id begins with its tenant. ";" is the character after ":".
    query: Select[Any] = select(*(r[name].label(name) for name in (*names, *more)), *place).where(
        r.id >= f"{tenant_id}:", r.id < f"{tenant_id};", r.tenant_id == tenant_id
    )
    return list(connection.execute(query))


def _owned(account: BilledAccount, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return the rows of the account's units, in the order in which they were stored.

    A reversal follows its charge, wherever the tenant is.
    """
    charges = {row.id: row for row in rows if row.quantity > 0}
    units = ((row, charges.get(row.supersedes or "", row)) for row in rows)
    owned = [row for row, of in units if account.owns(of.tenant_id, of.occurred_at)]
    return sorted(owned, key=lambda row: row.seq)


def _price_of(row: Row[Any], prices: Prices) -> tuple[Decimal, str] | None:
    source = (row.tenant_id, row.outcome, row.policy, row.policy_version)
    return price_in_ledger(row.price, row.currency, source, prices)


def _grants(
    lines: Sequence[tuple[str, bytes]], account: str, currency: str
) -> tuple[list[Grant], list[str]]:
    parsed, problems = read_grant_lines(lines)
    grants, more = entered_grants(parsed, account, currency)
    return grants, problems + more


# --- what is not at the biller --------------------------------------------------------------------


class Undelivered(NamedTuple):
    """A usage record that is not at the biller: `pending`, or in a meter event in this state."""

    tenant_id: str
    unit: str  # the id of its charge
    quantity: int
    state: str


def undelivered_records(connection: Connection, tenant_ids: Sequence[str]) -> list[Undelivered]:
    """Return the usage records of tenants that are pending, under way, or wait for an operator."""
    r, m, p = usage_record.c, meter_event.c, pending_record.c
    unit = func.coalesce(r.supersedes, r.id)
    pending = (
        select(r.tenant_id, unit, r.quantity, literal("pending"))
        .join_from(pending_record, usage_record, r.seq == p.seq)
        .where(p.tenant_id.in_(tenant_ids))
    )
    # Two queries, because each has an index of its own.
    planned, stuck = (
        select(r.tenant_id, unit, r.quantity, m.state)
        .join_from(meter_event, meter_event_record, m.identifier == meter_event_record.c.identifier)
        .join(usage_record, r.seq == meter_event_record.c.record_seq)
        .where(m.tenant_id.in_(tenant_ids), m.state.in_(states))
        for states in (_UNDER_WAY, STUCK)
    )
    rows = connection.execute(pending.union_all(planned, stuck))
    return [Undelivered(*row) for row in rows]
