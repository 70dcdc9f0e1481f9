"""State the periods of an account, and close them: docs/reference/money.md §4 and §5.2.

A statement is made from the account's usage records, its grants and its closings. A closing stores
the final statement and what it knew, so that it can be made again and is never changed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, func, insert, select, text

from pipeline.billing.contract import BilledAccount, Contract
from pipeline.billing.grants import Grant
from pipeline.billing.periods import ALWAYS_MS, NEVER_MS, Period
from pipeline.billing.reading import entered_grants, read_grant_lines
from pipeline.billing.run import (
    Stated,
    first_period,
    missing_prices,
    problems_of_voids,
    statements,
    take,
)
from pipeline.billing.statement import Adjustment, Statement, statement_object
from pipeline.billing.units import Entered
from pipeline.catalog.accounts import is_known
from pipeline.catalog.prices import Prices
from pipeline.catalog.tenants import Tenants
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.events.times import format_time, parse_time
from pipeline.ledger import reports
from pipeline.ledger.database import Ledger
from pipeline.ledger.pricing import price_in_ledger
from pipeline.ledger.tables import account_grant, closing, usage_record


class Closing(NamedTuple):
    """A closed period: what its statement knew, and the statement as it was printed."""

    period_start: int
    closed_at: int
    records_seq: int
    statement: str


class _History(NamedTuple):
    """What the ledger has of an account."""

    contract: Contract
    records: list[Entered]
    grants: list[Grant]
    closes: "_Closes"

    def statements(self, since: Period, through: Period, as_of: int) -> Iterator[Statement]:
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


class _Closes:
    """When the periods of an account were closed."""

    def __init__(self, contract: Contract, closings: Sequence[Closing]) -> None:
        self.closings = closings
        self._contract = contract
        self._by_start = {each.period_start: each for each in closings}
        self._seqs = [each.records_seq for each in closings]
        self._times = [each.closed_at for each in closings]

    @property
    def following(self) -> Period | None:
        """The period after the last that is closed; None if none is closed."""
        calendar = self._contract.calendar
        last = self.closings[-1] if self.closings else None
        return None if last is None else calendar.after(calendar.period_at(last.period_start))

    def of(self, period: Period) -> Closing | None:
        return self._by_start.get(period.start_ms)

    def close_of(self, period: Period) -> int:
        if (found := self.of(period)) is not None:
            return found.closed_at
        # What is before the first closed period was closed with it: it had nothing to state.
        first = self.closings[0] if self.closings else None
        return first.closed_at if first and period.start_ms < first.period_start else NEVER_MS

    def oldest_open_at(self, ms: int) -> int:
        closed = bisect_right(self._times, ms)
        if not closed:
            return ALWAYS_MS
        last = self.closings[closed - 1]
        return self._contract.calendar.period_at(last.period_start).end_ms

    def waives(self, period: Period, adjustment: Adjustment) -> bool:
        return False  # no closing has a rejection

    def stored_at(self, seq: int, stored_at: int) -> int:
        """Return when a record was stored, such that each statement knows what it did know.

        The clock of a sink may differ from that of the process that closed a period.
        """
        first = bisect_left(self._seqs, seq)  # the first closing that knew it
        if first < len(self.closings):
            stored_at = min(stored_at, self._times[first] - 1)
        return max(stored_at, self._times[first - 1]) if first else stored_at


def check_accounts(ledger: Ledger, tenants: Tenants, names: Iterable[str]) -> None:
    """Check that the catalog has accounts, or the ledger usage of tenants, with these names.

    Raises:
        ConfigurationError: with every name of which nothing is known.
    """
    problems = [
        f"no account {name!r}: the ledger has no usage of it, and the catalog does not name it"
        for name in names
        if not is_known(tenants, name) and not reports.usage(ledger, tenant_id=name)
    ]
    if problems:
        raise ConfigurationError(problems)


def state_account(
    ledger: Ledger, account: BilledAccount, prices: Prices, period: str | None, as_of: int
) -> Stated:
    """Return the statement of a period of an account as of a time.

    Args:
        ledger: where its records, grants and closings are.
        account: who is billed.
        prices: what prices a record for which the ledger stored no price.
        period: the name of the period; None: the one that contains `as_of`.
        as_of: the time of which an open statement speaks, ms.

    Raises:
        ConfigurationError: no period has this name.
        BrokenInvariantError: a final statement is not the one that was stored.
    """
    history = _read_history(ledger, account, prices)
    of = history.contract.calendar.period_at(as_of) if period is None else history.named(period)
    return _stated(history, account.name, of, as_of)


def state_to_close(
    ledger: Ledger, account: BilledAccount, prices: Prices, period: str | None, at: int
) -> tuple[Stated, list[str]]:
    """Return the statement of a period as it is now, and why the ledger would not close it.

    `period` is its name; None: the one after the last that is closed, else the last that has ended.

    Raises:
        ConfigurationError: no period has this name.
    """
    history = _read_history(ledger, account, prices)
    of = history.next_to_close(at) if period is None else history.named(period)
    return _stated(history, account.name, of, at), _problems_of_close(history, of, at)


def close_period(
    ledger: Ledger, account: BilledAccount, prices: Prices, period: Period, at: int
) -> Statement:
    """Close the account's next period, and store its final statement.

    Raises:
        ConfigurationError: the period cannot be closed now; the message says why.
    """
    with ledger.writing() as connection:
        # No sink stores a record meanwhile: the statement knows all up to a number, and none after.
        if not ledger.is_sqlite:
            connection.execute(text("LOCK TABLE consumer_offset IN EXCLUSIVE MODE"))
        history = _history(connection, account, prices)
        problems = _problems_of_close(history, period, at)
        if not problems:
            known = connection.scalar(select(func.coalesce(func.max(usage_record.c.seq), 0)))
            row = Closing(period.start_ms, at, known or 0, "")
            history = _history(connection, account, prices, row)
            *_, statement = history.statements(period, period, at)
            problems = _problems_of_statement(statement)
        if problems:
            raise ConfigurationError(
                [f"{account.name}, {period.name}: {each}" for each in problems]
            )
        row = row._replace(statement=_encoded(account.name, statement))
        connection.execute(insert(closing).values(account=account.name, **row._asdict()))
    return statement


def enter_grant(ledger: Ledger, account: BilledAccount, prices: Prices, line: bytes) -> None:
    """Store a grant or a void of an account: a line of JSON (docs/reference/money.md §5.1).

    Raises:
        ConfigurationError: the line is wrong, the id is taken, a void takes more than is left, or
            the grant was created before the last close.
    """
    with ledger.writing() as connection:
        history = _history(connection, account, prices)
        lines = [*_grant_lines(connection, account.name), ("grant", line)]
        grants, problems = _grants(lines, account.name, history.contract.currency)
        if not problems:
            problems = problems_of_voids(history.contract, history.records, grants, history.closes)
        parsed = orjson.loads(line) if not problems else {}
        created_at = parse_time(parsed["created_at"]) if parsed else 0
        last = max((each.closed_at for each in history.closes.closings), default=ALWAYS_MS)
        if parsed and created_at < last:
            problems.append(
                f"grant: created_at is before the last close, {format_time(last)}: a grant never "
                "changes a final statement"
            )
        if problems:
            raise ConfigurationError([f"{account.name}: {problem}" for problem in problems])
        connection.execute(
            insert(account_grant).values(
                account=account.name,
                id=parsed.get("id") or parsed["grant"],
                kind=parsed["kind"],
                created_at=created_at,
                content=line.decode(),
            )
        )


def _stated(history: _History, account: str, period: Period, as_of: int) -> Stated:
    last = max(period, history.contract.calendar.period_at(as_of))
    statement, units = take(period, history.statements(period, last, as_of))
    _check_stored(account, statement, history.closes.of(period))
    return Stated(account, statement, units, missing_prices(statement, history.records))


def _problems_of_close(history: _History, period: Period, at: int) -> list[str]:
    closings, following = history.closes.closings, history.closes.following
    if following is not None:
        earliest = latest = following
    else:
        latest = first_period(history.contract, history.records, period)
        earliest = min(latest, period)
    problems: list[str] = []
    if period < earliest:
        problems.append("is closed already")
    if period > latest:
        problems.append(f"periods are closed in order; the next is {latest.name}")
    if at < period.end_ms:
        problems.append(f"ends only at {format_time(period.end_ms)}")
    if closings and at <= closings[-1].closed_at:
        problems.append("the clock is behind that of the last close")
    return problems


def _problems_of_statement(statement: Statement) -> list[str]:
    counts = statement.counts
    problems: list[str] = []
    if counts.unpriced:
        problems.append(f"{counts.unpriced} units have no price")
    if counts.unmatched:
        problems.append(f"{counts.unmatched} reversals name a charge that is not known")
    return problems


def _check_stored(account: str, statement: Statement, stored: Closing | None) -> None:
    if stored is None or not statement.is_final:
        return
    now = _encoded(account, statement)
    if now != stored.statement:
        raise BrokenInvariantError(
            f"the final statement of {account} for {statement.period.name} was {stored.statement}, "
            f"and would be {now} today: compare its usage records and prices with a backup of the "
            "ledger"
        )


def _encoded(account: str, statement: Statement) -> str:
    return orjson.dumps(statement_object(account, statement)).decode()


# --- rows -----------------------------------------------------------------------------------------


def _read_history(ledger: Ledger, account: BilledAccount, prices: Prices) -> _History:
    with ledger.reading() as connection:
        return _history(connection, account, prices)


def _history(
    connection: Connection,
    account: BilledAccount,
    prices: Prices,
    closes_now: Closing | None = None,
) -> _History:
    """Read what the ledger has of an account; `closes_now` is a closing that it does not have yet."""
    rows = _owned(
        account,
        [row for tenant_id in account.tenant_ids for row in _rows_of(connection, tenant_id)],
    )
    priced = [_price_of(row, prices) for row in rows]
    contract = account.contract_of({each[1].lower() for each in priced if each})
    closings = _closings_of(connection, account.name)
    closes = _Closes(contract, closings if closes_now is None else [*closings, closes_now])
    records = [
        Entered(
            id=row.id,
            tenant_id=row.tenant_id,
            outcome=row.outcome,
            quantity=row.quantity,
            occurred_at=row.occurred_at,
            stored_at=closes.stored_at(
                row.seq, row.occurred_at if row.stored_at is None else row.stored_at
            ),
            supersedes=row.supersedes,
            price=price[0] if price and price[1].lower() == contract.currency else None,
            policy=row.policy,
            policy_version=row.policy_version,
        )
        for row, price in zip(rows, priced, strict=True)
    ]
    lines = _grant_lines(connection, account.name)
    grants, problems = _grants(lines, account.name, contract.currency)
    if problems:
        raise BrokenInvariantError(f"the ledger has grants that it refuses: {problems}")
    return _History(contract, records, grants, closes)


def _rows_of(connection: Connection, tenant_id: str) -> Sequence[Row[Any]]:
    """Return the usage records of a tenant."""
    r = usage_record.c
    names = ("seq", "id", "tenant_id", "outcome", "quantity", "occurred_at", "supersedes")
    more = ("policy", "policy_version", "stored_at", "price", "currency")
    # The index of ids serves this range: an id begins with its tenant. ";" is the character after ":".
    query = select(*(r[name].label(name) for name in (*names, *more))).where(
        r.id >= f"{tenant_id}:", r.id < f"{tenant_id};", r.tenant_id == tenant_id
    )
    return connection.execute(query).all()


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


def _closings_of(connection: Connection, account: str) -> list[Closing]:
    query = select(*(closing.c[name] for name in Closing._fields))
    rows = connection.execute(query.where(closing.c.account == account))
    return sorted(Closing(*row) for row in rows)


def _grant_lines(connection: Connection, account: str) -> list[tuple[str, bytes]]:
    query = select(account_grant.c.seq, account_grant.c.content)
    rows = connection.execute(query.where(account_grant.c.account == account))
    return [(f"grant {seq}", content.encode()) for seq, content in sorted(map(tuple, rows))]


def _grants(
    lines: Sequence[tuple[str, bytes]], account: str, currency: str
) -> tuple[list[Grant], list[str]]:
    parsed, problems = read_grant_lines(lines)
    grants, more = entered_grants(parsed, account, currency)
    return grants, problems + more
