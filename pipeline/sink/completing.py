"""Say what is to be done next for the invoice of a period. Pure.

docs/reference/money.md §6. The steps in their order, and what a crash after each leads to:

| step     | effect                                                      | after a crash             |
|----------|-------------------------------------------------------------|---------------------------|
| Hold     | the draft does not become final by itself                   | it is held                |
| Close    | the statement is final (the journal has its closing)        | it is closed              |
| Wait     | none: Stripe has not counted all that was delivered         |                           |
| Plan     | the journal has the items                                   | the items are the same    |
| Create   | an invoice of our own has a draft                           | it is found by its key    |
| Add      | the draft has one item more                                 | it is found by its key    |
| Finalise | the invoice is final                                        | it is found final         |
| Conclude | the journal has what the invoice came to                    | nothing is left to do     |
| Stop     | none: somebody must act                                     |                           |

Every step is chosen from what the ledger and Stripe say now, so any sink can go on at any point, and two
can do so at once.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from pipeline.billing.invoice import InvoiceItem, InvoicePlan, own_key, plan_invoice, rest_item
from pipeline.billing.money import amount_text
from pipeline.billing.periods import Period
from pipeline.billing.statement import Statement
from pipeline.events.times import format_time
from pipeline.ledger.invoice_entries import InvoicePlanned
from pipeline.sink.invoicing import AddedItem, Charge, Invoice


class Hold(NamedTuple):
    invoice: Invoice


class Close(NamedTuple):
    pass


class Wait(NamedTuple):
    why: str


class Plan(NamedTuple):
    planned: InvoicePlanned


class Create(NamedTuple):
    planned: InvoicePlanned


class Add(NamedTuple):
    invoice: Invoice
    item: InvoiceItem


class Finalise(NamedTuple):
    invoice: Invoice


class Conclude(NamedTuple):
    state: Literal["invoiced", "missed", "without"]
    invoice: Invoice | None
    amount: int


class Stop(NamedTuple):
    why: str


Step = Hold | Close | Wait | Plan | Create | Add | Finalise | Conclude | Stop


class Units(NamedTuple):
    """The units of a charge's meter in its time. Stripe's sums are of whole minutes."""

    delivered: int  # by the ledger, in these minutes
    counted: int  # in Stripe's sums
    due: int  # of those delivered, the ones within the charge's time
    open: int = 0  # under way, or waiting for a person: they may still be counted


class Facts(NamedTuple):
    """What is known of a period of an account."""

    account: str
    customer: str
    period: Period
    statement: Statement | None  # None: the period is not closed
    invoices: Sequence[Invoice]  # of the customer, since the period's start
    planned: InvoicePlanned | None  # as the journal has it
    units: Mapping[str, Units] = {}  # by the subscription's item of a charge
    settled: Mapping[str, int] = {}  # amounts by outcome that were settled by hand


def next_step(facts: Facts) -> Step:
    """Return the next step for the invoice that a subscription makes of the period."""
    for each in _charging_from(facts.invoices, facts.period.start_ms // 1000):
        # Also those of later periods: none of them is closed before this one.
        if each.is_draft and each.advances:
            return Hold(each)
    found = charging(facts.invoices, facts.period)
    if facts.statement is None:
        drafts = [each for each in found if each.is_draft]
        problem = _problem_of_times(drafts, facts.period)
        return Close() if problem is None else Stop(problem)
    if facts.planned is not None:
        return _complete(found, facts.planned)
    if not found:
        return _without(facts.statement)
    problem = _problem_of_times(found, facts.period)
    if problem := problem or _problem_of_currencies(found, facts.statement):
        return Stop(problem)
    if not any(each.is_draft for each in found):
        return Plan(_planned_of_final(facts, found, facts.statement))
    if len(found) > 1:
        return Stop(_several(found))
    return _plan(facts, found[0], facts.statement)


def next_own_step(facts: Facts, planned: InvoicePlanned) -> Step:
    """Return the next step for an invoice of our own that the journal has."""
    found = [each for each in facts.invoices if each.key == planned.key]
    return _complete(found, planned) if found else Create(planned)


def charging(invoices: Sequence[Invoice], period: Period) -> list[Invoice]:
    """Return the invoices of subscriptions that charge our meters for a part of a period."""
    return _charging_from(invoices, period.start_ms // 1000, period.end_ms // 1000)


def _charging_from(invoices: Sequence[Invoice], start: int, end: float = math.inf) -> list[Invoice]:
    return [
        each
        for each in invoices
        if each.subscription is not None
        and any(charge.start < end and charge.end > start for charge in each.charges)
    ]


def _several(found: Sequence[Invoice]) -> str:
    names = ", ".join(f"{each.id} of {each.subscription}" for each in found)
    return (
        f"{len(found)} invoices charge the usage of this period: {names}; an account has one: put "
        "the prices of all its outcomes on one subscription, and make these final by hand"
    )


def _problem_of_times(found: Sequence[Invoice], period: Period) -> str | None:
    for invoice in found:
        for charge in invoice.charges:
            start_ms, end_ms = charge.start * 1000, charge.end * 1000
            if start_ms < period.start_ms or end_ms > period.end_ms:
                return (
                    f"{invoice.id} charges {charge.outcome} from {format_time(start_ms)} to "
                    f"{format_time(end_ms)}, and the period is from {format_time(period.start_ms)} to "
                    f"{format_time(period.end_ms)}: `resmeter check` compares where periods begin"
                )
    return None


def _problem_of_currencies(found: Sequence[Invoice], statement: Statement) -> str | None:
    for invoice in found:
        if invoice.currency != statement.currency:
            return (
                f"{invoice.id} is in {invoice.currency}, and the statement in {statement.currency}"
            )
    return None


def _without(statement: Statement) -> Step:
    if statement.total == 0:
        return Conclude("without", None, 0)
    return Stop(
        f"there is no invoice for {money_text(statement.total, statement.currency)}: no subscription of the "
        "customer has made one for this period. If none will, run `resmeter close` with --own-invoice"
    )


# --- planning -------------------------------------------------------------------------------------


def _plan(facts: Facts, invoice: Invoice, statement: Statement) -> Step:
    if problem := _problem_of_charges(invoice):
        return Stop(problem)
    if why := _uncounted(facts, invoice):
        return Wait(why)
    return Plan(_planned_for(facts, invoice, statement))


def _planned_of_final(
    facts: Facts, found: Sequence[Invoice], statement: Statement
) -> InvoicePlanned:
    """Return what final invoices must come to: with its items, if one of which all prices are known."""
    if len(found) == 1 and _problem_of_charges(found[0]) is None:
        return _planned_for(facts, found[0], statement)
    plan = plan_invoice(facts.account, statement, {}, {}, settled=facts.settled, sends=False)
    invoice = found[0].id if len(found) == 1 else ""
    return msgspec.structs.replace(planned_of(facts, statement, plan, invoice=invoice), items=())


def _planned_for(facts: Facts, invoice: Invoice, statement: Statement) -> InvoicePlanned:
    prices = {charge.outcome: charge.price for charge in invoice.charges}
    counted = {charge.outcome: charge.quantity for charge in invoice.charges}
    known = {outcome: price for outcome, price in prices.items() if price is not None}
    plan = plan_invoice(
        facts.account, statement, known, counted, settled=facts.settled, sends=False
    )
    return planned_of(facts, statement, plan, invoice=invoice.id)


def planned_of(
    facts: Facts, statement: Statement, plan: InvoicePlan, invoice: str = "", key: str = ""
) -> InvoicePlanned:
    """Return the journal's entry of a plan."""
    return InvoicePlanned(
        account=facts.account,
        period_start=facts.period.start_ms,
        customer=facts.customer,
        currency=statement.currency,
        items=plan.items,
        total=plan.total,
        settled=plan.settled,
        invoice=invoice,
        key=key,
    )


