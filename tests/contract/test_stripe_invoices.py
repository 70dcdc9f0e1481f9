"""An invoice at Stripe is read, completed and made final, and a repeated call changes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from pipeline.billing.contract import Tier
from pipeline.billing.invoice import InvoiceItem, StripePrice
from pipeline.dev.emulator.faults import Fault
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.sink.invoicing import AddedItem, Charge, Invoice, InvoiceRefusedError
from pipeline.sink.stripe.client import PAUSES_SECONDS
from pipeline.sink.stripe.invoices import StripeInvoices
from tests.support.bench import stripe_settings
from tests.support.stripe_account import HOUR, NOVEMBER, OCTOBER, Account, at, open_account

OUTCOMES = {"resolved": "resolution"}


@pytest.fixture
def account() -> Any:
    with open_account() as opened:
        yield opened


@asynccontextmanager
async def opened(account: Account, key: str = "sk_test_1") -> AsyncIterator[StripeInvoices]:
    """Open the invoices; a pause before a call is repeated takes no time."""

    async def pause(_: float) -> None:
        return

    invoices = StripeInvoices(stripe_settings(account.base_url, key), pause)
    try:
        yield invoices
    finally:
        await invoices.close()


def drafted(account: Account, units: int = 3, **price: Any) -> None:
    """Make October's draft, with units in it."""
    account.subscribe(
        account.price(**price).id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )
    account.now("2026-10-15")
    if units:
        account.use(units, "2026-10-14")
    account.now("2026-11-01T00:01")


async def read(invoices: StripeInvoices, account: Account, since: int = OCTOBER) -> Invoice:
    (found,) = await invoices.of_customer(account.customer, OUTCOMES, since)
    return found


def item(amount: int = -99, key: str = "ri_1", outcome: str | None = "resolution") -> InvoiceItem:
    return InvoiceItem(
        key=key,
        idempotency_key=f"{key}_{amount}",
        amount=amount,
        stripe_amount=amount,
        description="1 of 3 counted are not charged",
        metadata={"resmeter_key": key},
        outcome=outcome,
    )


async def test_a_draft_is_read_with_its_charges_and_what_they_cost(account: Account) -> None:
    drafted(account)

    async with opened(account) as invoices:
        found = await read(invoices, account)

    (charge,) = found.charges
    assert (found.is_draft, found.advances, found.is_held) == (True, True, False)
    assert (found.finalises_at, found.total, found.others) == (NOVEMBER + HOUR, 297, 0)
    assert found.subscription is not None
    assert (charge.outcome, charge.quantity, charge.amount) == ("resolution", 3, 297)
    assert (charge.start, charge.end, charge.product) == (OCTOBER, NOVEMBER, account.product)
    assert charge.price == StripePrice((Tier(None, Decimal("0.99")),))


async def test_the_lines_of_tiers_are_one_charge(account: Account) -> None:
    drafted(
        account, 5, tiers=[{"up_to": 2, "unit_amount": 100}, {"up_to": "inf", "unit_amount": 50}]
    )

    async with opened(account) as invoices:
        (charge,) = (await read(invoices, account)).charges

    assert (charge.quantity, charge.amount) == (5, 350)
    assert charge.price == StripePrice((Tier(2, Decimal(1)), Tier(None, Decimal("0.5"))))


async def test_what_costs_more_than_its_units_has_no_price(account: Account) -> None:
    flat = {"up_to": 2, "unit_amount": 100, "flat_amount": 10}
    drafted(account, 1, tiers=[flat, {"up_to": "inf", "unit_amount": 50}])

    async with opened(account) as invoices:
        (charge,) = (await read(invoices, account)).charges

    assert (charge.price, charge.amount) == (None, 110)


