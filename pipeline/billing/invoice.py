"""Say what a statement still needs on Stripe's invoice of the period. Pure.

docs/reference/money.md §6. Stripe charges what its meter has counted, at the price of the customer's
subscription. Everything else on a statement becomes invoice items, so that the invoice's total before
tax is the statement's.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec
import orjson

from pipeline.billing.contract import Tier
from pipeline.billing.money import digits_of, line_amount, price_text, stripe_digits
from pipeline.billing.periods import Period
from pipeline.billing.statement import Line, Statement
from pipeline.events.times import format_time

ITEMS_MAX = 200  # Stripe takes 250 a draft


class StripePrice(msgspec.Struct, frozen=True):
    """What a customer's subscription charges for an outcome; one tier is a price without tiers."""

    tiers: tuple[Tier, ...]

    def split(self, quantity: int) -> dict[Decimal, int]:
        """Return how many of a quantity each price has, without zeros."""
        by_price: dict[Decimal, int] = {}
        before = 0
        for tier in self.tiers:
            until = quantity if tier.up_to is None else min(quantity, tier.up_to)
            if until > before:
                by_price[tier.price] = by_price.get(tier.price, 0) + until - before
                before = until
        return by_price

    def charge(self, quantity: int, currency: str) -> int:
        """Return what Stripe charges for a quantity, in minor units: each price rounded."""
        return sum(
            line_amount(units, price, currency) for price, units in self.split(quantity).items()
        )


class InvoiceItem(msgspec.Struct, frozen=True):
    """One item to add to the draft. Amounts are signed, in minor units."""

    key: str  # a function of what it stands for: no draft has two items with one key
    idempotency_key: str  # of the key and the amount
    amount: int
    stripe_amount: int  # as Stripe counts the currency
    description: str
    metadata: dict[str, str]
    outcome: str | None  # whose product it names; None: the product for what is carried


class InvoicePlan(msgspec.Struct, frozen=True):
    """What brings the draft to the statement's total: units to send first, then items to add."""

    send: dict[str, int]  # by outcome; within the period
    items: tuple[InvoiceItem, ...]
    total: int  # of the invoice, before tax and the customer's balance
    settled: int = 0  # of the statement's total, what an operator settled by hand


def plan_invoice(
    account: str,
    statement: Statement,
    prices: Mapping[str, StripePrice],
    counted: Mapping[str, int],
    included: Mapping[str, int] | None = None,
    *,
    settled: Mapping[str, int] | None = None,
    sends: bool = True,
) -> InvoicePlan:
    """Compare a final statement with what Stripe charges for the units that it has counted.

    Args:
        account: whose statement it is.
        statement: a final one.
        prices: of the subscription, by outcome. An outcome without one is all items.
        counted: the sums of Stripe's meters for the customer and the period, by outcome.
        included: the included units of the period, by outcome. Stripe's meter counts them where a first
            tier makes them free.
        settled: what units come to that an operator settled after Stripe had rejected them, by outcome:
            the invoice leaves them out.
        sends: more can be sent; once the period is closed, an item stands for what is not counted.
    """
    metered: dict[str | None, list[Line]] = {}
    others: list[Line] = []
    for line in statement.lines:
        if line.kind == "metered" and line.outcome in prices:
            metered.setdefault(line.outcome, []).append(line)
        else:
            others.append(line)
    send: dict[str, int] = {}
    items: list[InvoiceItem] = []
    maker = _Items(account, statement)
    left_out = _left_out(settled or {}, statement.total)
    for outcome in sorted(prices):
        price, sum_ = prices[outcome], counted.get(outcome, 0)
        lines = metered.get(outcome, [])
        on_meter, by_item, free = _split(lines, price, (included or {}).get(outcome, 0))
        others += by_item
        wanted = free + sum(line.quantity or 0 for line in on_meter)
        if sends and wanted > sum_:
            send[outcome] = wanted - sum_
            sum_ = wanted
        charged = price.charge(sum_, statement.currency)
        owed = sum(line.amount for line in on_meter) - left_out.pop(outcome, 0)
        if owed != charged:
            items.append(maker.of_counted(outcome, wanted, sum_, owed - charged))
    items += maker.of_lines(sorted(others, key=statement.lines.index))
    items += [maker.left_out(outcome, amount) for outcome, amount in sorted(left_out.items())]
    total_settled = sum(_left_out(settled or {}, statement.total).values())
    return InvoicePlan(send, tuple(items), statement.total - total_settled, total_settled)


