"""Read accounts from the tenant file: who pays for which tenants, by which contract. Pure.

docs/reference/money.md §1.1 says what an account is. A tenant that names no account is an account of
its own, with the tenant's id.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from pipeline.billing.periods import HOUR_MS
from pipeline.catalog.entry import Dated
from pipeline.catalog.toml_values import parse_instant, unknown_key
from pipeline.events.model import TENANT_ID

_ACCOUNT_KEYS = ("contract", "stripe_customer")
_Check = Callable[[str, object], list[str]]  # where, and a name: its problems


class AccountTables(NamedTuple):
    """What a file says of accounts. The first of each list has no date; no name: no contract."""

    accounts: dict[str, tuple[Dated, ...]]  # the contracts of each account
    members: dict[str, tuple[Dated, ...]]  # the accounts of each tenant
    customers: dict[str, str]  # of accounts; the tenants' own are not here


def read_accounts(
    where: str, accounts: Any, tenants: Any, contracts: Collection[str], customer: _Check
) -> tuple[AccountTables, list[str]]:
    """Return what the tables say, and the problems.

    Args:
        where: the file, as errors show it.
        accounts: the table `[accounts]`.
        tenants: the table `[tenants]`, whose entries may name an account.
        contracts: the names of all contracts.
        customer: returns the problems of a Stripe customer.
    """
    found = AccountTables({}, {}, {})
    problems: list[str] = []
    if not isinstance(accounts, dict):
        return found, [f"{where}: accounts: must be a table: write [accounts.NAME]"]

    def is_contract(here: str, name: object) -> list[str]:
        if isinstance(name, str) and name in contracts:
            return []
        if not contracts:
            return [
                f"{here}: is {name!r}, and there are no contracts: name their files in contract_files"
            ]
        return [f"{here}: is {name!r}; it must be one of {', '.join(sorted(set(contracts)))}"]

    for account, table in accounts.items():
        here = f"{where}: accounts.{account}"
        problems += _problems_of_id(here, account)
        if not isinstance(table, dict):
            problems.append(f"{here}: must be a table: write [accounts.{account}]")
            continue
        problems += [
            f"{here}.{key}: {unknown_key(key, _ACCOUNT_KEYS)}"
            for key in table.keys() - set(_ACCOUNT_KEYS)
        ]
        if "stripe_customer" in table:
            problems += customer(f"{here}.stripe_customer", table["stripe_customer"])
            found.customers[account] = table["stripe_customer"]
        if "contract" in table:
            given, more = _read_dated(f"{here}.contract", table["contract"], is_contract)
            found.accounts[account] = given
            problems += more
    for tenant_id, table in tenants.items() if isinstance(tenants, dict) else ():
        if isinstance(table, dict) and "account" in table:
            here = f"{where}: tenants.{tenant_id}.account"
            given, more = _read_dated(here, table["account"], _problems_of_id, can_end=False)
            # Before the first date it is an account of its own.
            found.members[tenant_id] = tuple(
                dated if dated.name else Dated(tenant_id, dated.from_ms) for dated in given
            )
            problems += more
    return found, problems + _problems_of_customers(where, found, tenants)


def _problems_of_id(where: str, account: object) -> list[str]:
    if isinstance(account, str) and TENANT_ID.fullmatch(account):
        return []
    return [f"{where}: an account's name must be 1 to 128 characters of A-Z a-z 0-9 . _ -"]


def _read_dated(
    where: str, given: object, check: _Check, *, can_end: bool = True
) -> tuple[tuple[Dated, ...], list[str]]:
    """Return a name, or names with dates, as a list whose first has no date; and the problems."""
    if not isinstance(given, list):
        problems = check(where, given)
        return ((Dated(given),) if isinstance(given, str) else ()), problems
    problems = [] if given else [f"{where}: is empty; write a name, or a list of names with dates"]
    keys = {"name", "from", "to"} if can_end else {"name", "from"}
    dated: list[Dated] = []
    last_ms: int | None = None
    for number, entry in enumerate(given, 1):
        here = f"{where}: entry {number}"
        if not isinstance(entry, dict) or not {"name"} <= entry.keys() <= keys:
            problems.append(f'{here} must be {{ name = "NAME", from = 2026-12-01T00:00:00Z }}')
            continue
        problems += check(f"{here}: name", entry["name"])
        times, more = _times(here, entry, last_ms, needs_from=number > 1)
        problems += more
        from_ms, to_ms = times.get("from"), times.get("to")
        if dated and dated[-1] == Dated("", from_ms):
            dated.pop()  # the one before ends when this one begins
        dated.append(Dated(str(entry["name"]), from_ms))
        if to_ms is not None:
            dated.append(Dated("", to_ms))
        last_ms = max((ms for ms in (last_ms, from_ms, to_ms) if ms is not None), default=None)
    if dated and dated[0].from_ms is not None:
        dated.insert(0, Dated())
    return tuple(dated), problems


def _times(
    here: str, entry: Mapping[str, Any], last_ms: int | None, *, needs_from: bool
) -> tuple[dict[str, int], list[str]]:
    times: dict[str, int] = {}
    problems: list[str] = []
    for key in ("from", "to"):
        if key not in entry and not (key == "from" and needs_from):
            continue
        try:
            ms = parse_instant(entry.get(key))
        except ValueError as error:
            problems.append(f"{here}: {key}: {error}")
            continue
        earliest_ms = times.get("from", last_ms)
        if ms % HOUR_MS:
            problems.append(f"{here}: {key}: must be on the whole hour: Stripe's usage is by hour")
        # A name may begin when the one before ends; nothing else happens twice at a time.
        elif earliest_ms is not None and (ms < earliest_ms or (key == "to" and ms == earliest_ms)):
            problems.append(f"{here}: {key}: must be later than the date before it")
        times[key] = ms
    return times, problems


def _problems_of_customers(where: str, found: AccountTables, tenants: Any) -> list[str]:
    problems: list[str] = []
    if not isinstance(tenants, dict):
        return []
    for tenant_id, table in tenants.items():
        own = table.get("stripe_customer") if isinstance(table, dict) else None
        if own is None:
            continue
        if found.customers.get(tenant_id, own) != own:
            problems.append(
                f"{where}: accounts.{tenant_id}.stripe_customer: is {found.customers[tenant_id]!r}, and "
                f"tenants.{tenant_id} has {own!r}: an account has one customer; write it once"
            )
        accounts = {dated.name for dated in found.members.get(tenant_id, ())}
        used = {dated.name for of in found.members.values() for dated in of} | found.accounts.keys()
        if accounts and tenant_id not in used:
            problems.append(
                f"{where}: tenants.{tenant_id}.stripe_customer: would never be billed, because the "
                f"tenant is in account {min(accounts)}: write it at [accounts.{min(accounts)}]"
            )
    return problems
