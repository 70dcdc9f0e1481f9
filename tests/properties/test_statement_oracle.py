"""The statements from files and those of the second implementation are equal, whatever the account."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given

from pipeline.billing.run import Stated
from pipeline.billing.statement import statement_object, unit_object
from pipeline.catalog.tenants import load_tenants
from pipeline.replay.statement_files import StatementFiles, state_files
from tests.oracle.accounts import T0, Account, accounts

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
