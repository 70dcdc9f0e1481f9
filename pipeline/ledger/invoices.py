"""Store the invoices of closed periods as the journal has them, and read what they depend on."""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    cast,
    func,
    or_,
    select,
)

from pipeline.billing.invoice import InvoiceItem
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import STUCK
from pipeline.ledger.invoice_entries import (
    InvoiceConcluded,
    InvoiceItems,
    InvoicePlanned,
    InvoiceState,
)
from pipeline.ledger.tables import (
    delivery_decision,
    invoice,
    invoice_result,
    meter_event,
    meter_event_record,
    usage_record,
)

TABLES = (invoice, invoice_result)
_TENANTS_LOOKUP_MAX = 500
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[InvoiceItem, ...]).decode


class StoredInvoice(NamedTuple):
    """An invoice as the ledger has it. `planned` is None if there was nothing to invoice."""

    period_start: int
    is_own: bool
    state: InvoiceState
    planned: InvoicePlanned | None
    amount: int | None  # what it came to


# --- the journal's items --------------------------------------------------------------------------


def row_of(item: InvoiceItems) -> tuple[Table, ColumnElement[bool], dict[str, object]]:
    """Return where an item is stored, under which key, and its columns."""
    table = invoice if isinstance(item, InvoicePlanned) else invoice_result
    values: dict[str, object] = asdict(item) | {"is_own": item.is_own, "journalled": True}
    if isinstance(item, InvoicePlanned):
        values["items"] = _encode(item.items).decode()
    names = ("account", "period_start", "is_own")
    return table, and_(*(table.c[name] == values[name] for name in names)), values


def items_of(connection: Connection, account: str, *, journalled: bool) -> Iterator[InvoiceItems]:
    """Yield the items of an account that the journal has, or lacks, in an order in which they are valid."""
    found: list[tuple[int, bool, int, InvoiceItems]] = []
    for table in TABLES:
        query = select(table).where(table.c.account == account, table.c.journalled == journalled)
        for row in connection.execute(query):
            item = _planned(row) if table is invoice else _concluded(row)
            found.append((row.period_start, row.is_own, TABLES.index(table), item))
    yield from (each[-1] for each in sorted(found, key=lambda each: each[:3]))


def _planned(row: Row[Any]) -> InvoicePlanned:
    return InvoicePlanned(
        account=row.account,
        period_start=row.period_start,
        customer=row.customer,
        currency=row.currency,
        items=_decode(row.items),
        total=row.total,
        settled=row.settled,
        invoice=row.invoice,
        key=row.key,
    )


def _concluded(row: Row[Any]) -> InvoiceConcluded:
    return InvoiceConcluded(
        account=row.account,
        period_start=row.period_start,
        state=row.state,
        at=row.at,
        invoice=row.invoice,
        amount=row.amount,
        is_own=row.is_own,
    )


# --- reading --------------------------------------------------------------------------------------


def invoices_of(ledger: Ledger, account: str) -> list[StoredInvoice]:
    """Return the invoices of an account by period, one of our own after that of the subscription."""
    planned: dict[tuple[int, bool], InvoicePlanned] = {}
    concluded: dict[tuple[int, bool], InvoiceConcluded] = {}
    with ledger.reading() as connection:
        for item in items_of(connection, account, journalled=True):
            place = (item.period_start, item.is_own)
            if isinstance(item, InvoicePlanned):
                planned[place] = item
            else:
                concluded[place] = item
    found: list[StoredInvoice] = []
    for place in sorted(planned.keys() | concluded.keys()):
        result = concluded.get(place)
        state: InvoiceState = result.state if result else "planned"
        amount = result.amount if result else None
        found.append(StoredInvoice(*place, state, planned.get(place), amount))
    return found


def units_delivered(ledger: Ledger, customer: str, event_name: str, start: int, end: int) -> int:
    """Return the units that Stripe must count with `start <= timestamp < end`, in seconds.

    What an operator settled counts, unless Stripe had rejected it.
    """
    m, d = meter_event.c, delivery_decision.c
    query = (
        select(func.coalesce(cast(func.sum(m.value), BigInteger), 0))
        .select_from(meter_event)
        .outerjoin(delivery_decision, d.identifier == m.identifier)
        .where(
            m.customer == customer,
            m.event_name == event_name,
            m.timestamp >= start,
            m.timestamp < end,
            or_(m.state == "delivered", and_(m.state == "settled", d.state != "rejected")),
        )
    )
    with ledger.reading() as connection:
        return connection.scalar(query) or 0


def units_open(ledger: Ledger, customer: str, event_name: str, start: int, end: int) -> int:
    """Return the units with `start <= timestamp < end`, in seconds, that may still be counted."""
    m = meter_event.c
    query = select(func.coalesce(cast(func.sum(m.value), BigInteger), 0)).where(
        m.customer == customer,
        m.event_name == event_name,
        m.timestamp >= start,
        m.timestamp < end,
        m.state.in_(("planned", "sent", *STUCK)),
    )
    with ledger.reading() as connection:
        return connection.scalar(query) or 0


def settled_units(ledger: Ledger, tenant_ids: Collection[str], customer: str) -> dict[str, str]:
    """Return the outcomes of the charges that the invoice of a customer leaves out, by record id.

    An operator settled them after a rejection, or the meter of another customer has them: the account
    had that one before.
    """
    m, d, u = meter_event.c, delivery_decision.c, usage_record.c
    link = meter_event_record.c
    settled: dict[str, str] = {}
    by_hand = and_(m.state == "settled", d.action == "settle", d.state == "rejected")
    elsewhere = and_(m.state.in_(("delivered", "settled")), m.customer.not_in(("", customer)))
    names = sorted(tenant_ids)
    with ledger.reading() as connection:
        for start in range(0, len(names), _TENANTS_LOOKUP_MAX):
            query = (
                select(u.id, u.outcome)
                .select_from(meter_event)
                .outerjoin(delivery_decision, d.identifier == m.identifier)
                .join(meter_event_record, link.identifier == m.identifier)
                .join(usage_record, u.seq == link.record_seq)
                .where(
                    or_(by_hand, elsewhere),
                    u.quantity > 0,
                    m.tenant_id.in_(names[start : start + _TENANTS_LOOKUP_MAX]),
                )
            )
            settled.update((row.id, row.outcome) for row in connection.execute(query))
    return settled
