"""`resmeter close`."""

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial

import click

from pipeline.catalog.accounts import account_of
from pipeline.cli import FOUND
from pipeline.cli.options import TEXT, Opened, json_option, opened
from pipeline.cli.output import progress
from pipeline.cli.views.close import (
    print_nothing_to_close,
    print_progress,
    print_progress_as_json,
    print_readiness,
    print_readiness_as_json,
)
from pipeline.ledger.statements import accounts_in, check_accounts
from pipeline.replay.closing import Readiness, prepared_closings, read_checks
from pipeline.sink.progress import Progress

_DONE = ("invoiced", "without")


@click.command("close")
@click.argument("accounts", nargs=-1, type=TEXT, metavar="[ACCOUNT]...")
@click.option(
    "--period",
    metavar="DATE",
    help="The date on which the period begins: 2026-11-01, or 2026-11 if only one begins then. If "
    "not set, the one after the last closed, else the last that has ended.",
)
@click.option("--check", "checks", is_flag=True, help="Change nothing, and report.")
@click.option(
    "--own-invoice",
    "owns",
    is_flag=True,
    help="Of one account: send an invoice of its own for what the invoice of --period lacks, or for "
    "all of it if no subscription makes one.",
)
@json_option("Print one JSON object for each account and period.")
def command(
    accounts: tuple[str, ...], period: str | None, *, checks: bool, owns: bool, as_json: bool
) -> None:
    """Close a period, and bring Stripe's invoice to the total of the statement.

    For each account, or for those that you name: if nothing is missing, the statement becomes final.
    Then Stripe's draft gets the items that it lacks, and becomes final too. A sink does the same by
    itself. Every step can be repeated, also while a sink works on it.

    --check changes nothing: it says what is missing, and which items the invoice needs.
    Exit status 3: something is missing.

    \b
    Example:
      resmeter close --check --period 2026-10
      resmeter close acme --period 2026-10
      resmeter close acme --period 2026-10 --own-invoice
    """
    if owns and (checks or len(accounts) != 1 or period is None):
        raise click.UsageError("--own-invoice needs one account and --period, and no --check")
    with opened() as found:
        check_accounts(found.ledger, found.tenants, accounts)
        names = accounts or accounts_in(found.ledger, found.tenants, int(time.time() * 1000))
        if checks:
            missing = _check(found, names, period, as_json=as_json)
        else:
            missing = _close(found, names, period, owns=owns, as_json=as_json)
    if missing:
        sys.exit(FOUND)


def _check(found: Opened, names: Sequence[str], period: str | None, *, as_json: bool) -> bool:
    """Print what is missing; return whether something is."""
    settings, tenants, ledger = found
    periods = read_checks(settings, ledger, tenants)
    read: list[Readiness] = []
    with progress("reading the ledger") as on_record:
        for done, name in enumerate(names):
            read.append(periods.readiness(account_of(tenants, name), period))
            on_record(done + 1, len(names))
    for each in read:
        if as_json:
            print_readiness_as_json(each)
        else:
            print_readiness(each)
    return any(each.missing for each in read)


def _close(
    found: Opened, names: Sequence[str], period: str | None, *, owns: bool, as_json: bool
) -> bool:
    """Close the periods, complete the invoices, and print how far they are."""
    # Stripe's SDK is slow to import.
    from pipeline.cli.journalled import open_journal
    from pipeline.ledger.month_entries import MonthItem
    from pipeline.sink.closer import Closer
    from pipeline.sink.stripe.invoices import StripeInvoices

    settings, tenants, ledger = found

    async def done() -> list[Progress]:
        async def write(items: Sequence[MonthItem]) -> list[str | None]:
            async with turn:
                verdicts = await asyncio.to_thread(journal.write, items)
            return [verdict.why for verdict in verdicts]

        turn = asyncio.Lock()
        invoices = StripeInvoices(settings.stripe)
        closer = Closer(
            ledger,
            lambda: tenants,
            invoices,
            partial(prepared_closings, settings, ledger, tenants),
            write,
            lambda: int(time.time() * 1000),
            after_ms=int(settings.close.after_minutes * 60_000),
            by_itself=False,
        )
        try:
            if owns and period is not None:
                return [await closer.make_own(names[0], period)]
            return await closer.look(names, period)
        finally:
            await invoices.close()

    with open_journal(settings, ledger) as journal:
        results = asyncio.run(done())
    if not results:
        print_nothing_to_close(names)
    for each in results:
        if as_json:
            print_progress_as_json(each)
        else:
            print_progress(each)
    return any(each.state not in _DONE for each in results)
