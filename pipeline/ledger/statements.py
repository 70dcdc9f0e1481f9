"""State the periods of an account, and prepare to close them: docs/reference/money.md §4 and §5.2.

A statement is made from the account's usage records, its grants and its closings. A closing has the
final statement and what it knew, so that it can be made again and is never changed. It counts once
the journal has it: `prepare_closing` changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

import orjson
from msgspec.structs import asdict, replace

from pipeline.billing.approvals import AMOUNT_MAX, Decisions, approvables, blocked
from pipeline.billing.contract import BilledAccount
from pipeline.billing.money import amount_text
from pipeline.billing.periods import NEVER_MS, Period
from pipeline.billing.run import (
    Stated,
    first_period,
    missing_prices,
    problems_of_credit_notes,
    problems_of_voids,
    take,
)
from pipeline.billing.statement import PlacedUnit, Statement, statement_object
from pipeline.catalog.accounts import is_known
from pipeline.catalog.prices import Prices
from pipeline.catalog.tenants import Tenants
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.events.times import format_time
from pipeline.ledger import months, reports
from pipeline.ledger.account_history import (
    History,
    Undelivered,
    read_history,
    undelivered_records,
)
from pipeline.ledger.closes import Closed
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import STUCK
from pipeline.ledger.month_entries import Closing, Granted, judge

_LIST = "see `resmeter corrections list --account {}`"


_NOTHING_WRITTEN: Mapping[int, int] = MappingProxyType({})


class Missing(NamedTuple):
    """One thing that is missing before a period can be closed; `number` counts what `detail` names.

    `amount` is the money that waits for a person, in minor units.
    """

    what: str
    number: int
    detail: str
    amount: int = 0


class Prepared(NamedTuple):
    """The statement of a period as its closing has it, and what is missing.

    `closing` is for the journal; None if something is missing.
    """

    stated: Stated
    missing: tuple[Missing, ...]
    closing: Closing | None


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


def accounts_in(ledger: Ledger, tenants: Tenants, at: int) -> list[str]:
    """Return the accounts that have a contract, a customer or usage at a time, ms."""
    catalog = tenants.catalog
    used = {catalog.account_of(each.tenant_id, at) for each in reports.usage(ledger)}
    return sorted({*catalog.accounts, *catalog.customers, *used})


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
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
    of = history.contract.calendar.period_at(as_of) if period is None else history.named(period)
    return state_history(history, account.name, of, as_of)


def first_open(ledger: Ledger, account: BilledAccount, prices: Prices, period: Period) -> Period:
    """Return the first period of an account of which none is closed: with units, or under a contract.

    `period` is the answer if there is nothing before it.
    """
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
    return first_period(history.contract, history.records, period)


def prepare_closing(
    ledger: Ledger,
    account: BilledAccount,
    prices: Prices,
    period: str | None,
    at: int,
    must_be_sent: Callable[[PlacedUnit], bool] = lambda unit: unit.placed.state == "metered",
    amount_max: Decimal = AMOUNT_MAX,
    customer: str = "",
    written: Mapping[int, int] = _NOTHING_WRITTEN,
) -> Prepared:
    """Return the closing of a period from one snapshot of the ledger, or what is missing for it.

    Args:
        ledger: where its records, grants and closings are.
        account: who is billed.
        prices: what prices a record for which the ledger stored no price.
        period: the name of the period; None: the one after the last closed, else the last that ended.
        at: the time of the close, ms.
        must_be_sent: whether a unit of the period must be at the biller before the close.
        amount_max: an adjustment of an earlier period above it waits for a person.
        written: up to which offset usage records were written before, by partition; not all of them
            may be in the ledger yet.
        customer: of this account alone: once it is closed, nothing is sent to it for the period.

    Raises:
        ConfigurationError: no period has this name.
        BrokenInvariantError: a final statement is not the one that was stored.
    """
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
        undelivered = undelivered_records(connection, account.tenant_ids)
        topic = months.newest_topic(connection)
    of = history.next_to_close(at) if period is None else history.named(period)
    reading = history.closes.reading
    closing = Closing(
        account=account.name,
        period_start=of.start_ms,
        period_end=of.end_ms,
        closed_at=at,
        topic=topic,
        topic_id=reading.topic_id(topic),
        customer=customer,
        offsets=dict(reading.next_offsets(topic)),
        grants=len(history.grants),
        rejections=history.closes.decisions.rejections(of),
        statement="",
    )
    missing = [Missing("order", 1, each) for each in _problems_of_close(history, of, at)]
    if not missing:
        history = history.closed_also(_closed(closing, history.closes.closings))
    stated = state_history(history, account.name, of, at)
    missing += _unstored(closing.offsets, written)
    missing += _not_sent(stated, undelivered, must_be_sent)
    missing += _unapproved(stated, amount_max, history.closes.decisions)
    if history.awaited is not None:
        missing.append(Missing("unread", 1, _awaited(history)))
    waived = [each.period.start_ms for each in stated.statement.adjustments if each.is_waived]
    encoded = _encoded(account.name, stated.statement)
    closing = replace(closing, statement=encoded, waived=tuple(waived))
    return Prepared(stated, tuple(missing), None if missing else closing)


def prepare_grant(ledger: Ledger, account: BilledAccount, prices: Prices, line: bytes) -> Granted:
    """Return the journal's item of a grant or a void: a line of JSON (docs/reference/money.md §5.1).

    Raises:
        ConfigurationError: the line is wrong, the id is taken, a void takes more than is left, or
            the grant was created before the last close.
    """
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
        standing = months.standings(connection, [account.name])[account.name]
    entered, problems = history.with_grant(account.name, line)
    item = Granted(account.name, line.decode(errors="replace"))
    if not problems:
        of_account = history.contract, history.records, entered.grants, history.closes
        problems = problems_of_voids(*of_account) or problems_of_credit_notes(*of_account)
    if not problems and (why := judge(standing, item)) is not None:
        problems = [f"grant: {why}"]
    if problems:
        raise ConfigurationError([f"{account.name}: {problem}" for problem in problems])
    return item


def state_history(history: History, account: str, period: Period, as_of: int) -> Stated:
    """Return the statement of a period of what the ledger has of an account.

    Raises:
        BrokenInvariantError: a final statement is not the one that was stored.
    """
    last = max(period, history.contract.calendar.period_at(as_of))
    checked = _checked(history, account, history.statements(period, last, as_of))
    statement, units = take(period, checked)
    doubts = (_awaited(history),) if history.awaited else ()
    return Stated(account, statement, units, missing_prices(statement, history.records), doubts)


def _checked(history: History, account: str, stated: Iterable[Statement]) -> Iterator[Statement]:
    """Compare final statements with those that were stored, once the ledger has what they knew."""
    for statement in stated:
        stored = history.closes.of(statement.period)
        if statement.is_final and stored is not None and stored.statement:
            now = _encoded(account, statement)
            if now != stored.statement and not history.closes.reading.is_behind(stored):
                raise BrokenInvariantError(
                    f"the final statement of {account} for {statement.period.name} was "
                    f"{stored.statement}, and would be {now} today: compare its usage records and "
                    "prices with a backup of the ledger"
                )
        yield statement


def _awaited(history: History) -> str:
    closed = history.awaited
    assert closed is not None
    period = history.contract.calendar.period_at(closed.period_start)
    return (
        f"the ledger has not read all usage records that the statement of {period.name} knew when it "
        "was closed: let the sink read on, then ask again"
    )


def _closed(closing: Closing, before: Sequence[Closed]) -> Closed:
    """Return a closing as the ledger will have it, without its statement."""
    values = asdict(closing) | {"seq": NEVER_MS, "waived": None}
    del values["account"], values["rejections"]
    return Closed(**values)


def _problems_of_close(history: History, period: Period, at: int) -> list[str]:
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


def counted(number: int, one: str, many: str) -> str:
    """Return the number with the words for one or for many."""
    return f"{number:,} {one if number == 1 else many}"


def _unstored(stored: Mapping[int, int], written: Mapping[int, int]) -> Iterator[Missing]:
    """Yield what was decided and is not in the ledger yet."""
    behind = [partition for partition, end in written.items() if stored.get(partition, 0) < end]
    if behind:
        names = ", ".join(map(str, sorted(behind)))
        text = f"partitions of usage records are not stored to their end: {names}; check that the sink runs"
        yield Missing("unstored", len(behind), text)


def _not_sent(
    stated: Stated,
    undelivered: Sequence[Undelivered],
    must_be_sent: Callable[[PlacedUnit], bool],
) -> Iterator[Missing]:
    """Yield what of a period's usage is not at the biller, and should be."""
    units = {unit.id: unit for unit in stated.units if unit.period == stated.statement.period.name}
    counts: Counter[tuple[str, str]] = Counter()
    for record in undelivered:
        unit = units.get(record.unit)
        if unit is not None and (record.state != "pending" or must_be_sent(unit)):
            what: str = record.state if record.state in STUCK else "undelivered"
            counts[what, record.tenant_id] += 1
    for (what, tenant_id), number in sorted(counts.items()):
        one, many = "waits for you", "wait for you"
        if what == "undelivered":
            one, many = "is not at Stripe yet", "are not at Stripe yet"
        text = counted(number, f"unit of {tenant_id} {one}", f"units of {tenant_id} {many}")
        hint = "" if what == "undelivered" else ": see `resmeter deliveries list`"
        yield Missing(what, number, text + hint)


def _unapproved(stated: Stated, amount_max: Decimal, decisions: Decisions) -> Iterator[Missing]:
    """Yield what of a statement nobody may close without a person or a price."""
    found = approvables(stated.account, stated.statement, amount_max, decisions)
    unmatched = sum(each.blocks for each in found if each.what == "unmatched")
    if unmatched:
        text = counted(unmatched, "reversal names", "reversals name")
        hint = _LIST.format(stated.account)
        yield Missing("unmatched", unmatched, f"{text} a charge that the ledger lacks: {hint}")
    number, amount = blocked(each for each in found if each.what == "adjusted")
    if number:
        currency = stated.statement.currency
        money = f"{amount_text(amount, currency)} {currency.upper()}"
        text = f"adjustments of {money} wait for a person: {_LIST.format(stated.account)}"
        yield Missing("unapproved", number, text, amount)
    for text in stated.missing:
        yield Missing("unpriced", stated.statement.counts.unpriced, text)


def _encoded(account: str, statement: Statement) -> str:
    return orjson.dumps(statement_object(account, statement)).decode()