def settled_amounts(statement: Statement, settled: Mapping[str, str]) -> dict[str, int]:
    """Return what the metered units of a statement come to that were settled by hand, by outcome.

    `settled` has the outcomes of their usage records, by id.
    """
    units = Counter(
        (settled[unit.id], price)
        for unit in statement.units
        if unit.id in settled and (price := unit.placed.charged) is not None
    )
    amounts: Counter[str] = Counter()
    for (outcome, price), number in units.items():
        amounts[outcome] += line_amount(number, price, statement.currency)
    return dict(amounts)


def own_key(account: str, period: Period) -> str:
    """Return what an invoice of our own is known by: a function of what it stands for."""
    return _digest(["invoice", account, format_time(period.start_ms)])


def rest_item(account: str, statement: Statement, amount: int) -> InvoiceItem:
    """Return an item for what a final invoice lacks."""
    return _Items(account, statement).rest(amount)


def to_stripe(amount: int, currency: str) -> int:
    """Return an amount in the minor units that Stripe counts in."""
    more: int = 10 ** (stripe_digits(currency) - digits_of(currency))
    return amount * more


def from_stripe(amount: int, currency: str) -> int:
    """Return an amount in minor units from what Stripe counts.

    Raises:
        ValueError: the currency has no such amount.
    """
    minor, rest = divmod(amount, to_stripe(1, currency))
    if rest:
        raise ValueError(f"{amount} is no amount in {currency}")
    return minor


def _left_out(settled: Mapping[str, int], total: int) -> dict[str, int]:
    """Return how much of what was settled the invoice leaves out: at most its total."""
    left_out: dict[str, int] = {}
    for outcome, amount in sorted(settled.items()):
        part = min(amount, total)
        if part > 0:
            left_out[outcome] = part
            total -= part
    return left_out


def _split(
    lines: Sequence[Line], price: StripePrice, included: int
) -> tuple[Sequence[Line], Sequence[Line], int]:
    """Return the metered lines that the meter charges, those that it does not, and its free units.

    With tiers, the meter charges all units or none: the lines must be those that its tiers give.
    """
    if len(price.tiers) == 1:
        own = price.tiers[0].price
        others = [line for line in lines if line.price != own]
        return [line for line in lines if line.price == own], others, 0
    free = included if price.tiers[0].price == 0 else 0
    given: dict[Decimal | None, int] = {line.price: line.quantity or 0 for line in lines}
    if free:
        given[Decimal(0)] = given.get(Decimal(0), 0) + free
    return (lines, [], free) if price.split(sum(given.values())) == given else ([], lines, 0)


