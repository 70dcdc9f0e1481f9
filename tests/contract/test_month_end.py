"""A month ends: the invoice comes to the statement, to the cent, whatever arrives when."""

import asyncio
import json
import tempfile
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from pipeline.catalog.tenants import load_tenants
from pipeline.dev.emulator.faults import Fault
from pipeline.errors import ConfigurationError
from pipeline.ledger import open_ledger, upgrade
from pipeline.ledger.invoices import invoices_of
from pipeline.ledger.month_entries import Granted
from pipeline.ledger.tables import meter_event
from pipeline.sink.journal import Journal
from pipeline.sink.stripe.setup import Subscribing, set_up
from tests.support.bench import stripe_settings
from tests.support.journal import JOURNAL
from tests.support.months import TENANT_FILE, KilledError, Months, open_months
from tests.support.stripe_account import at

PRICE = '[price]\nresolution = "0.99"\n'


async def october(months: Months, *conversations: str) -> None:
    """Use units on 5 October, and deliver them."""
    months.go("2026-10-05T10:00")
    months.use(*conversations, when="2026-10-05T09:00")
    await months.flush()


def subscribed(months: Months) -> tuple[Any, Any]:
    """Return the one subscription, and its item of resolutions."""
    (subscription,) = months.v1.subscriptions.list({"customer": "cus_acme"}).data
    items = subscription["items"].data
    return subscription, next(each for each in items if "resolution" in each.price.product)


def reprice(months: Months, costs: dict[str, Any]) -> None:
    """Let the subscription have another price for resolutions."""
    subscription, item = subscribed(months)
    of_meter = {
        "interval": "month",
        "usage_type": "metered",
        "meter": item.price.recurring.meter,
    }
    price = {"currency": "usd", "product": item.price.product, "recurring": of_meter, **costs}
    other = months.v1.prices.create(price)
    changed = {"items": [{"id": item.id, "price": other.id}]}
    months.v1.subscriptions.update(subscription.id, changed)


def checked(months: Months) -> list[int]:
    """Return the totals of the invoices; the customer's balance must not have moved."""
    assert months.balance() == 0
    return [each.total for each in months.invoices() if each.billing_reason == "subscription_cycle"]


