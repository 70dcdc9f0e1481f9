"""The statements from files and those of the second implementation are equal, whatever the account."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.billing.contract import Contract
from pipeline.billing.periods import Period
from pipeline.billing.reading import (
    entered_grants,
    entered_records,
    read_grant_lines,
    read_record_lines,
)
from pipeline.billing.run import (
    ClosesAfter,
    Stated,
    problems_of_credit_notes,
    problems_of_voids,
    statements,
)
from pipeline.billing.statement import Adjustment, statement_object, unit_object
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.contracts import read_contract, read_contracts
from pipeline.catalog.tenants import load_tenants
from pipeline.catalog.value import NEVER, Catalog, DatedAssignment, DatedContract
from pipeline.replay.statement_files import StatementFiles, state_files
from tests.oracle.accounts import DAY, HOUR, T0, Account, accounts, text

PRICES = load_tenants(None)


def stated(account: Account, period: str) -> Stated:
    files = StatementFiles(
        records=lines("usage.ndjson", account.records),
        contract={f"v{n}.toml": toml(version) for n, version in enumerate(account.versions, 1)},
        grants=lines("grants.ndjson", account.grants),
        account="acme",
    )
    return state_files(files, period, account.as_of, account.close_after, PRICES)


def lines(name: str, objects: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    return ((f"{name}: line {n}", json.dumps(each).encode()) for n, each in enumerate(objects, 1))


def toml(table: Mapping[str, Any]) -> str:
    """Return a contract as TOML; its values are tables, texts, numbers, and lists of tables."""
    return "\n".join(f"{key} = {_toml(value)}" for key, value in table.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@given(accounts())
def test_statements_are_those_of_the_second_implementation(account: Account) -> None:
    periods = [p.name for p in account.periods_until(account.as_of) if p.start >= T0 - 1]
    expected = {s["period"]: s for s in account.statements(periods[-1], account.as_of)}

    for period in periods:
        made = stated(account, period)
        units = expected[period].pop("each")

        assert statement_object("acme", made.statement) == expected[period]
        own = [unit_object(unit) for unit in made.units if unit.period == period]
        assert [
            {"record": u["id"]} | {k: u[k] for k in ("state", "grant", "price")} for u in own
        ] == units


class ClosesAndWaives(ClosesAfter):
    """Closes periods as `resmeter statement` does for files, and waives what people rejected."""

    def __init__(self, contract: Contract, account: Account) -> None:
        super().__init__(contract.calendar, account.close_after)
        self._rejected = account.rejected

    def waives(self, period: Period, adjustment: Adjustment) -> bool:
        return (period.name, adjustment.period.name) in self._rejected


@given(accounts(rejects=True))
def test_statements_with_rejected_adjustments_are_those_of_the_second_implementation(
    account: Account,
) -> None:
    contract = read_contract(
        {f"v{n}.toml": toml(version) for n, version in enumerate(account.versions, 1)},
        {"usd"},
        "acme",
    )
    records, _ = read_record_lines(lines("usage.ndjson", account.records))
    entered, _ = entered_records(records, PRICES.price_for, contract.currency)
    grant_lines, _ = read_grant_lines(lines("grants.ndjson", account.grants))
    grants, problems = entered_grants(grant_lines, "acme", contract.currency)
    closes = ClosesAndWaives(contract, account)
    through = contract.calendar.period_at(account.as_of)

    made = list(statements(contract, entered, grants, closes, through, account.as_of))

    assert not problems + problems_of_voids(contract, entered, grants, closes)
    assert not problems_of_credit_notes(contract, entered, grants, closes)
    expected = {s["period"]: s for s in account.statements(through.name, account.as_of)}
    for statement in made:
        del expected[statement.period.name]["each"]
        assert statement_object("acme", statement) == expected[statement.period.name]


@given(accounts(), st.integers(0, 60), st.sampled_from([None, 0, 1, 10, 31, 75]))
def test_a_contract_that_an_account_gets_and_loses_is_stated_alike(
    account: Account, from_day: int, days: int | None
) -> None:
    from_ms = T0 + from_day * DAY
    to_ms = NEVER if days is None else from_ms + max(days * DAY, HOUR)
    versions = [{"effective_from": text(T0 - 400 * DAY), **v} for v in account.versions]
    versions[0]["effective_from"] = text(T0 - 400 * DAY)
    account = account._replace(versions=versions, grants=[])
    contract = contract_of(catalog_with(account, from_ms, to_ms), "acme")
    assert contract is not None
    periods = periods_until(contract, account.as_of)
    # Also of the next one: a period whose name another one has cannot be asked for.
    names = [period.name for period in periods_until(contract, account.as_of + DAY)]
    assume(len({*names}) == len(names))

    expected = account.statements(periods[-1].name, account.as_of, (from_ms, to_ms))[
        -len(periods) :
    ]

    records, _ = read_record_lines(lines("usage.ndjson", account.records))
    entered, problems = entered_records(records, PRICES.price_for, contract.currency)
    assert not problems
    closes = ClosesAfter(contract.calendar, account.close_after)
    made = statements(contract, entered, [], closes, periods[-1], account.as_of, since=periods[0])
    objects = {each.period.name: statement_object("acme", each) for each in made}
    for statement in expected:
        del statement["each"]
        assert objects[statement["period"]] == statement


def catalog_with(account: Account, from_ms: int, to_ms: int) -> Catalog:
    """Return a catalog in which the account has its contract from a time to a time."""
    texts = {f"v{n}.toml": toml({"name": "c", **v}) for n, v in enumerate(account.versions, 1)}
    versions = read_contracts(texts, lambda name: {"usd"})["c"]
    spans = [DatedAssignment("c", from_ms, 1)]
    if to_ms < NEVER:
        spans.append(DatedAssignment("", to_ms, 1))
    return Catalog(
        contracts={("c", v.version): DatedContract(v, 1) for v in versions},
        accounts={"acme": tuple(spans)},
    )


def periods_until(contract: Contract, time: int) -> list[Period]:
    periods = [contract.calendar.period_at(T0 - DAY)]
    while (period := contract.calendar.after(periods[-1])).start_ms <= time:
        periods.append(period)
    return periods