class _Items:
    """Makes the items of one statement."""

    def __init__(self, account: str, statement: Statement) -> None:
        self._account = account
        self._statement = statement
        self._currency = statement.currency
        self._keys: Counter[str] = Counter()

    def of_counted(self, outcome: str, wanted: int, sum_: int, amount: int) -> InvoiceItem:
        """Return the item between what the meter charges and what the units come to."""
        more = wanted - sum_
        if more < 0:
            description = f"{outcome}: {-more:,} of {sum_:,} counted are not charged"
        elif more:
            description = f"{outcome}: {more:,} beside {sum_:,} counted"
        else:
            description = f"{outcome}: rounding"
        facts = {"quantity": str(more)} if more else {}
        return self._item("metered", outcome, amount, description, facts)

    def rest(self, amount: int) -> InvoiceItem:
        """Return the item of what a final invoice lacks."""
        description = f"What the invoice of {self._statement.period.name} lacks"
        return self._item("rest", None, amount, description, {})

    def left_out(self, outcome: str, amount: int) -> InvoiceItem:
        """Return the item that takes back what was settled by hand, and no meter charges."""
        return self._item("settled", outcome, -amount, f"{outcome}: settled by hand", {})

    def of_lines(self, lines: Sequence[Line]) -> list[InvoiceItem]:
        """Return an item for each line that is not zero; over the limit, those of a period are one."""
        lines = [line for line in lines if line.amount]
        if len(lines) > ITEMS_MAX:
            lines = _merged(lines, by_outcome=True)
        if len(lines) > ITEMS_MAX:
            lines = _merged(lines, by_outcome=False)
        return [self._of_line(line) for line in lines if line.amount]

    def _of_line(self, line: Line) -> InvoiceItem:
        facts = {
            name: value
            for name, value in (
                ("adjusted_period", line.period),
                ("grant", line.grant),
                ("quantity", None if line.quantity is None else str(line.quantity)),
                ("price", None if line.price is None else price_text(line.price)),
            )
            if value is not None
        }
        return self._item(line.kind, line.outcome, line.amount, self._words(line), facts)

    def _words(self, line: Line) -> str:
        units = "" if line.quantity is None else f"{line.quantity:,} {line.outcome}"
        if line.price is not None:
            units += f" at {price_text(line.price)} {self._currency.upper()}"
        match line.kind:
            case "metered":
                return units
            case "minimum" if line.period is None:
                return f"Minimum for {self._statement.period.name}"
            case "minimum":
                return f"Minimum for {line.period}, adjusted"
            case "adjusted":
                return f"{units or 'Usage'} in the period from {line.period}, adjusted"
            case "waived":
                return f"Usage in the period from {line.period}: the adjustment is waived"
            case "credit_note":
                return "Given back by a credit note on an earlier invoice"
            case "carried":
                return "Carried from the invoice before"
            case "carried_forward":
                return "Carried forward to the next invoice"
        return f"Credit {line.grant}"

    def _item(
        self, kind: str, outcome: str | None, amount: int, description: str, facts: dict[str, str]
    ) -> InvoiceItem:
        period = self._statement.period.name
        identity = {
            "account": self._account,
            "period": period,
            "kind": kind,
            **({"outcome": outcome} if outcome else {}),
            **facts,
        }
        # The quantity, as the amount, says how much it is, not what it stands for. Two periods that
        # begin on one day have one name, and a credit that gets back two draws has two equal lines.
        stands_for = {name: identity[name] for name in identity if name != "quantity"}
        stands_for["period_start"] = format_time(self._statement.period.start_ms)
        key = _digest(stands_for)
        self._keys[key] += 1
        if self._keys[key] > 1:
            key = _digest({**stands_for, "number": str(self._keys[key])})
        metadata = {f"resmeter_{name}": value for name, value in identity.items()}
        return InvoiceItem(
            key=key,
            idempotency_key=_digest([key, amount]),
            amount=amount,
            stripe_amount=to_stripe(amount, self._currency),
            description=description,
            metadata={**metadata, "resmeter_key": key},
            outcome=outcome,
        )


def _digest(content: object) -> str:
    return f"ri_{hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()}"


def _merged(lines: Sequence[Line], *, by_outcome: bool) -> list[Line]:
    """Add up the adjusted lines of a period, of each outcome or of all; other lines stay."""
    merged: dict[object, Line] = {}
    for number, line in enumerate(lines):
        key: object = number
        if line.kind == "adjusted":
            key = (line.period, line.outcome if by_outcome else None)
        earlier = merged.get(key)
        if earlier is None:
            merged[key] = line
        else:
            merged[key] = Line(
                kind=line.kind,
                amount=earlier.amount + line.amount,
                period=line.period,
                outcome=line.outcome if by_outcome else None,
                quantity=(earlier.quantity or 0) + (line.quantity or 0) if by_outcome else None,
            )
    return list(merged.values())
