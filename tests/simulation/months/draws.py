"""Draw accounts with their contracts, and the usage records of a few months."""

import random
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from pipeline.billing.contract import Contract
from pipeline.billing.periods import DAY_MS, HOUR_MS, Period
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.contracts import read_contract, read_contracts
from pipeline.catalog.entry import Additions, Assigned, Dated, TenantTerms, entries_of
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.events.times import format_time, parse_time
from pipeline.usage.record import UsageRecord
from tests.support.tenants import taken

START = parse_time("2026-09-20T12:00:00Z")
POLICY = preset("fin-2026")
OUTCOMES = ("resolution", "procedure_handoff")
MINUTE = 60_000
# The start of the period in which a run begins: contracts hold from there, and are counted from it.
_ANCHORS = ["2026-09-01T00:00:00Z", "2026-09-01T00:00:00Z", "2026-08-25T06:00:00Z"]
_PRICES = ["0.99", "0.99", "0.10", "0.005", "1.50"]
# From a unit to when it is stored. Some are stored when their period is closed.
_SOON = [0, MINUTE, MINUTE, 20 * MINUTE, 40 * MINUTE, 45 * MINUTE]
_DELAYS = [*_SOON, HOUR_MS, 26 * HOUR_MS, 3 * DAY_MS, 33 * DAY_MS]
# From a charge to its reversal: every rung of the ladder.
_LATER = [MINUTE, HOUR_MS, HOUR_MS, 5 * HOUR_MS, 25 * HOUR_MS, 8 * DAY_MS, 31 * DAY_MS, 40 * DAY_MS]
_NEAR_AN_END = [-MINUTE, -1, 0, 1, MINUTE, -3 * HOUR_MS, HOUR_MS, -26 * HOUR_MS]


class Arrival(NamedTuple):
    """A usage record, and when it comes into its topic, ms."""

    at: int
    record: UsageRecord


class Billed(NamedTuple):
    """An account; `terms` is its contract as TOML gives it."""

    name: str
    tenant_ids: tuple[str, ...]
    customer: str
    terms: dict[str, Any]
    contract: Contract


class Months(NamedTuple):
    """What happens in a run, up to a time."""

    tenants: Tenants
    accounts: tuple[Billed, ...]
    arrivals: list[Arrival]
    end: int

    def ended(self, account: Billed) -> list[Period]:
        """Return the periods of an account that end within the run."""
        calendar = account.contract.calendar
        periods = [calendar.period_at(START)]
        while periods[-1].end_ms <= self.end:
            periods.append(calendar.after(periods[-1]))
        return periods[:-1]


def draw_months(seed: int, *, is_small: bool = False) -> Months:
    """Return the accounts and the records of a seed; a small run has one account and one period."""
    draw = random.Random(f"months {seed}")
    texts = {"acme": _contract(draw, tenants=2), "bluejay": _contract(draw, tenants=1), "solo": ""}
    if is_small:
        texts = {"bluejay": texts["bluejay"]}
    members = {"acme": ("acme-eu", "acme-us"), "bluejay": ("bluejay",), "solo": ("solo",)}
    tenants = _tenants(texts, members)
    end = START + (20 if is_small else draw.choice([20, 50, 50, 80])) * DAY_MS
    accounts = tuple(
        Billed(
            name,
            members[name],
            f"cus_{name}",
            tomllib.loads(text),
            contract_of(tenants.catalog, name) or read_contract({}, {"usd"}),
        )
        for name, text in texts.items()
    )
    arrivals = [
        arrival
        for account in accounts
        for number in range(draw.randint(1, 8))
        for arrival in _unit(draw, account, number, end)
    ]
    return Months(tenants, accounts, sorted(arrivals, key=lambda each: each.at), end)


def _tenants(texts: dict[str, str], members: dict[str, tuple[str, ...]]) -> Tenants:
    contracts = read_contracts(
        {name: text for name, text in texts.items() if text}, lambda _: {"usd"}
    )
    additions = Additions(
        policies=[POLICY],
        default=[Assigned(POLICY.name)],
        tenants={name: TenantTerms((), f"cus_{name}") for name in texts},
        contracts=[version for versions in contracts.values() for version in versions],
        accounts={name: (Dated(name),) for name in contracts},
        members={
            tenant_id: (Dated(name),)
            for name, tenant_ids in members.items()
            for tenant_id in tenant_ids
            if tenant_id != name
        },
    )
    catalog, _ = taken(Catalog(), entries_of(additions, "", "ada", "start", LEAD_MS_MIN), 0)
    return Tenants(catalog)