def own_invoice(facts: Facts, came_to: int | None) -> InvoicePlanned | str:
    """Plan an invoice of our own for what a closed period's invoice lacks; or say why there is none.

    `came_to` is what the period's invoice came to; None: it has none.
    """
    planned, statement = facts.planned, facts.statement
    if statement is None:
        return "is not closed"
    key = own_key(facts.account, facts.period)
    found = charging(facts.invoices, facts.period)
    if planned is None:
        if found:
            return f"{found[0].id} is its invoice: `resmeter close` completes it"
        plan = plan_invoice(facts.account, statement, {}, {}, settled=facts.settled, sends=False)
        return planned_of(facts, statement, plan, key=key)
    if planned.is_own or came_to is None:
        return f"its invoice is {planned.invoice or planned.key}: `resmeter close` completes it"
    lacks = planned.total - came_to
    if lacks <= 0:
        return missed_text(planned, lacks)
    added = next((each.items for each in found if each.id == planned.invoice), ())
    items = missing_items(added, planned.items)
    if sum(item.amount for item in items) != lacks:
        items = (rest_item(facts.account, statement, lacks),)
    return msgspec.structs.replace(
        planned, items=items, total=lacks, settled=0, invoice="", key=key
    )


def missed_text(planned: InvoicePlanned, lacks: int) -> str:
    """Say what is to be done about a final invoice that does not come to what it must."""
    invoice = planned.invoice or "what Stripe has invoiced"
    if lacks > 0:
        return (
            f"{invoice} is final and lacks {money_text(lacks, planned.currency)}: run "
            "`resmeter close` with --own-invoice"
        )
    if lacks < 0:
        return (
            f"{invoice} is final and charges {money_text(-lacks, planned.currency)} too much: "
            "give it back by a credit note in Stripe"
        )
    return f"{invoice} comes to what it must"


