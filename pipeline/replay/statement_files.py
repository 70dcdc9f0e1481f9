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
    problems_of_voids,
    statements,
    take,
)
from pipeline.catalog.contracts import read_contract
from pipeline.catalog.tenants import Tenants
from pipeline.errors import ConfigurationError

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
        contract = read_contract(files.contract, _currencies(record_lines, prices))
    except ConfigurationError as error:
        raise ConfigurationError([*problems, *error.problems]) from None
    account = files.account or _account_of(contract, record_lines, grant_lines)
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
    problems = problems or problems_of_voids(contract, records, grants, closes)
    if problems:
        raise ConfigurationError(problems)
    last = max(of_name, contract.calendar.period_at(as_of))
    stated = statements(contract, records, grants, closes, last, as_of, of_name)
    statement, units = take(of_name, stated)
    return Stated(account, statement, units, missing_prices(statement, records))


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
    """Return whom the files are about: as contract or grants say, else the first tenant."""
    named = [contract.account, *(line.account for _, line in grant_lines)]
    named += sorted({line.tenant_id for _, line in record_lines})
    return next(filter(None, named), "-")