async def test_a_plain_month_is_closed_and_invoiced_by_itself(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2", "c3")

        progress = await months.month("2026-11-01")

        invoice = months.invoices()[-1]
        assert (progress.state, progress.amount) == ("invoiced", 297)
        assert (invoice.status, invoice.auto_advance) == ("open", True)
        assert months.lines(invoice) == [(None, 297)]
        assert checked(months)[-1] == 297


# --- reversals and stragglers ---------------------------------------------------------------------


async def test_a_reversal_after_an_hour_lessens_a_later_event_of_the_period(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        months.go("2026-10-05T11:00")
        months.take_back("c1")
        months.use("c3", "c4", when="2026-10-05T10:30")
        await months.flush()

        await months.month("2026-11-01")

        assert months.lines(months.invoices()[-1]) == [(None, 297)]
        assert checked(months)[-1] == 297


@pytest.mark.parametrize("when", ["2026-10-05T11:00", "2026-10-06T11:00", "2026-11-01T00:30"])
async def test_a_reversal_that_nothing_follows_is_an_item_at_the_close(
    tmp_path: Path, when: str
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        months.go(when)
        months.take_back("c1")
        await months.flush()

        await months.month("2026-11-01")

        assert months.lines(months.invoices()[-1]) == [(None, 198), ("metered", -99)]
        assert checked(months)[-1] == 99


@pytest.mark.parametrize("when", ["2026-11-02T00:00", "2026-11-14T09:00"])
async def test_a_reversal_in_the_next_period_is_adjusted_on_its_invoice(
    tmp_path: Path, when: str
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        await months.month("2026-11-01")
        months.go(when)
        months.take_back("c1")
        months.use("n1", "n2", "n3", when="2026-11-01T12:00")
        await months.flush()

        await months.month("2026-12-01")

        assert months.lines(months.invoices()[-1]) == [(None, 297), ("adjusted", -99)]
        assert checked(months)[-2:] == [198, 198]


async def test_what_is_below_zero_is_carried_to_the_next_invoice(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        await months.month("2026-11-01")
        months.go("2026-11-10")
        months.take_back("c1", "c2")
        await months.month("2026-12-01")
        months.go("2026-12-05")
        months.use("d1", "d2", "d3", when="2026-12-04")
        await months.flush()

        await months.month("2027-01-01")

        _, december, january = months.invoices()[-3:]
        assert months.lines(december) == [("adjusted", -198), ("carried_forward", 198)]
        assert months.lines(january) == [(None, 297), ("carried", -198)]
        assert checked(months)[-3:] == [198, 0, 99]


async def test_a_late_unit_of_a_closed_period_is_adjusted_on_the_next_invoice(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        await months.month("2026-11-01")
        months.go("2026-11-03")
        months.use("late", when="2026-10-20T08:00")
        await months.flush()

        await months.month("2026-12-01")

        assert months.lines(months.invoices()[-1]) == [("adjusted", 99)]
        assert checked(months)[-2:] == [99, 99]


# --- contracts ------------------------------------------------------------------------------------


async def test_included_units_a_minimum_and_a_credit_come_to_the_statement(tmp_path: Path) -> None:
    contract = f'currency = "usd"\n{PRICE}[included]\nresolution = 2\n[minimum]\namount = "5.00"\n'
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1", "c2", "c3", "c4", "c5")

        await months.month("2026-11-01")

        invoice = months.invoices()[-1]
        assert ("minimum", 203) in months.lines(invoice)
        assert checked(months)[-1] == months.total("2026-10") == 500


async def test_units_over_a_cap_are_not_on_the_invoice(tmp_path: Path) -> None:
    contract = f'currency = "usd"\n{PRICE}[cap]\nunits = 3\naction = "stop"\n'
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1", "c2", "c3", "c4", "c5")

        await months.month("2026-11-01")

        assert checked(months)[-1] == months.total("2026-10") == 297


async def test_tiers_are_charged_unit_by_unit(tmp_path: Path) -> None:
    contract = (
        'currency = "usd"\n[tiers]\nresolution = [{up_to = 2, price = "1.00"}, {price = "0.50"}]\n'
    )
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1", "c2", "c3")
        months.go("2026-10-07")
        months.take_back("c1")

        await months.month("2026-11-01")

        assert sorted(months.lines(months.invoices()[-1]), key=str) == [
            ("metered", -50),
            (None, 200),
            (None, 50),
        ]
        assert checked(months)[-1] == 200


async def test_units_at_another_price_than_that_of_the_subscription_are_items(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        reprice(months, {"unit_amount": 129})

        await months.month("2026-11-01")

        assert sorted(months.lines(months.invoices()[-1]), key=lambda line: line[1]) == [
            ("metered", -258),
            ("metered", 198),
            (None, 258),
        ]
        assert checked(months)[-1] == 198


async def test_a_credit_pays_and_gets_back_what_was_taken_back(tmp_path: Path) -> None:
    credit = {
        "kind": "credit",
        "id": "sorry",
        "account": "acme",
        "amount": "4.95",
        "source": "goodwill",
        "starts_at": "2026-10-01T00:00:00Z",
        "ends_at": None,
        "created_at": "2026-10-02T00:00:00Z",
    }
    async with open_months(tmp_path) as months:
        months.go("2026-10-02")
        line = json.dumps({name: value for name, value in credit.items() if value is not None})
        verdicts = months.journal().write([Granted("acme", line)])
        await october(months, "c1", "c2", "c3", "c4", "c5")
        await months.month("2026-11-01")
        months.go("2026-11-05")
        months.take_back("c1", "c2", "c3", "c4", "c5")
        await months.month("2026-12-01")

        october_, november = months.invoices()[-2:]
        assert [verdict.why for verdict in verdicts] == [None]
        assert months.lines(october_) == [(None, 495), ("credit", -495)]
        assert months.lines(november) == [("adjusted", -495), ("credit", 495)]
        assert checked(months)[-2:] == [0, 0]


async def test_a_reversal_is_adjusted_at_the_price_of_its_own_period(tmp_path: Path) -> None:
    contract = (
        'currency = "usd"\n'
        '[[versions]]\nversion = 1\neffective_from = "2026-10-01T00:00:00Z"\n'
        'price.resolution = "0.99"\n'
        '[[versions]]\nversion = 2\neffective_from = "2026-11-01T00:00:00Z"\n'
        'price.resolution = "1.29"\n'
    )
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1", "c2")
        await months.month("2026-11-01")
        reprice(months, {"unit_amount": 129})
        months.go("2026-11-10T12:00")
        months.take_back("c1")
        months.use("n1", "n2", when="2026-11-10T09:00")
        await months.flush()

        await months.month("2026-12-01")

        assert months.lines(months.invoices()[-1]) == [(None, 258), ("adjusted", -99)]
        assert checked(months)[-2:] == [198, 159]


# --- what holds it up -----------------------------------------------------------------------------


async def test_a_draft_is_held_at_once_and_waits_for_what_is_missing(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        months.go("2026-11-01T00:02")
        await months.look()
        months.use("stuck", when="2026-10-31T23:00")
        months.go("2026-11-03T00:00")
        (open_,) = await months.look()
        held = months.invoices()[-1]
        await months.flush()

        (progress,) = await months.look()

        assert (held.status, open_.state, open_.invoice) == ("draft", "open", held.id)
        assert any(
            text == "undelivered: 1 unit of acme is not at Stripe yet" for text in open_.texts
        )
        assert (progress.state, checked(months)[-1]) == ("invoiced", 198)


async def test_items_wait_for_stripes_late_sums(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        months.emulator.backend.configure(3 * 3600, None)
        months.go("2026-10-31T23:50")
        months.use("c1", when="2026-10-31T23:40")
        await months.flush()
        months.go("2026-11-01T00:50")
        (waiting,) = await months.look()
        months.go("2026-11-01T04:00")

        (progress,) = await months.look()

        assert waiting.state == "waiting"
        assert "sums count 0 resolution, and 1 were delivered" in waiting.texts[0]
        assert (progress.state, checked(months)[-1]) == ("invoiced", 99)


async def test_nothing_is_closed_before_its_time_or_by_itself_without_a_draft(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path, subscribes=False) as months:
        months.go("2026-11-01T00:44")
        (early,) = await months.look()
        months.go("2026-11-01T02:00")

        (late,) = await months.look()

        assert "it is closed from 2026-11-01T00:45:00.000Z on" in early.texts[0]
        assert "not closed by itself" in late.texts[0]
        assert (early.state, late.state) == ("open", "open")


async def test_an_account_with_earlier_periods_is_left_alone_until_a_person_begins(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        months.use("before", when="2026-09-20T08:00")
        await october(months, "c1")
        months.go("2026-11-01T00:50")
        await months.flush()

        (left,) = await months.look()
        draft = months.invoices()[-1]
        await months.look(period="2026-09", by_itself=False)
        months.go("2026-11-01T00:55")
        (progress,) = await months.look(period="2026-10")

        assert (left.state, left.invoice) == ("open", None)
        assert "resmeter close acme --period 2026-09-01" in left.texts[0]
        assert draft.auto_advance
        assert (progress.state, checked(months)[-1]) == ("invoiced", 99)


async def test_a_person_closes_a_period_without_an_invoice(tmp_path: Path) -> None:
    async with open_months(tmp_path, subscribes=False) as months:
        months.go("2026-11-01T06:00")

        (progress,) = await months.look(by_itself=False)
        (again,) = await months.look(period="2026-10", by_itself=False)

        assert (progress.state, again.state) == ("without", "without")


async def test_an_account_that_cannot_be_stated_needs_a_person(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        months.go("2026-11-01T00:50")
        await months.flush()
        months.unstatable = "the final statement was another one"

        (stopped,) = await months.look()

        assert (stopped.state, stopped.texts) == ("stopped", (months.unstatable,))


SHARED = '[accounts.acme]\nstripe_customer = "cus_acme"\n[accounts.bluejay]\nstripe_customer = "cus_acme"\n'


async def test_accounts_that_share_a_customer_are_closed_by_a_person_without_an_invoice(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path, tenant_file=SHARED) as months:
        months.go("2026-11-01T00:50")
        (left,) = await months.look()
        (closed,) = await months.look(by_itself=False)
        again = await months.look(by_itself=False)

        assert "no customer of its own" in left.texts[0]
        assert (left.state, closed.state, again) == ("open", "without", [])


async def test_an_event_that_is_under_way_holds_up_the_items(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        months.go("2026-11-01T00:50")
        (closed, *_) = await _closed_only(months)
        with months.ledger.writing() as connection:
            connection.execute(update(meter_event).values(state="sent"))
        (waiting,) = await months.look()

        assert closed == "closed"
        assert (waiting.state, waiting.texts[0].split(":")[0]) == (
            "waiting",
            "1 resolution of the period are under way",
        )


async def _closed_only(months: Months) -> list[str]:
    """Let a sink die right after it has held the draft and closed the period."""
    async with months.closer(dies_at=3) as (closer, _):
        with suppress(KilledError):
            await closer.look(["acme"])
            return ["invoiced"]
    return ["closed"]


async def test_an_invoice_that_stripe_made_final_too_early_is_missed_and_made_up(
    tmp_path: Path,
) -> None:
    contract = f'currency = "usd"\n{PRICE}[minimum]\namount = "5.00"\n'
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1")
        months.go("2026-11-01T03:00")
        (missed,) = await months.look(by_itself=False)
        (told,) = await months.look()
        async with months.closer() as (closer, _):
            own = await closer.make_own("acme", "2026-10")

        final, ours = months.invoices()[-2:]
        assert (missed.state, missed.amount, told.state) == ("missed", 401, "missed")
        assert "--own-invoice" in missed.texts[0]
        assert (own.state, own.amount) == ("invoiced", 401)
        assert (final.total, ours.total, ours.status) == (99, 401, "open")
        assert (ours.collection_method, ours.auto_advance) == ("send_invoice", True)
        assert months.balance() == 0
        assert [each.state for each in await months.look()] == []


async def test_an_account_without_a_subscription_gets_an_invoice_of_its_own(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path, subscribes=False) as months:
        for name in ("resolution", "carried"):
            months.v1.products.create({"id": f"resmeter_{name}", "name": name})
        months.v1.billing.meters.create(
            {
                "event_name": "resmeter_resolution",
                "display_name": "r",
                "default_aggregation": {"formula": "sum"},
            }
        )
        await october(months, "c1", "c2")
        months.go("2026-11-01T06:00")
        (stopped,) = await months.look(by_itself=False)
        async with months.closer() as (closer, _):
            own = await closer.make_own("acme", "2026-10")

        assert (stopped.state, own.state, own.amount) == ("stopped", "invoiced", 198)
        assert "no invoice for 1.98 USD" in stopped.texts[0]
        assert [each.total for each in months.invoices()] == [198]


# --- crashes, and several sinks -------------------------------------------------------------------


async def _eventful(months: Months) -> None:
    """Live up to a close with items of several kinds."""
    await october(months, "c1", "c2", "c3")
    await months.month("2026-11-01")
    months.go("2026-11-05")
    months.take_back("c1")
    months.use("late", when="2026-10-20T08:00")
    months.use("n1", "n2", when="2026-11-04")
    await months.flush()
    months.go("2026-11-20")
    months.take_back("n1")
    months.go("2026-12-01T00:50")
    await months.flush()


async def test_a_sink_may_die_before_and_after_every_effect(tmp_path: Path) -> None:
    contract = f'currency = "usd"\n{PRICE}[minimum]\namount = "5.00"\n'
    async with open_months(tmp_path, contract) as months:
        await october(months, "c0")
        await months.month("2026-11-01")
        dies_at, is_dead, year, month = -1, True, 2026, 11
        while is_dead:
            dies_at += 1
            # Each month has items of three kinds, and a death one half of an effect later.
            date = f"{year}-{month:02}"
            months.go(f"{date}-20T00:00")
            months.take_back(f"c{dies_at}")
            months.use(f"c{dies_at + 1}", f"x{date}", when=f"{date}-19T00:00")
            await months.flush()
            year, month = year + month // 12, month % 12 + 1
            months.go(f"{year}-{month:02}-01T00:50")
            async with months.closer(dies_at=dies_at) as (closer, _):
                with suppress(KilledError):
                    await closer.look(["acme"])
                    is_dead = False
            await months.look(run="b")

            kinds = [kind for kind, _ in months.lines(months.invoices()[-1]) if kind]
            stored = invoices_of(months.ledger, "acme")[-1]
            assert {"adjusted", "minimum"} <= set(kinds)
            assert (stored.state, stored.amount) == ("invoiced", months.total(date))
            assert checked(months)[-1] == months.total(date)
        assert dies_at > 12


async def test_a_ledger_that_is_built_again_knows_the_same_invoices(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await _eventful(months)
        await months.look()
        known = invoices_of(months.ledger, "acme")
        url = f"sqlite:///{tmp_path}/again.sqlite"
        upgrade(url)
        again = open_ledger(url)

        journal = Journal(again, months.topic, JOURNAL, "c", months.metrics)
        journal.open()

        built = invoices_of(again, "acme")
        again.close()
        assert [each.state for each in known] == ["invoiced", "invoiced"]
        assert built == known


async def test_two_sinks_at_once_add_nothing_twice(tmp_path: Path) -> None:
    async with open_months(tmp_path) as months:
        await _eventful(months)

        async with months.closer(run="a") as (one, _), months.closer(run="b") as (other, _):
            await asyncio.gather(one.look(["acme"]), other.look(["acme"]))
        await months.look()

        assert checked(months)[-1] == months.total("2026-11")


@pytest.mark.parametrize("kind", ["500_after", "cut_after", "500_before", "foreign_after", "429"])
@pytest.mark.parametrize("path", ["/v1/invoiceitems", "/v1/invoices/*", "/v1/invoices/*/finalize"])
async def test_a_call_that_fails_is_made_again_at_the_next_look(
    tmp_path: Path, kind: Any, path: str
) -> None:
    contract = f'currency = "usd"\n{PRICE}[minimum]\namount = "5.00"\n'
    async with open_months(tmp_path, contract) as months:
        await _eventful(months)
        months.emulator.state.faults.append(Fault(kind, path=path))
        (delayed,) = await months.look()
        # Stripe repeats an error under its key for a day; a draft that is not held has an hour.
        months.go("2026-12-02T01:00" if path == "/v1/invoiceitems" else "2026-12-01T00:55")

        (progress,) = await months.look()

        assert (delayed.state, progress.state) == ("waiting", "invoiced")
        assert checked(months)[-1] == months.total("2026-11")


# --- any account ----------------------------------------------------------------------------------

CONTRACTS = (
    None,
    PRICE,
    f"{PRICE}[included]\nresolution = 2\n",
    f'{PRICE}[minimum]\namount = "3.00"\n',
    f'{PRICE}[cap]\nunits = 3\naction = "stop"\n',
    '[tiers]\nresolution = [{up_to = 2, price = "1.00"}, {price = "0.333"}]\n',
)
# The day on which a unit is stored, how many days before it occurred, and after how many days from
# then it is taken back; 0: never.
units = st.lists(
    st.tuples(st.integers(0, 88), st.integers(0, 20), st.sampled_from([0, 0, 1, 3, 30, 50])),
    max_size=12,
)


@settings(
    max_examples=max(5, (settings.default or settings()).max_examples // 20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(st.sampled_from(CONTRACTS), units)
def test_every_invoice_comes_to_its_statement_whatever_happens_when(
    tmp_path: Path, contract: str | None, drawn: list[tuple[int, int, int]]
) -> None:
    asyncio.run(_live(Path(tempfile.mkdtemp(dir=tmp_path)), contract, drawn))


async def _live(folder: Path, contract: str | None, drawn: list[tuple[int, int, int]]) -> None:
    first = datetime(2026, 10, 1, tzinfo=UTC)
    stored: defaultdict[int, list[tuple[str, datetime]]] = defaultdict(list)
    reversed_: defaultdict[int, list[str]] = defaultdict(list)
    for number, (day, before, after) in enumerate(drawn):
        occurred = max(first, first + timedelta(days=day - before)) + timedelta(hours=3)
        stored[day].append((f"c{number}", occurred))
        if after:
            reversed_[day + after].append(f"c{number}")
    text = None if contract is None else f'currency = "usd"\n{contract}'
    async with open_months(folder, text) as months:
        for day in range(92):
            date = first + timedelta(days=day)
            if date.day == 1 and day:
                await months.month(f"{date:%Y-%m-%d}")
            if not stored[day] and not reversed_[day]:
                continue
            months.go(f"{date:%Y-%m-%d}T12:00")
            for name, occurred in stored[day]:
                months.use(name, when=f"{occurred:%Y-%m-%dT%H:%M}")
            months.take_back(*reversed_[day])
            await months.flush()

        periods = ["2026-10", "2026-11"]
        totals = [months.total(period) for period in periods]
        found = invoices_of(months.ledger, "acme")
        assert [(each.state, each.amount) for each in found] == [
            ("invoiced", total) for total in totals
        ]
        assert checked(months)[-2:] == totals


# --- what persons and other programs change ---------------------------------------------------------


def billed_to(months: Months, folder: Path, text: str) -> None:
    """Let the catalog name other customers from now on."""
    (folder / "changed.toml").write_text(text)
    months.tenants = load_tenants(folder / "changed.toml")


async def _waits_for_stripe(months: Months) -> None:
    """Close October, whose invoice waits for Stripe's sums."""
    months.emulator.backend.configure(3 * 3600, None)
    months.go("2026-10-31T23:50")
    months.use("c1", when="2026-10-31T23:40")
    await months.flush()
    months.go("2026-11-01T00:50")
    (waiting,) = await months.look()
    assert waiting.state == "waiting"


@pytest.mark.parametrize("after", ["", 'stripe_customer = "cus_other"\n'])
async def test_a_closed_period_is_invoiced_to_the_customer_of_its_close(
    tmp_path: Path, after: str
) -> None:
    async with open_months(tmp_path, customers=("cus_acme", "cus_other")) as months:
        await _waits_for_stripe(months)
        billed_to(months, tmp_path, f"[accounts.acme]\n{after}")
        (held, *_) = await months.look()
        months.go("2026-11-01T04:00")

        async with months.closer() as (closer, _):
            (progress, *_) = await closer.look(closer.accounts())

        assert held.state == "waiting"
        assert (progress.state, checked(months)[-1]) == ("invoiced", 99)


async def test_the_drafts_of_later_periods_are_held_while_an_earlier_one_is_open(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        months.go("2026-11-01T00:02")
        await months.look()
        months.use("stuck", when="2026-10-31T23:00")
        months.go("2026-12-01T00:02")
        (open_,) = await months.look()
        held = [each.auto_advance for each in months.invoices() if each.status == "draft"]
        await months.flush()
        months.go("2026-12-01T02:00")
        first = await months.look()
        await months.look()

        assert (open_.state, held) == ("open", [False, False])
        assert [each.state for each in first] == ["invoiced"]
        assert checked(months)[-2:] == [198, 0]


async def test_a_held_draft_is_told_of_when_an_earlier_period_gets_a_late_unit(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        months.go("2026-11-01T00:02")
        await months.look()
        months.use("late", when="2026-09-20T08:00")
        months.go("2026-11-01T00:50")
        (told,) = await months.look()

        assert (told.state, told.invoice) == ("open", months.invoices()[-1].id)
        assert "resmeter close acme --period 2026-09-01" in told.texts[0]


async def test_units_that_an_earlier_customer_is_charged_for_are_not_charged_again(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path, customers=("cus_acme", "cus_other")) as months:
        await october(months, "c1", "c2")
        billed_to(months, tmp_path, '[accounts.acme]\nstripe_customer = "cus_other"\n')
        settings_ = stripe_settings(months.base_url)
        await set_up(settings_, months.tenants.catalog, months.now_ms, Subscribing(), applies=True)
        months.go("2026-10-20")
        months.use("c3", when="2026-10-19T08:00")
        await months.flush()

        progress = await months.month("2026-11-01")

        totals = [
            each.total
            for customer in ("cus_acme", "cus_other")
            for each in months.invoices(customer)
            if each.total
        ]
        assert months.total("2026-10") == 297
        assert (progress.state, sorted(totals)) == ("invoiced", [99, 198])
        assert "at an earlier customer, and not charged: 1.98 USD" in progress.texts[0]


def finalised_by_hand(months: Months) -> None:
    for each in months.invoices():
        if each.status == "draft":
            months.v1.invoices.finalize_invoice(each.id)


@pytest.mark.parametrize("mess", ["two subscriptions", "a flat amount", "stripe lost usage"])
async def test_what_cannot_be_compared_is_made_final_by_hand_and_the_rest_is_invoiced(
    tmp_path: Path, mess: str
) -> None:
    contract = f'currency = "usd"\n{PRICE}[minimum]\namount = "5.00"\n'
    async with open_months(tmp_path, contract) as months:
        await october(months, "c1")
        await _make(months, mess)
        months.go("2026-11-01T00:02")
        await months.look()
        months.go("2026-11-01T00:50")
        (held_up,) = await months.look()
        finalised_by_hand(months)

        (missed,) = await months.look()
        async with months.closer() as (closer, _):
            own = await closer.make_own("acme", "2026-10")

        came_to = sum(each.total for each in months.invoices())
        assert held_up.state in ("stopped", "waiting")
        assert missed.state == "missed"
        assert (own.state, own.amount) == ("invoiced", missed.amount)
        assert (came_to, months.balance()) == (months.total("2026-10"), 0)


async def _make(months: Months, mess: str) -> None:
    """Change at Stripe what keeps us from comparing its charges with the statement."""
    if mess == "two subscriptions":
        _, item = subscribed(months)
        anchor = {"billing_cycle_anchor": at("2026-11-01T00:00")}
        again = {"customer": "cus_acme", "items": [{"price": item.price.id}]}
        months.v1.subscriptions.create(again | anchor)
    elif mess == "a flat amount":
        tiers = [{"up_to": "inf", "unit_amount": 99, "flat_amount": 1}]
        costs = {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers}
        reprice(months, costs)
    else:
        with months.ledger.writing() as connection:
            connection.execute(update(meter_event).values(value=2))


async def test_before_stripe_has_made_every_draft_no_period_is_without_an_invoice(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path, subscribes=False) as months:
        for name in ("resolution", "carried"):
            months.v1.products.create({"id": f"resmeter_{name}", "name": name})
        await october(months)
        months.go("2026-11-01T00:50")
        (early,) = await months.look(by_itself=False)
        async with months.closer() as (closer, _):
            with pytest.raises(ConfigurationError, match="has made an invoice for it yet"):
                await closer.make_own("acme", "2026-10")
        months.go("2026-11-01T06:00")

        (late,) = await months.look()

        assert "has made an invoice for it yet" in early.texts[0]
        assert (early.state, late.state) == ("waiting", "without")


async def test_what_the_customers_balance_leaves_is_sent_if_it_is_too_small_to_charge(
    tmp_path: Path,
) -> None:
    async with open_months(tmp_path) as months:
        await october(months, "c1", "c2")
        given = {"amount": -170, "currency": "usd"}
        months.v1.customers.balance_transactions.create("cus_acme", given)

        progress = await months.month("2026-11-01")

        invoice = months.invoices()[-1]
        assert (progress.state, progress.amount, invoice.total) == ("invoiced", 198, 198)
        assert (invoice.collection_method, invoice.amount_due) == ("send_invoice", 28)
        assert months.balance() == 0


async def test_a_period_whose_draft_charges_another_time_is_not_closed(tmp_path: Path) -> None:
    contract = (
        f'name = "c"\nversion = 1\neffective_from = "2026-10-10T00:00:00Z"\n{PRICE}'
        '[period]\nanchor = "2026-10-15T00:00:00Z"\n'
    )
    async with open_months(tmp_path) as months:
        await october(months, "c1")
        known = months.tenants
        (tmp_path / "c.toml").write_text(contract)
        billed_to(
            months,
            tmp_path,
            f'contract_files = ["c.toml"]\n{TENANT_FILE}contract = "c"\n',
        )
        months.go("2026-11-01T00:02")
        (stopped,) = await months.look()
        months.tenants = known
        months.go("2026-11-01T00:50")

        (progress,) = await months.look()

        assert (stopped.state, stopped.amount) == ("stopped", None)
        assert "`resmeter check` compares where periods begin" in stopped.texts[0]
        assert (progress.state, checked(months)[-1]) == ("invoiced", 99)
