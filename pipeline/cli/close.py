"""`resmeter close`."""

import sys
import time

import click

from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants
from pipeline.cli import FOUND
from pipeline.cli.options import TEXT, json_option, opened
from pipeline.cli.output import progress
from pipeline.cli.views.close import print_readiness, print_readiness_as_json
from pipeline.ledger import Ledger, reports
from pipeline.ledger.statements import check_accounts
from pipeline.replay.closing import Checks, Readiness
from pipeline.replay.decided import read_decided


@click.command("close")
@click.argument("accounts", nargs=-1, type=TEXT, metavar="[ACCOUNT]...")
@click.option(
    "--period",
    metavar="DATE",
    help="The date on which the period begins: 2026-11-01, or 2026-11 if only one begins then. If "
    "not set, the one after the last closed, else the last that has ended.",
)
@click.option(
    "--check", is_flag=True, required=True, expose_value=False, help="Change nothing, and report."
)
@json_option("Print one JSON object for each account.")
def command(accounts: tuple[str, ...], period: str | None, *, as_json: bool) -> None:
    """Say what is missing before a period can be closed, and what Stripe's invoice needs.

    For each account, or for those that you name: the total of the statement as it is now, what is
    undecided, undelivered, rejected or has no price, and the invoice items that bring Stripe's
    invoice to that total. This version closes nothing: add the items to the draft and finalise it
    at Stripe. Exit status 3: something is missing.

    \b
    Example:
      resmeter close --check --period 2026-10
      resmeter close --check acme --json | jq '.missing'
    """
    with opened() as (settings, tenants, ledger):
        names = accounts or _accounts(ledger, tenants)
        check_accounts(ledger, tenants, accounts)
        now_ms, amount_max = int(time.time() * 1000), settings.corrections.amount_max
        periods = Checks(ledger, tenants, read_decided(settings), now_ms, amount_max)
        found: list[Readiness] = []
        with progress("reading the ledger") as on_record:
            for done, name in enumerate(names):
                found.append(periods.readiness(account_of(tenants, name), period))
                on_record(done + 1, len(names))
    for each in found:
        if as_json:
            print_readiness_as_json(each)
        else:
            print_readiness(each)
    if any(each.missing for each in found):
        sys.exit(FOUND)


def _accounts(ledger: Ledger, tenants: Tenants) -> list[str]:
    """Return the accounts that have a contract, a customer or usage."""
    catalog, now_ms = tenants.catalog, int(time.time() * 1000)
    used = {catalog.account_of(each.tenant_id, now_ms) for each in reports.usage(ledger)}
    return sorted({*catalog.accounts, *catalog.customers, *used})
