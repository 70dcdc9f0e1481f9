"""What `resmeter stripe setup` creates at Stripe, and what the check finds there."""

import asyncio
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import load_tenants
from pipeline.catalog.value import Catalog
from pipeline.config import StripeSettings
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.server import Emulator, running
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.sink.stripe.account import check_invoicing, check_prices
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.setup import SetupPlan, Subscribing, set_up
from pipeline.sink.stripe.subscribed import read_subscribed
from tests.support.command import resmeter
from tests.support.policy_toml import write_policy
from tests.support.stripe_account import NOVEMBER, Account, at, client_of
from tests.support.tenants import export_catalog

NOW = at("2026-10-20")
SIMPLE = {"resolution": Decimal("0.99")}


def catalog(
    prices: Mapping[str, Mapping[str, Decimal]] | None = None,
    customers: Mapping[str, str] | None = None,
    **policy: Any,
) -> Catalog:
    """Return a catalog in which each tenant has a policy of its own, with its prices."""
    of_tenants = prices or {"acme": SIMPLE}
    lines = [f"policy_files = {[f'of-{tenant}.toml' for tenant in of_tenants]}"]
    with TemporaryDirectory() as folder:
        for tenant, price in of_tenants.items():
            of_tenant = msgspec.structs.replace(
                preset("fin-2026"),
                name=f"of-{tenant}",
                price=dict(price),
                handoff_causes_billed=("procedure",) if "procedure_handoff" in price else (),
                **{"outcomes_billed": (), **policy},
            )
            Path(folder, f"of-{tenant}.toml").write_text(write_policy(of_tenant))
            customer = (customers or {}).get(tenant, f"cus_{tenant}")
            lines += [f"[tenants.{tenant}]", f"policy = 'of-{tenant}'"]
            lines += [f"stripe_customer = '{customer}'"]
        file = Path(folder, "resmeter.toml")
        file.write_text("\n".join(lines))
        return load_tenants(file).catalog


@pytest.fixture
def account() -> Iterator[Account]:
    emulator = Emulator(clock=Clock(NOW))
    with running(emulator) as base_url:
        emulator.backend.prepare(["cus_acme", "cus_bluejay"], [])
        yield Account(emulator, base_url, client_of(base_url), "cus_acme", "", "")


def settings(of: Account, **more: Any) -> StripeSettings:
    return StripeSettings.model_validate({"api_key": "sk_test_1", "base_url": of.base_url, **more})


async def setup(
    account: Account,
    of: Catalog | None = None,
    *,
    subscribing: bool = True,
    applies: bool = True,
    connected: str | None = None,
) -> SetupPlan:
    now_ms = int(account.emulator.clock.now() * 1000)
    how = Subscribing() if subscribing else None
    return await set_up(
        settings(account, account=connected), of or catalog(), now_ms, how, applies=applies
    )


async def checked(account: Account, of: Catalog | None = None) -> tuple[list[str], list[str]]:
    """Return problems and facts."""
    facts: list[str] = []
    now_ms = int(account.emulator.clock.now() * 1000)
    return await check_prices(settings(account), of or catalog(), now_ms, facts.append), facts


def counts(account: Account) -> dict[str, int]:
    v1 = account.v1
    return {
        "meters": len(v1.billing.meters.list({"limit": 100}).data),
        "products": len(v1.products.list({"limit": 100}).data),
        "prices": len(v1.prices.list({"limit": 100}).data),
        "subscriptions": len(v1.subscriptions.list({"status": "all"}).data),
    }


ALL = {"meters": 1, "products": 2, "prices": 1, "subscriptions": 1}


# --- setup -----------------------------------------------------------------------------------------


async def test_a_plan_creates_nothing_and_names_each_object(account: Account) -> None:
    plan = await setup(account, applies=False)

    assert [step.kind for step in plan.steps] == [
        "meter",
        "product",
        "product",
        "price",
        "subscription",
    ]
    assert "0.99 usd for resolution" in plan.steps[3].says
    assert "acme (cus_acme), periods from day 1" in plan.steps[4].says
    assert plan.problems == []
    assert not any(counts(account).values())


async def test_a_setup_that_ran_has_nothing_more_to_do(account: Account) -> None:
    await setup(account)

    assert counts(account) == ALL
    assert (await setup(account)).steps == []
    assert counts(account) == ALL