def _problem_of_charges(invoice: Invoice) -> str | None:
    for outcome, number in Counter(charge.outcome for charge in invoice.charges).items():
        if number > 1:
            items = ", ".join(each.item for each in invoice.charges if each.outcome == outcome)
            return f"{invoice.id} charges {outcome} {number} times, by {items}: remove all but one"
    for charge in invoice.charges:
        if charge.price is None:
            return (
                f"{invoice.id} charges {charge.outcome} by a price of {charge.item} that is more than a "
                "price for each unit: use one that `resmeter stripe setup` makes"
            )
    return None


def _uncounted(facts: Facts, invoice: Invoice) -> str | None:
    """Return what Stripe has not counted yet of what was delivered."""
    for charge in invoice.charges:
        units = facts.units.get(charge.item)
        if units is not None and units.open:
            return f"{units.open} {charge.outcome} of the period are under way: see `resmeter deliveries list`"
        if units is None or units.delivered != units.counted:
            counted, delivered = (units.counted, units.delivered) if units else (0, 0)
            return (
                f"Stripe's sums count {counted} {charge.outcome}, and {delivered} were delivered: "
                "`resmeter audit --stripe` compares them"
            )
        if not _is_charged(charge, units.due, invoice.currency):
            charged = money_text(charge.amount, invoice.currency)
            return (
                f"{invoice.id} charges {charged} for {charge.quantity} {charge.outcome}, and "
                f"{units.due} were delivered in its time"
            )
    return None


def _is_charged(charge: Charge, units: int, currency: str) -> bool:
    price = charge.price
    return (
        charge.quantity == units
        and price is not None
        and charge.amount == price.charge(units, currency)
    )


# --- completing -----------------------------------------------------------------------------------


def _complete(invoices: Sequence[Invoice], planned: InvoicePlanned) -> Step:
    """Return the next step for an invoice whose items the journal has."""
    found = next((each for each in invoices if planned.invoice in ("", each.id)), None)
    if found is None:
        return Stop(
            f"Stripe has no invoice {planned.invoice}, which the journal has for this period"
        )
    amount = found.total - found.others
    if not found.is_draft:
        # Without an id, all of them: several were made final by hand.
        of_period = [found] if planned.invoice or planned.key else invoices
        charged = sum(each.total - each.others for each in of_period if each.status != "void")
        is_right = charged == planned.total
        return Conclude("invoiced" if is_right else "missed", found, charged)
    if problem := next(_problems_of_items(found, planned.items), None):
        return Stop(problem)
    missing = missing_items(found.items, planned.items)
    if missing:
        return Add(found, missing[0])
    currency = planned.currency
    if amount != planned.total:
        return Stop(
            f"the draft {found.id} comes to {money_text(amount, currency)}, and must come to "
            f"{money_text(planned.total, currency)}: something has changed it since its items were written"
        )
    if found.total < 0:
        return Stop(
            f"the draft {found.id} comes to {money_text(found.total, currency)} with lines that are not "
            "ours, and would become a credit on the customer's balance"
        )
    return Finalise(found)


def missing_items(
    added: Sequence[AddedItem], wanted: Sequence[InvoiceItem]
) -> tuple[InvoiceItem, ...]:
    """Return the items that an invoice does not have."""
    keys = {each.key for each in added}
    return tuple(item for item in wanted if item.key not in keys)


def _problems_of_items(found: Invoice, wanted: Sequence[InvoiceItem]) -> Iterator[str]:
    amounts = {item.key: item.amount for item in wanted}
    for key, number in Counter(each.key for each in found.items).items():
        if number > 1:
            yield f"the draft {found.id} has {number} items with the resmeter_key {key}: delete all but one"
    for each in found.items:
        amount = money_text(each.amount, found.currency)
        if each.key not in amounts:
            yield f"the draft {found.id} has an item of {amount} that is not planned ({each.key}): delete it"
        elif each.amount != amounts[each.key]:
            right = money_text(amounts[each.key], found.currency)
            yield (
                f"the draft {found.id} has an item of {amount} that must come to {right} ({each.key}): "
                "delete it, and it is added again"
            )


def money_text(amount: int, currency: str) -> str:
    return f"{amount_text(amount, currency)} {currency.upper()}"
