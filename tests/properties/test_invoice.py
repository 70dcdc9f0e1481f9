"""A draft that follows its plan comes to the statement's total, whatever Stripe has counted."""

from decimal import Decimal

import hypothesis.strategies as st
from hypothesis import given

from pipeline.billing.contract import Tier
from pipeline.billing.invoice import ITEMS_MAX, StripePrice, plan_invoice
from tests.properties.test_statements import OUTCOMES, PRICES, World, worlds

prices = st.sampled_from(PRICES)
stripe_prices = st.one_of(
    prices.map(lambda price: StripePrice((Tier(None, price),))),
    st.builds(
        lambda up_to, first, then: StripePrice((Tier(up_to, first), Tier(None, then))),
        st.integers(1, 3),
        prices,
        prices,
    ),
)


def _charged(
    subscription: dict[str, StripePrice], quantities: dict[str, int], currency: str
) -> int:
    return sum(
        price.charge(quantities.get(outcome, 0), currency)
        for outcome, price in subscription.items()
    )


@given(
    worlds(),
    st.dictionaries(st.sampled_from(OUTCOMES), stripe_prices),
    st.dictionaries(st.sampled_from(OUTCOMES), st.integers(0, 12)),
    st.dictionaries(st.sampled_from(OUTCOMES), st.integers(0, 3)),
)
def test_the_invoice_comes_to_the_total_of_its_statement(
    world: World,
    subscription: dict[str, StripePrice],
    counted: dict[str, int],
    included: dict[str, int],
) -> None:
    for statement in world.statements():
        plan = plan_invoice("acme", statement, subscription, counted, included)

        at_stripe = {o: counted.get(o, 0) + plan.send.get(o, 0) for o in OUTCOMES}
        items = sum(item.amount for item in plan.items)
        assert _charged(subscription, at_stripe, statement.currency) + items == plan.total
        assert all(units > 0 for units in plan.send.values())
        assert len(plan.items) <= ITEMS_MAX
        assert len({item.key for item in plan.items}) == len(plan.items)
        assert all(item.amount for item in plan.items)
        # Once the units are counted, the plan is the same, and nothing is sent again.
        again = plan_invoice("acme", statement, subscription, at_stripe, included)
        assert again == type(plan)({}, plan.items, plan.total)


@given(
    worlds(),
    st.dictionaries(st.sampled_from(OUTCOMES), stripe_prices),
    st.dictionaries(st.sampled_from(OUTCOMES), st.integers(0, 12)),
    st.dictionaries(st.sampled_from(OUTCOMES), st.integers(1, 500)),
)
def test_after_the_close_the_invoice_comes_to_the_total_less_what_was_settled_by_hand(
    world: World,
    subscription: dict[str, StripePrice],
    counted: dict[str, int],
    settled: dict[str, int],
) -> None:
    for statement in world.statements():
        plan = plan_invoice("acme", statement, subscription, counted, settled=settled, sends=False)

        items = sum(item.amount for item in plan.items)
        assert _charged(subscription, counted, statement.currency) + items == plan.total
        assert plan.send == {}
        assert plan.total == max(0, statement.total - sum(settled.values()))
        assert plan.settled == statement.total - plan.total
        assert len({item.key for item in plan.items}) == len(plan.items)


def test_a_price_that_rounds_is_charged_as_stripe_rounds_it() -> None:
    price = StripePrice((Tier(2, Decimal("0.333")), Tier(None, Decimal("0.005"))))

    assert [price.charge(n, "usd") for n in range(5)] == [0, 33, 67, 68, 68]