async def test_usage_is_billed_at_the_catalogs_price_by_the_months_of_the_contract(
    account: Account,
) -> None:
    await setup(account)
    account.v1.billing.meter_events.create(
        {
            "event_name": "resmeter_resolution",
            "payload": {"stripe_customer_id": "cus_acme", "value": "3"},
            "timestamp": NOW + 60,
        }
    )

    account.emulator.backend.set_clock(NOVEMBER + 60)

    (invoice,) = account.invoices()
    assert (invoice.total, invoice.period_end) == (297, NOVEMBER)
    assert "resmeter_resolution" in str(invoice.lines.data[0].pricing)


async def test_customers_who_pay_the_same_share_a_price(account: Account) -> None:
    both = catalog({"acme": SIMPLE, "bluejay": SIMPLE})

    await setup(account, both)

    assert counts(account) == {**ALL, "subscriptions": 2}


async def test_a_new_price_of_the_catalog_is_one_more_price(account: Account) -> None:
    await setup(account, subscribing=False)

    plan = await setup(account, catalog({"acme": {"resolution": Decimal("0.895")}}))

    assert [step.kind for step in plan.steps] == ["price", "subscription"]
    (item,) = account.v1.subscriptions.list().data[0]["items"].data
    assert str(item.price.unit_amount_decimal) == "89.5"


PATHS = ("billing/meters", "products", "prices", "subscriptions")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["500_before", "500_after", "cut_before", "cut_after", "429"])
async def test_a_setup_that_fails_anywhere_continues_and_creates_nothing_twice(
    account: Account, path: str, kind: Any
) -> None:
    account.emulator.state.faults.append(Fault(kind, path=f"/v1/{path}"))
    with pytest.raises(UnavailableError, match="run the command again"):
        await setup(account)

    await setup(account)

    assert counts(account) == ALL
    assert (await setup(account)).steps == []


async def test_two_setups_at_the_same_time_create_everything_once(account: Account) -> None:
    await asyncio.gather(*(setup(account) for _ in range(3)))

    assert counts(account) == ALL


async def test_customers_can_be_sent_invoices(account: Account) -> None:
    await set_up(settings(account), catalog(), NOW * 1000, Subscribing(30), applies=True)

    (subscription,) = account.v1.subscriptions.list().data
    assert (subscription.collection_method, subscription.days_until_due) == ("send_invoice", 30)


async def test_every_call_names_the_connected_account_of_the_settings() -> None:
    emulator = Emulator(clock=Clock(NOW), accounts=["acct_1"])
    with running(emulator) as base_url:
        emulator.backend.states["acct_1"].prepare(["cus_acme"], [], NOW)
        theirs = client_of(base_url, account="acct_1")
        account = Account(emulator, base_url, theirs, "cus_acme", "", "")

        await setup(account, connected="acct_1")

        assert {each["account"] for each in emulator.state.requests} == {"acct_1"}
        assert counts(account) == ALL
        assert not any(counts(account._replace(client=client_of(base_url))).values())


async def test_a_key_without_access_to_the_account_is_named(account: Account) -> None:
    with pytest.raises(ConfigurationError, match="API_KEY or ACCOUNT"):
        await setup(account, connected="acct_2")


# --- what differs ----------------------------------------------------------------------------------


async def refused(account: Account, of: Catalog | None = None) -> str:
    """Return why a setup creates nothing."""
    before = counts(account)
    with pytest.raises(ConfigurationError) as caught:
        await setup(account, of)
    assert caught.value.problems[-1] == "nothing was created"
    assert counts(account) == before
    return " | ".join(caught.value.problems[:-1])


async def test_what_is_archived_or_unfit_must_change_first(account: Account) -> None:
    await setup(account)
    (price,) = account.v1.prices.list().data
    (meter,) = account.v1.billing.meters.list().data
    account.v1.prices.update(price.id, {"active": False})
    account.v1.products.update("resmeter_resolution", {"active": False})
    account.v1.billing.meters.deactivate(meter.id)

    problems = await refused(account)

    assert f"the price {price.id}" in problems
    assert "is archived: activate it" in problems
    assert "the product resmeter_resolution is archived" in problems
    assert "is inactive" in problems


