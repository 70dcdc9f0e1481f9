"""What a statement adds to Stripe's draft: units that are missing, and an item for each other line."""

from collections.abc import Sequence
from decimal import Decimal

from pipeline.billing.contract import Tier
from pipeline.billing.invoice import InvoicePlan, StripePrice, plan_invoice, to_stripe
from pipeline.billing.periods import ALWAYS_MS, Calendar, Period
from pipeline.billing.statement import Closing, Counts, Line, Statement
from pipeline.events.times import parse_time

NOVEMBER = Calendar().period_at(parse_time("2026-11-05T00:00:00Z"))
FLAT = StripePrice((Tier(None, Decimal("0.99")),))
NO_UNITS = Counts(**dict.fromkeys(Counts.__struct_fields__, 0))


def metered(quantity: int, price: str = "0.99") -> Line:
    each = Decimal(price)
    amount = int(quantity * each * 100)
    return Line(kind="metered", outcome="resolution", quantity=quantity, price=each, amount=amount)


def adjusted(quantity: int, period: str, outcome: str = "resolution") -> Line:
    return Line(
        kind="adjusted",
        period=period,
        outcome=outcome,
        quantity=quantity,
        price=Decimal("0.99"),
        amount=quantity * 99,
    )


def plan(
    lines: Sequence[Line],
    counted: int = 0,
    price: StripePrice | None = FLAT,
    included: int = 0,
    period: Period = NOVEMBER,
) -> InvoicePlan:
    total = sum(line.amount for line in lines)
    statement = Statement(
        period=period,
        is_final=True,
        currency="usd",
        counts=NO_UNITS,
        lines=tuple(lines),
        subtotal=total,
        total=total,
        closing=Closing(0, {}, {}),
        units=(),
        adjusted=(),
    )
    prices = {} if price is None else {"resolution": price}
    return plan_invoice(
        "acme", statement, prices, {"resolution": counted}, {"resolution": included}
    )


def items(planned: InvoicePlan) -> list[tuple[int, str]]:
    return [(item.amount, item.description) for item in planned.items]


def test_an_invoice_that_agrees_needs_nothing() -> None:
    assert plan([metered(10)], counted=10) == InvoicePlan({}, (), 990)


def test_units_that_stripe_does_not_have_are_sent() -> None:
    assert plan([metered(10)], counted=7) == InvoicePlan({"resolution": 3}, (), 990)


def test_units_that_stripe_has_and_nobody_owes_become_a_negative_item() -> None:
    planned = plan([metered(10)], counted=12)

    assert items(planned) == [(-198, "resolution: 2 of 12 counted are not charged")]
    assert planned.items[0].outcome == "resolution"
    assert planned.items[0].metadata["resmeter_quantity"] == "-2"


def test_an_account_that_owes_nothing_gets_back_what_stripe_counted() -> None:
    assert items(plan([], counted=2)) == [(-198, "resolution: 2 of 2 counted are not charged")]


def test_units_at_another_price_than_the_subscriptions_are_an_item() -> None:
    planned = plan([metered(10), metered(4, "1.50")], counted=10)

    assert items(planned) == [(600, "4 resolution at 1.5 USD")]
    assert planned.items[0].metadata["resmeter_price"] == "1.5"


def test_without_a_price_in_the_subscription_every_line_is_an_item() -> None:
    planned = plan([metered(10)], price=None)

    assert (planned.send, items(planned)) == ({}, [(990, "10 resolution at 0.99 USD")])


def test_with_tiers_the_meter_charges_what_the_lines_say() -> None:
    tiers = StripePrice((Tier(2, Decimal("1.00")), Tier(None, Decimal("0.50"))))

    planned = plan([metered(3, "0.50"), metered(2, "1.00")], counted=6, price=tiers)

    assert items(planned) == [(-50, "resolution: 1 of 6 counted are not charged")]


def test_tiers_that_differ_from_the_contracts_charge_nothing_more_than_the_lines() -> None:
    tiers = StripePrice((Tier(2, Decimal("1.00")), Tier(None, Decimal("0.50"))))

    planned = plan([metered(5)], counted=5, price=tiers)

    assert planned.send == {}
    assert items(planned) == [
        (-350, "resolution: 5 of 5 counted are not charged"),
        (495, "5 resolution at 0.99 USD"),
    ]


def test_included_units_are_sent_if_a_first_tier_makes_them_free() -> None:
    tiers = StripePrice((Tier(50, Decimal(0)), Tier(None, Decimal("0.99"))))

    assert plan([metered(3)], counted=50, price=tiers, included=50).send == {"resolution": 3}
    assert plan([], counted=0, price=tiers, included=20).send == {"resolution": 20}


def test_each_other_line_is_an_item_and_says_what_it_stands_for() -> None:
    lines = [
        Line(kind="carried", amount=-100),
        metered(1),
        Line(kind="minimum", amount=1_901),
        adjusted(-2, "2026-09-01"),
        adjusted(0, "2026-10-01"),
        Line(kind="minimum", period="2026-10-01", amount=500),
        Line(kind="credit", grant="seats-06", amount=-300),
    ]

    assert items(plan(lines, counted=1)) == [
        (-100, "Carried from the invoice before"),
        (1_901, "Minimum for 2026-11-01"),
        (-198, "-2 resolution at 0.99 USD in the period from 2026-09-01, adjusted"),
        (500, "Minimum for 2026-10-01, adjusted"),
        (-300, "Credit seats-06"),
    ]


def test_over_the_limit_the_lines_of_a_period_are_one_item() -> None:
    lines = [
        adjusted(-1, f"2026-{month:02d}-01", f"outcome-{n}") for month in (8, 9) for n in range(150)
    ]

    planned = plan(lines)

    assert items(planned) == [
        (-14_850, "Usage in the period from 2026-08-01, adjusted"),
        (-14_850, "Usage in the period from 2026-09-01, adjusted"),
    ]


def test_stripe_counts_some_currencies_in_hundredths() -> None:
    assert [to_stripe(7, currency) for currency in ("usd", "jpy", "isk", "ugx")] == [7, 7, 700, 700]


def test_an_item_has_the_same_key_whatever_it_comes_to() -> None:
    two, three = (plan([metered(1)], counted=n).items[0] for n in (3, 4))

    assert two.key == three.key
    assert two.idempotency_key != three.idempotency_key


def test_what_a_credit_gets_back_from_two_statements_is_two_items() -> None:
    back = Line(kind="credit", grant="seats-06", amount=99)

    planned = plan([adjusted(-2, "2026-10-01"), back, back])

    assert items(planned)[1:] == [(99, "Credit seats-06"), (99, "Credit seats-06")]
    assert len({item.key for item in planned.items}) == 3
    assert len({item.idempotency_key for item in planned.items}) == 3


def test_periods_that_begin_on_one_day_share_no_item() -> None:
    anchors = [(ALWAYS_MS, parse_time("2026-01-01T00:00:00Z"))]
    anchors.append((parse_time("2026-11-01T00:00:00Z"), parse_time("2026-01-01T05:00:00Z")))
    of = Calendar(anchors)
    first = of.named("2026-11-01T00:00:00Z")

    in_first, in_second = (
        plan([Line(kind="minimum", amount=500)], period=period)
        for period in (first, of.after(first))
    )

    assert in_first.items[0].idempotency_key != in_second.items[0].idempotency_key


def test_adjustments_of_two_periods_that_begin_on_one_day_are_two_items() -> None:
    planned = plan([adjusted(-1, "2026-10-01"), adjusted(-1, "2026-10-01")])

    assert len({item.idempotency_key for item in planned.items}) == 2