async def test_usage_of_other_meters_and_items_of_others_are_not_ours(account: Account) -> None:
    drafted(account)
    account.item(1_000, invoice=account.invoices()[0].id)

    async with opened(account) as invoices:
        found = await read(invoices, account)
        (unknown,) = await invoices.of_customer(account.customer, {"other": "o"}, OCTOBER)

    assert (found.total, found.others, found.items) == (1_297, 1_000, ())
    assert (unknown.charges, unknown.others) == ((), 1_297)


async def test_all_lines_and_items_are_read_page_by_page(account: Account) -> None:
    drafted(account)
    draft = account.invoices()[0].id
    for number in range(120):
        account.item(1, invoice=draft, metadata={"resmeter_key": f"k{number}"})

    async with opened(account) as invoices:
        found = await read(invoices, account)

    assert (len(found.items), found.total, found.others) == (120, 417, 0)
    assert [charge.amount for charge in found.charges] == [297]


async def test_only_invoices_since_a_time_are_read_and_not_that_of_the_start(
    account: Account,
) -> None:
    account.subscribe(account.price().id)
    account.now("2026-11-01T00:01")

    async with opened(account) as invoices:
        (found,) = await invoices.of_customer(account.customer, OUTCOMES, OCTOBER)
        later = await invoices.of_customer(account.customer, OUTCOMES, NOVEMBER + 1)

    assert [charge.end for charge in found.charges] == [NOVEMBER]
    assert later == []


async def test_the_sum_of_a_charge_is_that_of_its_whole_minutes(account: Account) -> None:
    drafted(account)
    account.use(1, "2026-10-20T10:00:30")
    account.use(7, "2026-11-01T00:00")
    async with opened(account) as invoices:
        (charge,) = (await read(invoices, account)).charges
        whole = await invoices.counted(account.customer, charge)
        at_10 = Charge(
            **{name: getattr(charge, name) for name in charge.__struct_fields__}
            | {"start": at("2026-10-20T10:00:10"), "end": at("2026-10-20T10:00:20")}
        )
        part = await invoices.counted(account.customer, at_10)

    assert (whole, part) == (4, 1)


async def test_a_draft_that_is_held_stays_one_and_is_collected_once_it_is_final(
    account: Account,
) -> None:
    drafted(account)
    async with opened(account) as invoices:
        await invoices.hold(await read(invoices, account))
        await invoices.hold(await read(invoices, account))
        account.now("2026-11-05")
        held = await read(invoices, account)
        await invoices.finalise(held)
        final = await read(invoices, account)

    assert (held.is_draft, held.advances, held.is_held) == (True, False, True)
    assert (final.status, final.advances, final.total) == ("open", True, 297)


async def test_a_draft_that_somebody_else_holds_is_not_collected(account: Account) -> None:
    drafted(account)
    account.v1.invoices.update(account.invoices()[0].id, {"auto_advance": False})

    async with opened(account) as invoices:
        await invoices.finalise(await read(invoices, account))
        final = await read(invoices, account)

    assert (final.status, final.advances) == ("open", False)


async def test_a_late_hold_does_not_stop_the_collection_of_a_final_invoice(
    account: Account,
) -> None:
    drafted(account)
    async with opened(account) as invoices:
        seen = await read(invoices, account)
        account.now("2026-11-01T02:00")

        with pytest.raises(InvoiceRefusedError, match="Finalized invoices"):
            await invoices.hold(seen)

        assert (await read(invoices, account)).advances


async def test_an_item_is_added_once_and_names_the_product_that_it_corrects(
    account: Account,
) -> None:
    drafted(account)
    async with opened(account) as invoices:
        draft = await read(invoices, account)
        await invoices.add(draft, item())
        await invoices.add(draft, item())
        found = await read(invoices, account)

    (line,) = [each for each in account.invoices()[0].lines.data if each.amount < 0]
    assert (found.items, found.total) == ((AddedItem("ri_1", -99),), 198)
    assert line.pricing is not None
    assert line.pricing.price_details is not None
    assert line.pricing.price_details.product == account.product