async def test_a_price_under_our_key_that_costs_something_else_is_named(account: Account) -> None:
    await setup(account, subscribing=False)
    (price,) = account.v1.prices.list().data
    (meter,) = account.v1.billing.meters.list().data
    made = account._replace(meter=meter.id, product="resmeter_resolution")
    other = made.price(unit_amount=50, lookup_key=price.lookup_key, transfer_lookup_key=True)

    problems = await refused(account)

    assert (
        f"the price {other.id} ({price.lookup_key}) is 0.5 usd, and the catalog's is 0.99"
        in problems
    )


async def test_an_outcome_that_may_bill_and_has_no_price_is_named(account: Account) -> None:
    sold = catalog({"acme": SIMPLE}, outcomes_billed=("sale",))

    assert "bills sale and has no price for it" in await refused(account, sold)


async def test_two_tenants_of_one_customer_need_equal_prices(account: Account) -> None:
    prices = {"acme": SIMPLE, "bluejay": {"resolution": Decimal("1.00")}}
    one = {"acme": "cus_acme", "bluejay": "cus_acme"}

    problems = await refused(account, catalog(prices, one))

    assert "account bluejay: its customer cus_acme is that of acme too" in problems
    assert "resolution 0.99 usd; resolution 1 usd" in problems
    await setup(account, catalog({"acme": SIMPLE, "bluejay": SIMPLE}, one))
    assert counts(account) == ALL


@pytest.mark.parametrize(
    ("currency", "price", "amount"),
    [("jpy", "99", "99"), ("isk", "99", "9900"), ("kwd", "0.25", "250"), ("eur", "0.995", "99.5")],
)
async def test_prices_are_in_stripes_minor_units(
    account: Account, currency: str, price: str, amount: str
) -> None:
    of = catalog({"acme": {"resolution": Decimal(price)}}, currency=currency)

    await setup(account, of)

    (found,) = account.v1.prices.list().data
    assert (found.currency, str(found.unit_amount_decimal)) == (currency, amount)
    assert (await checked(account, of))[0] == []


# --- accounts and contracts ------------------------------------------------------------------------

TIERED = """
name = "acme-2026"
version = 1
effective_from = 2026-01-01T00:00:00Z
currency = "usd"
[period]
anchor = 2026-01-15T09:00:00Z
[price]
procedure_handoff = "2.00"
qualification = "9.99"
disqualification = "0.99"
[tiers]
resolution = [{ up_to = 2, price = "1.00" }, { price = "0.50" }]
"""
ONE_TENANT = """
contract_files = ["contract.toml"]
[accounts.acme]
stripe_customer = "cus_acme"
contract = "acme-2026"
[tenants.acme-eu]
account = "acme"
"""
TWO_TENANTS = ONE_TENANT + '[tenants.acme-us]\naccount = "acme"\n'


def contracted(tenants: str = ONE_TENANT, contract: str = TIERED) -> Catalog:
    """Return the catalog of a tenant file with a contract."""
    with TemporaryDirectory() as folder:
        Path(folder, "contract.toml").write_text(contract)
        file = Path(folder, "resmeter.toml")
        file.write_text(tenants)
        return load_tenants(file).catalog


async def test_an_account_is_billed_in_the_tiers_and_periods_of_its_contract(
    account: Account,
) -> None:
    await setup(account, contracted())
    account.v1.billing.meter_events.create(
        {
            "event_name": "resmeter_resolution",
            "payload": {"stripe_customer_id": "cus_acme", "value": "5"},
            "timestamp": NOW + 60,
        }
    )

    account.emulator.backend.set_clock(at("2026-11-15T09:01"))

    (invoice,) = account.invoices()
    assert (invoice.total, invoice.period_end) == (2 * 100 + 3 * 50, at("2026-11-15T09:00"))
    assert await checked(account, contracted()) == (
        [],
        ["customers whose subscriptions were compared: 1"],
    )
    assert (await setup(account, contracted())).steps == []


async def test_the_check_names_another_anchor_and_other_tiers_than_the_contracts(
    account: Account,
) -> None:
    await setup(account, contracted())
    other = TIERED.replace("up_to = 2", "up_to = 3").replace("-15T09", "-01T00")

    problems, _ = await checked(account, contracted(contract=other))

    assert len(problems) == 2
    assert "is 1 up to 2, then 0.5 usd, and the catalog's is 1 up to 3, then 0.5" in problems[0]
    assert "on day 15 at 09:00:00 UTC, and the contract's begin on day 1 at 00:00:00" in problems[1]


