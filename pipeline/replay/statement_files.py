"""State a period of an account from files, without a ledger (docs/reference/money.md §5)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.billing.contract import Contract
from pipeline.billing.reading import (
    GrantLine,
    RecordLine,
    entered_grants,
    entered_records,
    read_grant_lines,
    read_record_lines,
)
from pipeline.billing.run import (
    ClosesAfter,
    Stated,
    missing_prices,
    problems_of_credit_notes,
    problems_of_voids,
    statements,
    take,
)
from pipeline.catalog.contracts import read_contract
from pipeline.catalog.tenants import Tenants
from pipeline.errors import ConfigurationError
from pipeline.events.hints import misspelt
from pipeline.metrics import OUTCOMES

Lines = Iterable[tuple[str, bytes]]  # each with a label that errors show: its file and number
_RecordLine = tuple[str, RecordLine]
_GrantLine = tuple[str, GrantLine]


class StatementFiles(NamedTuple):
    """What the user names: lines of records and grants, and the texts of the contract by path."""

    records: Lines
    contract: Mapping[str, str]
    grants: Lines = ()
    account: str | None = None


def state_files(
    files: StatementFiles, period: str, as_of: int, close_after_ms: int, prices: Tenants
) -> Stated:
    """Return the statement of a period as of a time.

    Each period is closed `close_after_ms` after its end. A unit without a price in the contract has
    that of its policy in `prices`.

    Raises:
        ConfigurationError: with the problems of all files.
    """
    record_lines, problems = read_record_lines(files.records)
    grant_lines, problems_of_grants = read_grant_lines(files.grants)
    problems += problems_of_grants
    try:
        currencies = _currencies(record_lines, prices)
        contract = read_contract(files.contract, currencies, files.account)
    except ConfigurationError as error:
        raise ConfigurationError([*problems, *error.problems]) from None
    try:
        account = files.account or _account_of(contract, record_lines, grant_lines)
    except ConfigurationError as error:
        raise ConfigurationError([*problems, *error.problems]) from None
    records, problems_of_records = entered_records(
        record_lines, prices.price_for, contract.currency
    )
    grants, problems_of_grants = entered_grants(grant_lines, account, contract.currency)
    problems += problems_of_records + problems_of_grants
    try:
        of_name = contract.calendar.named(period)
    except ValueError as error:
        raise ConfigurationError([*problems, f"--period {period}: {error}"]) from None
    closes = ClosesAfter(contract.calendar, close_after_ms)
    grants = [grant for grant in grants if grant.created_at <= as_of]
    problems = (
        problems
        or problems_of_voids(contract, records, grants, closes)
        or problems_of_credit_notes(contract, records, grants, closes)
    )
    if problems:
        raise ConfigurationError(problems)
    last = max(of_name, contract.calendar.period_at(as_of))
    stated = statements(contract, records, grants, closes, last, as_of, of_name)
    statement, units = take(of_name, stated)
    doubts = _doubts(contract, record_lines, grant_lines)
    return Stated(account, statement, units, missing_prices(statement, records), doubts)


def _currencies(record_lines: Sequence[_RecordLine], prices: Tenants) -> set[str]:
    """Return the currencies of the policies that price the records, else of the tenant's policy."""
    decided = {
        (line.tenant_id, line.outcome, line.policy, line.policy_version)
        for _, line in record_lines
        if line.policy is not None and line.policy_version is not None
    }
    found = {priced[1] for of in decided if (priced := prices.price_for(*of)) is not None}
    if found:
        return found
    tenants = sorted({line.tenant_id for _, line in record_lines})
    return {prices.timeline_for(tenant_id).versions[-1].currency for tenant_id in tenants or [""]}


def _account_of(
    contract: Contract, record_lines: Sequence[_RecordLine], grant_lines: Sequence[_GrantLine]
) -> str:
    """Return whom the files are about: as contract or grants say, else the one tenant."""
    named = [contract.account, *(line.account for _, line in grant_lines)]
    if account := next(filter(None, named), None):
        return account
    tenants = sorted({line.tenant_id for _, line in record_lines})
    if len(tenants) > 1:
        problem = (
            f"the records are of {len(tenants)} tenants, such as {' and '.join(tenants[:2])}: "
            "name the ACCOUNT if they are of one account, or give the records of one tenant"
        )
        raise ConfigurationError([problem])
    return tenants[0] if tenants else "-"


def _doubts(
    contract: Contract, record_lines: Sequence[_RecordLine], grant_lines: Sequence[_GrantLine]
) -> tuple[str, ...]:
    """Return a sentence for each outcome of contract and grants that seems to be misspelt."""
    known = sorted({*OUTCOMES, *(line.outcome for _, line in record_lines)})
    named = {outcome for _, line in grant_lines for outcome in line.outcomes or ()}
    for terms in contract.versions:
        named |= {*terms.tiers, *terms.included}
    return tuple(
        f"no record has the outcome {outcome!r} of contract or grants; did you mean {meant!r}?"
        for outcome in sorted(named)
        for _, meant in misspelt([outcome], known)
    )
