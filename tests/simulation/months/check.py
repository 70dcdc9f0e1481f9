"""Check what every run of months must have at its end, whatever failed during the run.

The journal says which periods are closed and what their statements knew. From that and the records of
the topic, the second implementation makes the statements again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from pipeline.billing.periods import Period
from pipeline.billing.statement import statement_object
from pipeline.catalog.accounts import account_of
from pipeline.ledger.statements import state_account
from tests.oracle.money import statements
from tests.simulation.months.draws import POLICY, Billed, Months
from tests.simulation.months.run import AMOUNT_MAX, CLOSE_AFTER, MonthsOutcome

_OWN = {"metered", "minimum", "adjusted"}


class Closed(NamedTuple):
    """A closing in the journal."""

    period: Period
    offsets: dict[int, int]
    statement: dict[str, Any]
    waived: tuple[int, ...]
    offset: int


def problems(months: Months, outcome: MonthsOutcome) -> list[str]:
    """Return a sentence for each property that an outcome violates."""
    faults: list[str] = []
    for account in months.accounts:
        closed = closings(account, outcome)
        names = [each.period.name for each in closed]
        faults += [
            f"{account.name} {period.name}: is not closed; closed are {names}"
            for period in months.ended(account)
            if period.name not in names
        ]
        if not closed:
            continue
        faults += _of_statements(account, closed, outcome)
        faults += _of_sums(months, account, closed, outcome)
        faults += _of_invoices(account, closed, outcome)
        faults += _of_meters(account, closed, outcome)
        faults += _of_approvals(account, closed, outcome)
        faults += _of_rebuilt(months, account, closed, outcome)
    faults += _of_customers(months, outcome)
    return faults


def closings(account: Billed, outcome: MonthsOutcome) -> list[Closed]:
    """Return the account's closings: of each period, the first in the journal."""
    calendar = account.contract.calendar
    found: dict[int, Closed] = {}
    for item in _items(account, outcome, "closing"):
        closed = Closed(
            calendar.period_at(item["period_start"]),
            {int(number): offset for number, offset in item["offsets"].items()},
            orjson.loads(item["statement"]),
            tuple(item.get("waived", ())),
            item["offset"],
        )
        found.setdefault(item["period_start"], closed)
    return list(found.values())