async def test_the_tenants_of_an_account_have_one_subscription(account: Account) -> None:
    flat = TIERED.replace('{ up_to = 2, price = "1.00" }, ', "")

    await setup(account, contracted(TWO_TENANTS, flat))

    (subscription,) = account.v1.subscriptions.list().data
    assert len(subscription["items"].data) == 4
    assert subscription.metadata.to_dict() == {"resmeter": "acme"}


async def test_tiers_of_an_account_with_several_tenants_are_named(account: Account) -> None:
    problems = await refused(account, contracted(TWO_TENANTS))

    assert "account acme: its contract has tiers, and 2 tenants" in problems


LATER = ONE_TENANT.replace(
    'contract = "acme-2026"', 'contract = [{ name = "acme-2026", from = 2026-12-15T09:00:00Z }]'
)
POLICY_KEY = "resmeter/resmeter_resolution/usd/0.99"
TIERED_KEY = "resmeter/resmeter_resolution/usd/2:1,inf:0.5"


def keys(account: Account) -> set[str]:
    return {str(each.lookup_key) for each in account.v1.prices.list().data}


async def test_an_account_that_policies_price_keeps_their_price_until_its_contract_begins(
    account: Account,
) -> None:
    of = contracted(LATER)

    plan = await setup(account, of)

    assert POLICY_KEY in keys(account)
    assert TIERED_KEY not in keys(account)
    (later,) = plan.later
    assert later.startswith("account acme (cus_acme): from 2026-12-15T09:00:00Z on, ")
    assert "resolution 1 up to 2, then 0.5 usd" in later
    assert "in periods from day 15 at 09:00:00 UTC" in later
    problems, facts = await checked(account, of)
    assert problems == []
    assert facts == ["customers whose subscriptions were compared: 1", f"later: {later}"]


async def test_a_contract_that_began_within_stripes_period_counts_at_once(account: Account) -> None:
    of = contracted(LATER)
    await setup(account, of)
    account.emulator.backend.set_clock(at("2026-12-15T09:01"))

    problems, facts = await checked(account, of)

    assert any("is 0.99 usd, and the catalog's is 1 up to 2, then 0.5" in p for p in problems)
    assert facts == ["customers whose subscriptions were compared: 1"]


async def test_a_contract_that_begins_before_any_tenant_prices_the_subscription(
    account: Account,
) -> None:
    dated = 'account = [{ name = "acme", from = 2026-12-15T09:00:00Z }]'
    of = contracted(LATER.replace('account = "acme"', dated))

    plan = await setup(account, of)

    assert TIERED_KEY in keys(account)
    assert plan.later == []
    assert (await checked(account, of))[0] == []


async def test_an_account_that_loses_its_contract_keeps_the_day_on_which_its_periods_begin(
    account: Account,
) -> None:
    lost = 'contract = [{ name = "acme-2026", from = 2026-01-15T09:00:00Z, to = 2026-11-15T09:00:00Z }]'
    of = contracted(ONE_TENANT.replace('contract = "acme-2026"', lost))
    before = await setup(account, of, applies=False)
    account.emulator.backend.set_clock(at("2026-11-15T09:01"))

    after = await setup(account, of)

    assert before.later[0].startswith("account acme (cus_acme): from 2026-11-15T09:00:00Z on, ")
    assert "resolution 0.99 usd, in periods from day 15" in before.later[0]
    assert "periods from day 15" in after.steps[-1].says
    assert POLICY_KEY in keys(account)
    assert TIERED_KEY not in keys(account)


async def test_tenants_of_an_account_whose_policies_differ_need_a_price_in_the_contract(
    account: Account,
) -> None:
    cheap = 'base = "fin-2026"\nname = "cheap"\nversion = 1\n[price]\nresolution = "0.50"\n'
    cheap = cheap.replace("[price]", "effective_from = 2020-01-01T00:00:00Z\n[price]")
    with TemporaryDirectory() as folder:
        Path(folder, "cheap.toml").write_text(cheap)
        file = Path(folder, "resmeter.toml")
        file.write_text(
            'policy_files = ["cheap.toml"]\n[accounts.acme]\nstripe_customer = "cus_acme"\n'
            '[tenants.a]\naccount = "acme"\n[tenants.b]\naccount = "acme"\npolicy = "cheap"\n'
        )
        of = load_tenants(file).catalog

    problems = await refused(account, of)

    assert "account acme: resolution costs 0.99 and, of b, 0.5" in problems
    assert "write price.resolution in the account's contract" in problems