async def test_a_product_that_is_missing_is_told(account: Account) -> None:
    drafted(account)
    async with opened(account) as invoices:
        draft = await read(invoices, account)

        with pytest.raises(
            InvoiceRefusedError, match="an item of resmeter_carried: No such product"
        ):
            await invoices.add(draft, item(outcome=None))


@pytest.mark.parametrize("units", [0, 297])
async def test_an_invoice_that_is_too_small_to_charge_moves_no_balance(
    account: Account, units: int
) -> None:
    drafted(account, 3)
    async with opened(account) as invoices:
        await invoices.add(await read(invoices, account), item(-297 + (30 if units else 0)))

        await invoices.finalise(await read(invoices, account))

        final = await read(invoices, account)
    assert (final.total, final.is_sent) == ((30, True) if units else (0, False))
    assert account.balance() == 0


async def test_a_final_invoice_takes_no_items_and_is_not_made_final_again(
    account: Account,
) -> None:
    drafted(account)
    async with opened(account) as invoices:
        draft = await read(invoices, account)
        await invoices.finalise(draft)

        with pytest.raises(InvoiceRefusedError, match="only a draft takes items"):
            await invoices.add(draft, item())
        with pytest.raises(InvoiceRefusedError, match="already finalized"):
            await invoices.finalise(draft)


async def test_credits_that_the_customer_has_at_stripe_do_not_change_the_total(
    account: Account,
) -> None:
    money = {"type": "monetary", "monetary": {"currency": "usd", "value": 100}}
    account.v1.billing.credit_grants.create(
        {
            "customer": account.customer,
            "amount": money,
            "applicability_config": {"scope": {"price_type": "metered"}},
        }
    )
    drafted(account)
    async with opened(account) as invoices:
        await invoices.finalise(await read(invoices, account))
        final = await read(invoices, account)

    assert account.invoices()[0].total == 197
    assert (final.total, final.others) == (297, 0)


async def test_an_invoice_of_our_own_is_made_once_and_sent(account: Account) -> None:
    account.now("2026-11-01T00:01")
    async with opened(account) as invoices:
        for _ in range(2):
            await invoices.create(account.customer, "usd", "ri_own", "October")
        made = await read(invoices, account)

    assert (made.key, made.is_draft, made.is_sent, made.advances) == ("ri_own", True, True, False)


@pytest.mark.parametrize("kind", ["500_before", "cut_before", "429"])
async def test_what_cannot_be_read_for_now_is_read_again(account: Account, kind: Any) -> None:
    drafted(account)
    faults = account.emulator.state.faults
    faults.append(Fault(kind, path="/v1/invoices", method="GET", times=len(PAUSES_SECONDS)))

    async with opened(account) as invoices:
        assert (await read(invoices, account)).total == 297


@pytest.mark.parametrize("kind", ["500_after", "cut_after", "429", "409", "foreign_after"])
async def test_a_call_that_fails_for_now_can_be_repeated(account: Account, kind: Any) -> None:
    drafted(account)
    async with opened(account) as invoices:
        draft = await read(invoices, account)
        account.emulator.state.faults.append(Fault(kind, path="/v1/invoiceitems"))

        with pytest.raises(UnavailableError, match=draft.id):
            await invoices.add(draft, item())

        if not (await read(invoices, account)).items:
            await invoices.add(draft, item())
        assert [each.key for each in (await read(invoices, account)).items] == ["ri_1"]


@pytest.mark.parametrize("kind", ["401", "403"])
async def test_a_key_that_may_not_change_invoices_is_told(account: Account, kind: Any) -> None:
    drafted(account)
    async with opened(account) as invoices:
        draft = await read(invoices, account)
        account.emulator.state.faults.append(Fault(kind, path="/v1/invoices/*"))

        with pytest.raises(ConfigurationError, match="API_KEY"):
            await invoices.hold(draft)