def _items(account: Billed, outcome: MonthsOutcome, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the journal's items of a kind about an account, with the offset of each."""
    for record in outcome.world.journal:
        for item in orjson.loads(record.value or b"{}").get("items", ()):
            if item["type"] == kind and item["account"] == account.name:
                yield {**item, "offset": record.offset}


def _grants(account: Billed, outcome: MonthsOutcome) -> list[dict[str, Any]]:
    """Return the account's grants: of each id, the first in the journal."""
    lines = [orjson.loads(item["line"]) for item in _items(account, outcome, "granted")]
    return list({line["id"]: line for line in reversed(lines)}.values())[::-1]


def _of_statements(account: Billed, closed: list[Closed], outcome: MonthsOutcome) -> Iterator[str]:
    """Compare each final statement with that of the second implementation."""
    calendar = account.contract.calendar
    waived = [
        (each.period.name, calendar.period_at(start).name)
        for each in closed
        for start in each.waived
    ]
    last = closed[-1].period
    records = list(_records(account, closed, outcome))
    until = last.end_ms + CLOSE_AFTER
    made = _expected(account, records, _grants(account, outcome), last.name, until, waived)
    by_name = {each.pop("period"): each for each in made}
    for each in closed:
        expected = by_name.get(each.period.name)
        if expected is None and not each.statement["lines"]:
            continue  # before the account's first unit, there is nothing to state
        expected = {k: v for k, v in (expected or {}).items() if k != "each"}
        if each.statement != {"period": each.period.name, **expected}:
            yield f"{account.name} {each.period.name}: stated {each.statement}, not {expected}"


def _records(
    account: Billed, closed: list[Closed], outcome: MonthsOutcome
) -> Iterator[dict[str, Any]]:
    """Yield the account's records, each stored just before the close that first knew it."""
    closes = [each.period.end_ms + CLOSE_AFTER for each in closed]
    for number, partition in enumerate(outcome.world.records.partitions):
        for record in partition:
            content = orjson.loads(record.value or b"")
            if content["tenantid"] not in account.tenant_ids:
                continue
            first = (
                n for n, each in enumerate(closed) if record.offset < each.offsets.get(number, 0)
            )
            known = next(first, None)
            content["stored_at"] = closes[-1] if known is None else closes[known] - 1
            yield content


def _expected(
    account: Billed,
    records: list[dict[str, Any]],
    grants: list[dict[str, Any]],
    last: str,
    as_of: int,
    rejected: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Return the statements of the second implementation up to the period with a name."""
    if not records and not account.terms:
        return []  # nothing names a currency, and there is nothing to state
    return statements(
        records,
        account.terms,
        grants,
        last,
        as_of,
        CLOSE_AFTER,
        _price_of,
        account.name,
        rejected=rejected,
    )


def _price_of(policy: str, version: int, outcome: str) -> tuple[str, str] | None:
    price = POLICY.price.get(outcome)
    return None if price is None else (str(price), POLICY.currency)


def _of_sums(
    months: Months, account: Billed, closed: list[Closed], outcome: MonthsOutcome
) -> Iterator[str]:
    """Compare what all statements say together with the reckoning of all that is known now."""
    billed = account_of(months.tenants, account.name)
    calendar, now = account.contract.calendar, outcome.world.time
    lines = [line for each in closed for line in each.statement["lines"]]
    period = calendar.after(closed[-1].period)
    while period.start_ms <= now:
        stated = state_account(outcome.ledger, billed, months.tenants, period.name, now)
        lines += statement_object(account.name, stated.statement)["lines"]
        period = calendar.after(period)
    known = [dict(each, stored_at=0) for each in _records(account, closed, outcome)]
    last = calendar.period_at(now).name
    grants = _grants(account, outcome)
    made = _expected(account, known, grants, last, now)
    said, owed = _sum(lines), _sum(line for each in made for line in each["lines"])
    if said != owed:
        yield f"{account.name}: the statements come to {said} in all, and {owed} is owed"


def _sum(lines: Iterable[Mapping[str, Any]]) -> Decimal:
    return sum((Decimal(line["amount"]) for line in lines if line["kind"] in _OWN), Decimal(0))


def _of_invoices(account: Billed, closed: list[Closed], outcome: MonthsOutcome) -> Iterator[str]:
    """Compare the invoices of each closed period with its statement."""
    listed = outcome.state.invoices.listing(
        {"customer": account.customer, "limit": "100"}, outcome.world.seconds()
    )["data"]
    for each in closed:
        end, keys = each.period.end_ms // 1000, _own_keys(account, each.period, outcome)
        found = [
            invoice
            for invoice in listed
            if invoice["status"] != "void"
            and (invoice["period_end"] == end or invoice["metadata"].get("resmeter_key") in keys)
        ]
        drafts = [i["id"] for i in found if i["status"] == "draft"]
        total = Decimal(sum(invoice["total"] for invoice in found)) / 100
        if drafts:
            yield f"{account.name} {each.period.name}: not final are {drafts}"
        elif total != Decimal(each.statement["total"]):
            yield (
                f"{account.name} {each.period.name}: invoiced {total}, and the statement is "
                f"{each.statement['total']}: {each.statement['lines']}"
            )


def _of_meters(account: Billed, closed: list[Closed], outcome: MonthsOutcome) -> Iterator[str]:
    """Compare the usage that Stripe has of each closed period with its invoice, and with its statement.

    After a close nothing of the period is sent; before it, all that is metered is.
    """
    state, now = outcome.state, outcome.world.seconds()
    listed = state.invoices.listing({"customer": account.customer, "limit": "100"}, now)["data"]
    for each in closed:
        start, end = each.period.start_ms // 1000, each.period.end_ms // 1000
        sent = sum(
            event.value
            for event in state.meter_events.counted
            if event.customer == account.customer
            and event.cancelled is None
            and start <= event.timestamp < end
        )
        invoices = [i["id"] for i in listed if i["period_end"] == end and i["parent"]]
        lines = [
            line
            for invoice in invoices
            for line in state.invoices.list_lines(invoice, {"limit": "100"}, now)["data"]
        ]
        charged = sum(
            line["quantity"] for line in lines if line["parent"]["subscription_item_details"]
        )
        own = (line for line in each.statement["lines"] if line["kind"] == "metered")
        metered = sum(line["quantity"] for line in own)
        # What came after Stripe had made the invoice final is on one of our own.
        is_missed = bool(_own_keys(account, each.period, outcome))
        if sent < metered or (sent != charged and not is_missed):
            yield (
                f"{account.name} {each.period.name}: {metered} units are metered, Stripe has {sent}, and "
                f"the invoice charges {charged}"
            )


def _of_approvals(account: Billed, closed: list[Closed], outcome: MonthsOutcome) -> Iterator[str]:
    """Check that a person has approved each large correction, and that a rejected one is not charged."""
    calendar = account.contract.calendar
    for each in closed:
        said: dict[tuple[str, int], str] = {}
        for item in _items(account, outcome, "approval"):
            is_of_it = item["what"] == "adjusted" and item["period_start"] == each.period.start_ms
            if is_of_it and item["offset"] <= each.offset:
                adjusted = calendar.period_at(item["of_period"]).name
                said.setdefault((adjusted, item["amount"]), item["verdict"])
        amounts: Counter[str] = Counter()
        for line in each.statement["lines"]:
            if line["kind"] in {"adjusted", "minimum"} and "period" in line:
                amounts[line["period"]] += int(Decimal(line["amount"]) * 100)
        waived = {line["period"] for line in each.statement["lines"] if line["kind"] == "waived"}
        for name, amount in amounts.items():
            verdict = said.get((name, amount))
            if verdict is None and Decimal(abs(amount)) / 100 > AMOUNT_MAX:
                yield f"{account.name} {each.period.name}: nobody approved {amount} of {name}"
            if verdict == "rejected" and amount and name not in waived:
                yield f"{account.name} {each.period.name}: {amount} of {name} was rejected"


def _own_keys(account: Billed, period: Period, outcome: MonthsOutcome) -> set[str]:
    """Return the keys of the invoices of our own for a period, as the journal has them."""
    items = _items(account, outcome, "invoice_planned")
    return {i["key"] for i in items if i["period_start"] == period.start_ms and "key" in i}


def _of_customers(months: Months, outcome: MonthsOutcome) -> Iterator[str]:
    for account in months.accounts:
        balance = outcome.state.customers.get(account.customer)["balance"]
        if balance:
            yield f"{account.name}: the customer's balance has moved to {balance}"


def _of_rebuilt(
    months: Months, account: Billed, closed: list[Closed], outcome: MonthsOutcome
) -> Iterator[str]:
    """Compare what a new ledger states, which has read the journal and the records again."""
    billed = account_of(months.tenants, account.name)
    for each in closed:
        stated = state_account(
            outcome.rebuilt, billed, months.tenants, each.period.name, outcome.world.time
        )
        shown = statement_object(account.name, stated.statement)
        if shown != each.statement:
            yield f"{account.name} {each.period.name}: a rebuilt ledger states {shown}"