# --- the check -------------------------------------------------------------------------------------

TIERS = [{"up_to": 10, "unit_amount": 99}, {"up_to": "inf", "unit_amount": 50}]
SAME = [{"up_to": 10, "unit_amount": 99}, {"up_to": "inf", "unit_amount": 99}]
FREE = [{"up_to": "inf", "unit_amount": 99, "flat_amount": 500}]
YEARLY = {"interval": "year", "usage_type": "metered"}
FIRST = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}


async def by_hand(account: Account, anchor: dict[str, int] | None = None, **price: Any) -> None:
    """Subscribe the customer to another price than the catalog's."""
    await setup(account, subscribing=False)
    (meter,) = account.v1.billing.meters.list().data
    made = account._replace(meter=meter.id, product="resmeter_resolution")
    if "recurring" in price:
        price["recurring"] = {**price["recurring"], "meter": meter.id}
    made.subscribe(made.price(**price).id, billing_cycle_anchor_config=anchor or FIRST)


@pytest.mark.parametrize(
    ("price", "says"),
    [
        ({"unit_amount": 89}, "is 0.89 usd, and the catalog's is 0.99"),
        ({"currency": "eur"}, "is in eur, and the catalog's in usd"),
        ({"tiers": TIERS}, "is 0.99 up to 10, then 0.5 usd, and the catalog's is 0.99"),
        ({"tiers": SAME, "tiers_mode": "volume"}, "has the tiers_mode 'volume'"),
        ({"tiers": FREE}, "has a flat amount in its tiers"),
        ({"recurring": YEARLY}, "bills every 1 year, and periods are months"),
    ],
)
async def test_the_check_names_how_a_price_differs(
    account: Account, price: dict[str, Any], says: str
) -> None:
    await by_hand(account, **price)

    (problem,), facts = await checked(account)

    assert problem.startswith("account acme (cus_acme), resolution: the price price_")
    assert says in problem
    plan = await setup(account, applies=False)
    assert (plan.steps, plan.problems) == ([], [problem])
    assert facts == ["customers whose subscriptions were compared: 1"]


async def test_tiers_that_cost_the_same_are_one_price(account: Account) -> None:
    await by_hand(account, tiers=SAME)

    assert (await checked(account))[0] == []


async def test_the_check_names_periods_that_begin_on_another_day(account: Account) -> None:
    await by_hand(account, {**FIRST, "day_of_month": 12, "hour": 9})

    (problem,), _ = await checked(account)

    assert (
        "begins its periods on day 12 at 09:00:00 UTC, and the contract's begin on day 1" in problem
    )


async def test_the_check_names_a_unit_that_is_billed_twice_or_not_at_all(account: Account) -> None:
    two = {"acme": {**SIMPLE, "procedure_handoff": Decimal("1.00")}}
    await by_hand(account)
    (price,) = account.v1.prices.list(
        {"lookup_keys": ["resmeter/resmeter_resolution/usd/0.99"]}
    ).data
    account.subscribe(price.id, billing_cycle_anchor_config=FIRST)

    problems, _ = await checked(account, catalog(two))

    assert len(problems) == 2
    assert "no subscription has a price of the meter 'resmeter_procedure_handoff'" in problems[0]
    assert "resolution: billed 2 times" in problems[1]


async def test_the_check_says_who_has_no_subscription_and_compares_the_others(
    account: Account,
) -> None:
    await setup(account)
    both = catalog({"acme": SIMPLE, "bluejay": SIMPLE, "ghost": SIMPLE})

    problems, facts = await checked(account, both)

    assert problems == []
    assert facts == [
        "customers whose subscriptions were compared: 1",
        "customers without a subscription, whom Stripe bills nothing: cus_bluejay, cus_ghost",
    ]