def _contract(draw: random.Random, tenants: int) -> str:
    """Draw the TOML of a contract: a price or tiers, and perhaps included units, a cap, a minimum."""
    name = "bluejay" if tenants == 1 else "acme"
    anchor = draw.choice(_ANCHORS)
    lines = [
        f'name = "{name}"',
        "version = 1",
        f"effective_from = {anchor}",
        'currency = "usd"',
    ]
    extras: list[str] = []
    if draw.random() < 0.5:
        extras.append("[included]\nresolution = " + str(draw.randint(1, 3)))
    if draw.random() < 0.3:
        action = draw.choice(["stop", "alert"])
        extras.append(f'[cap]\nunits = {draw.randint(2, 5)}\naction = "{action}"')
    if draw.random() < 0.3:
        extras.append(f'[minimum]\namount = "{draw.choice(["2.00", "5.00"])}"')
    if tenants == 1 and draw.random() < 0.4:
        extras.append(
            '[tiers]\nresolution = [{ up_to = 2, price = "1.00" }, { price = "0.50" }]\n'
            '[price]\nprocedure_handoff = "0.99"'
        )
    else:
        prices = [f'{outcome} = "{draw.choice(_PRICES)}"' for outcome in OUTCOMES]
        extras.append("\n".join(["[price]", *prices]))
    extras.append(f"[period]\nanchor = {anchor}")
    return "\n".join([*lines, *extras])


def _unit(draw: random.Random, account: Billed, number: int, end: int) -> Iterator[Arrival]:
    """Draw a charge, and perhaps its reversal, stored before the end."""
    tenant_id = draw.choice(account.tenant_ids)
    at = _time(draw, account, end)
    first = UsageRecord(
        id=f"{tenant_id}:c{number}:1",
        tenant_id=tenant_id,
        conversation=f"c{number}",
        outcome=draw.choice([OUTCOMES[0], OUTCOMES[0], OUTCOMES[0], OUTCOMES[1]]),
        quantity=1,
        kind="assumed",
        reason="silence",
        occurred_at=at,
        policy=POLICY.name,
        policy_version=POLICY.version,
        evidence=(f"m{number}",),
    )
    stored = max(at, START) + draw.choice(_DELAYS)
    if stored >= end:
        return
    if draw.random() > 0.04:  # otherwise a reversal without its charge
        yield Arrival(stored, first)
    if draw.random() < 0.45:
        taken_back = at + draw.choice(_LATER)
        arrives = max(taken_back, stored)
        if arrives < end:
            yield Arrival(arrives, _reversal(first, taken_back))


def draw_grant(draw: random.Random, name: str, account: str, now: int) -> bytes:
    """Draw a pack or a credit that is made now: the line of a file of grants."""
    grant: dict[str, Any] = {
        "id": name,
        "account": account,
        "starts_at": format_time(now - draw.choice([0, 0, 20 * DAY_MS])),
        "ends_at": format_time(now + draw.choice([10, 100, 400]) * DAY_MS),
        "created_at": format_time(now),
    }
    if draw.random() < 0.5:
        outcomes = draw.choice([[OUTCOMES[0]], list(OUTCOMES)])
        pack = {"kind": "pack", "outcomes": outcomes, "units": draw.randint(1, 3), "price": "1.00"}
        return orjson.dumps({**pack, **grant})
    amount = draw.choice(["0.50", "2.00", "100.00"])
    return orjson.dumps({"kind": "credit", "amount": amount, "source": "goodwill", **grant})


def _time(draw: random.Random, account: Billed, end: int) -> int:
    """Draw when something happens: often about the end of a period."""
    if draw.random() < 0.5:
        return draw.randrange(START, end)
    period = account.contract.calendar.period_at(draw.randrange(START, end))
    boundary = draw.choice([period.start_ms, period.end_ms])
    return min(max(boundary + draw.choice(_NEAR_AN_END), START), end - 1)


def _reversal(charge: UsageRecord, at: int) -> UsageRecord:
    return UsageRecord(
        id=f"{charge.tenant_id}:{charge.conversation}:2",
        tenant_id=charge.tenant_id,
        conversation=charge.conversation,
        outcome=charge.outcome,
        quantity=-1,
        kind=charge.kind,
        reason="reversed",
        occurred_at=at,
        policy=charge.policy,
        policy_version=charge.policy_version,
        evidence=(*charge.evidence, "m-back"),
        supersedes=charge.id,
    )
