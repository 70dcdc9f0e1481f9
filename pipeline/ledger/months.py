"""Store closings, grants and approvals as the journal has them, and read them.

Rows are never changed, except that a ledger learns that its journal has them: after `forget`, it
follows another journal, and writes to it what that lacks.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

import orjson
from msgspec.structs import asdict
from sqlalchemy import ColumnElement, Connection, Table, and_, exists, func, insert, select, update

from pipeline.billing.reading import created_ms, read_grant_lines
from pipeline.errors import BrokenInvariantError
from pipeline.ledger import invoices
from pipeline.ledger.closes import Closed, Reading, Restart
from pipeline.ledger.database import Ledger
from pipeline.ledger.invoice_entries import InvoiceConcluded, InvoicePlanned
from pipeline.ledger.month_entries import (
    AccountStanding,
    Approval,
    Closing,
    Granted,
    MonthItem,
    grant_id,
    is_storable,
    judge,
)
from pipeline.ledger.tables import (
    account_approval,
    account_grant,
    closing,
    consumed_topic,
    consumer_offset,
    invoice_result,
    records_restart,
    usage_record,
)

_TABLES = (closing, account_grant, account_approval, *invoices.TABLES)

# --- the journal's items --------------------------------------------------------------------------


def standings(connection: Connection, accounts: Collection[str]) -> dict[str, AccountStanding]:
    """Return what the validity of new items of accounts depends on: what the journal has of them."""
    found: dict[str, AccountStanding] = {}
    for account in accounts:
        found[account] = AccountStanding()
        for item in _items_of(connection, account, journalled=True):
            judge(found[account], item)
    return found


def closed_until(connection: Connection, customers: Collection[str]) -> dict[str, int]:
    """Return the end of the last closed period of each customer that has one, ms."""
    c = closing.c
    query = select(c.customer, func.max(c.period_end)).where(c.journalled, c.customer != "")
    found = connection.execute(query.group_by(c.customer))
    return {customer: until for customer, until in found if customer in customers}


def enter(connection: Connection, item: MonthItem) -> None:
    """Store a valid item; one that the ledger has already gets the journal's content.

    Raises:
        BrokenInvariantError: the ledger has closed the period with another statement.
    """
    table, key, values = _row(item)
    stored = connection.execute(select(*(table.c[name] for name in values)).where(key)).first()
    if stored is None:
        connection.execute(insert(table).values(**values))
        return
    if isinstance(item, Closing) and stored.statement != item.statement:
        raise BrokenInvariantError(
            f"the ledger has closed a period of {item.account} with the statement {stored.statement}, and "
            f"the journal with {item.statement}. Restore the newest backup of the ledger"
        )
    connection.execute(update(table).where(key).values(**values))


def check_void(connection: Connection, item: MonthItem, why: str) -> None:
    """Check that an item which is void in the journal is not in effect in this ledger alone.

    Raises:
        BrokenInvariantError: it is; the journal is not the one that the ledger followed before.
    """
    if not is_storable(item):
        return
    table, same = _same(item)
    if connection.scalar(select(table.c.account).where(same, ~table.c.journalled)) is not None:
        kind = type(item).__name__.lower()
        raise BrokenInvariantError(
            f"the ledger has a {kind} of the account {item.account} that is void in the journal: {why}. "
            "Restore the journal from its newest backup, or the ledger that belongs to it"
        )


def forget(connection: Connection) -> None:
    """Note that the journal may lack everything: the ledger is about to follow another one."""
    for table in _TABLES:
        connection.execute(update(table).values(journalled=False))


def unjournalled(connection: Connection) -> Iterator[MonthItem]:
    """Yield what the journal lacks, in an order in which it is valid."""
    accounts = set[str]()
    for table in _TABLES:
        accounts.update(connection.scalars(select(table.c.account).where(~table.c.journalled)))
    for account in sorted(accounts):
        yield from _items_of(connection, account, journalled=False)


def has_entered(ledger: Ledger, item: MonthItem) -> bool:
    """Return whether an item was valid, as far as the ledger has followed the journal."""
    table, same = _same(item)
    with ledger.reading() as connection:
        query = select(table.c.account).where(same, table.c.journalled)
        return connection.scalar(query) is not None


def _same(item: MonthItem) -> tuple[Table, ColumnElement[bool]]:
    """Return which row has the content of an item, which may be void."""
    if isinstance(item, Granted):
        g = account_grant.c
        return account_grant, and_(g.account == item.account, g.content == item.line)
    table, _, values = _row(item)
    del values["journalled"]
    return table, and_(*(table.c[name] == value for name, value in values.items()))


def _row(item: MonthItem) -> tuple[Table, ColumnElement[bool], dict[str, object]]:
    """Return where an item is stored, under which key, and its columns."""
    if isinstance(item, Closing):
        c = closing.c
        key = and_(c.account == item.account, c.period_start == item.period_start)
        offsets = {str(partition): offset for partition, offset in sorted(item.offsets.items())}
        values = asdict(item) | {"offsets": _text(offsets), "waived": _text(item.waived)}
        del values["rejections"]  # all that the ledger has about the period: later ones are void
        return closing, key, values | {"journalled": True}
    if isinstance(item, Approval):
        a = account_approval.c
        key = and_(a.account == item.account, a.id == item.id)
        return account_approval, key, asdict(item) | {"journalled": True}
    if isinstance(item, InvoicePlanned | InvoiceConcluded):
        return invoices.row_of(item)
    ((_, line),), _ = read_grant_lines([("grant", item.line.encode())])
    g = account_grant.c
    key = and_(
        g.account == item.account,
        g.id == grant_id(line),
        g.kind == "void" if line.kind == "void" else g.kind != "void",
    )
    return (
        account_grant,
        key,
        {
            "account": item.account,
            "id": grant_id(line),
            "kind": line.kind,
            "created_at": created_ms(line),
            "content": item.line,
            "journalled": True,
        },
    )


def _text(value: object) -> str:
    return orjson.dumps(value).decode()


def _items_of(connection: Connection, account: str, *, journalled: bool) -> Iterator[MonthItem]:
    """Yield the items of an account that the journal has, or lacks.

    A closing comes after the grants that it knew, and before the others; invoices come last.
    """
    g, c, a = account_grant.c, closing.c, account_approval.c
    columns = [a[name] for name in Approval.__struct_fields__]
    of_approvals = a.account == account, a.journalled == journalled
    for row in connection.execute(select(*columns).where(*of_approvals).order_by(a.at, a.id)):
        yield Approval(**row._mapping)
    rejected = select(a.period_start).where(a.account == account, a.verdict == "rejected")
    rejections = Counter(connection.scalars(rejected))
    query = select(g.content, g.journalled).where(g.account == account).order_by(g.seq)
    grants = [(Granted(account, content), has) for content, has in connection.execute(query)]
    which = c.account == account, c.journalled == journalled
    starts = set(connection.scalars(select(c.period_start).where(*which)))
    entered = 0
    for closed in closings_of(connection, account):
        yield from (item for item, has in grants[entered : closed.grants] if has == journalled)
        entered = max(entered, closed.grants)
        if closed.period_start in starts:
            values = {name: getattr(closed, name) for name in Closed.__struct_fields__}
            del values["seq"]
            known = rejections[closed.period_start]
            yield Closing(account=account, rejections=known, **values)
    yield from (item for item, has in grants[entered:] if has == journalled)
    yield from invoices.items_of(connection, account, journalled=journalled)


def closed_starts(ledger: Ledger, account: str) -> dict[int, str]:
    """Return when the closed periods of an account begin, in order, and the customer of each, or ""."""
    query = select(closing.c.period_start, closing.c.customer).where(closing.c.account == account)
    with ledger.reading() as connection:
        return dict(sorted(map(tuple, connection.execute(query))))


def accounts_to_invoice(ledger: Ledger) -> set[str]:
    """Return the accounts with a closed period that had a customer, and whose invoice is not final."""
    c, r = closing.c, invoice_result.c
    of_period = r.account == c.account, r.period_start == c.period_start
    is_final = exists().where(*of_period, r.state != "missed")
    query = select(c.account).where(c.customer != "", ~is_final)
    with ledger.reading() as connection:
        return set(connection.scalars(query))


# --- reading --------------------------------------------------------------------------------------


def closings_of(connection: Connection, account: str) -> list[Closed]:
    """Return the closed periods of an account, in order."""
    query = select(*(closing.c[name] for name in Closed.__struct_fields__))
    rows = connection.execute(query.where(closing.c.account == account))
    return sorted(
        Closed(
            period_start=row.period_start,
            period_end=row.period_end,
            closed_at=row.closed_at,
            seq=row.seq,
            topic=row.topic,
            topic_id=row.topic_id,
            customer=row.customer,
            offsets={int(n): each for n, each in orjson.loads(row.offsets).items()},
            grants=row.grants,
            statement=row.statement,
            waived=tuple(orjson.loads(row.waived)),
        )
        for row in rows
    )


def grant_lines(connection: Connection, account: str) -> list[tuple[str, bytes]]:
    """Return the grants and voids of an account in the order of the journal, each with a label."""
    query = select(account_grant.c.seq, account_grant.c.content)
    rows = connection.execute(query.where(account_grant.c.account == account))
    return [(f"grant {seq}", content.encode()) for seq, content in sorted(map(tuple, rows))]


def approvals_of(connection: Connection, account: str) -> list[Approval]:
    """Return what persons said about an account, in order of time."""
    columns = [account_approval.c[name] for name in Approval.__struct_fields__]
    query = select(*columns).where(account_approval.c.account == account)
    approvals = [Approval(**row._mapping) for row in connection.execute(query)]
    return sorted(approvals, key=lambda each: (each.at, each.id))


def newest_topic(connection: Connection) -> str:
    """Return the topic of the usage record that was stored last, "" if there is none."""
    r = usage_record.c
    query = select(r.record_topic).order_by(r.seq.desc()).limit(1)
    return connection.scalar(query) or ""


# --- how far the usage records are read -----------------------------------------------------------


def reading(connection: Connection) -> Reading:
    """Return how far the ledger has read each topic, and where offsets began again."""
    offsets: defaultdict[str, dict[int, int]] = defaultdict(dict)
    o = consumer_offset.c
    for topic, partition, offset in connection.execute(select(o.topic, o.partition, o.next_offset)):
        offsets[topic][partition] = offset
    c = consumed_topic.c
    ids = connection.execute(select(c.topic, c.topic_id))
    return Reading({topic: name for topic, name in ids if name}, offsets, _restarts(connection))


def _restarts(connection: Connection) -> Sequence[Restart]:
    columns = [records_restart.c[name] for name in Restart._fields]
    query = select(*columns).order_by(records_restart.c.seq)
    return [Restart(*row) for row in connection.execute(query)]


def restart(
    connection: Connection,
    partition: int | None = None,
    topic_id: str | None = None,
    before_id: str | None = None,
) -> None:
    """Note that the offsets of a partition, or of all, begin again; nothing if none was read."""
    after_record = connection.scalar(select(func.max(usage_record.c.seq)))
    after_closing = connection.scalar(select(func.max(closing.c.seq)))
    if after_record is not None:
        connection.execute(
            insert(records_restart).values(
                partition=partition,
                topic_id=topic_id,
                before_id=before_id,
                after_record=after_record,
                after_closing=after_closing or 0,
            )
        )