async def test_a_key_that_may_not_read_subscriptions_compares_nothing(account: Account) -> None:
    account.emulator.state.faults.append(Fault("403", method="GET", path="/v1/subscriptions"))

    problems, facts = await checked(account)

    assert problems == []
    assert "no permission to read subscriptions" in facts[0]


async def test_what_stripe_throttles_is_read_again_after_a_pause(account: Account) -> None:
    await setup(account)
    account.emulator.state.faults.append(
        Fault("429", method="GET", path="/v1/subscriptions", times=3)
    )
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    client = StripeClient(settings(account), timeout_seconds=5)
    subscribed = await read_subscribed(client, ["cus_acme", "cus_none"], pause)
    await client.close()

    assert len(subscribed.of_customer["cus_acme"]) == 1
    assert subscribed.of_customer["cus_none"] == []
    assert sorted(pauses)[:1] == [0.5]
    assert len(pauses) == 3


# --- the command -----------------------------------------------------------------------------------


def test_the_command_plans_creates_and_then_finds_nothing(
    account: Account, tmp_path: Path, resmeter_env: dict[str, str]
) -> None:
    tenants = tmp_path / "resmeter.toml"
    tenants.write_text('[tenants.acme]\nstripe_customer = "cus_acme"\n')
    env = {
        **resmeter_env,
        "RESMETER_CATALOG_EXPORT": export_catalog(tmp_path / "catalog.ndjson", tenants),
        "RESMETER_STRIPE__API_KEY": "sk_test_1",
        "RESMETER_STRIPE__BASE_URL": account.base_url,
    }

    planned = resmeter("stripe", "setup", "--subscriptions", env=env)
    created = resmeter("stripe", "setup", "--subscriptions", "--apply", env=env)
    again = resmeter("stripe", "setup", "--subscriptions", env=env)

    assert planned.returncode == 3
    assert b"create meter resmeter_resolution, which sums resolution" in planned.stdout
    assert b"nothing was created: add --apply" in planned.stderr
    assert created.returncode == 0
    assert b"created subscription acme (cus_acme), periods from day 1" in created.stdout
    assert (again.returncode, again.stdout) == (
        0,
        b"Stripe has all that the catalog's prices need\n",
    )


def test_days_until_due_need_subscriptions(resmeter_env: dict[str, str]) -> None:
    result = resmeter("stripe", "setup", "--days-until-due", "30", env=resmeter_env)

    assert result.returncode == 2
    assert b"needs --subscriptions" in result.stderr


async def invoicing(account: Account) -> tuple[list[str], list[str]]:
    """Return problems and facts of the check of invoices."""
    facts: list[str] = []
    problems = await check_invoicing(settings(account), ["cus_acme"], facts.append)
    return problems, facts


async def test_the_check_of_invoices_changes_nothing_and_needs_a_subscription(
    account: Account,
) -> None:
    before = await invoicing(account)
    await setup(account)
    made = len(account.v1.invoices.list().data)

    problems, facts = await invoicing(account)

    assert before == ([], ["no customer has a subscription: invoices were not checked"])
    assert (problems, facts) == ([], ["invoices can be read and completed"])
    assert len(account.v1.invoices.list().data) == made


@pytest.mark.parametrize(
    ("path", "method", "lacks"),
    [
        ("/v1/invoices", "GET", "lacks the right to read invoices"),
        ("/v1/invoiceitems", "GET", "lacks the right to read invoices"),
        ("/v1/invoices/*", "POST", "grace of drafts to 6 hours or more"),
    ],
)
async def test_rights_on_invoices_that_the_key_lacks_are_named(
    account: Account, path: str, method: Any, lacks: str
) -> None:
    await setup(account)
    account.emulator.state.faults.append(Fault("403", path=path, method=method))

    (problem,), _ = await invoicing(account)

    assert lacks in problem


async def test_a_missing_product_for_what_is_carried_is_named(account: Account) -> None:
    await setup(account)
    account.emulator.state.faults.append(
        Fault(
            "foreign_before",
            path="/v1/products/resmeter_carried",
            method="GET",
            headers={"Request-Id": "req_1", "Content-Type": "application/json"},
            body='{"error": {"type": "invalid_request_error", "code": "resource_missing"}}',
        )
    )

    (problem,), _ = await invoicing(account)

    assert "no product resmeter_carried" in problem
