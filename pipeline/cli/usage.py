"""`resmeter usage`."""

import time
from typing import Literal

import click
import orjson

from pipeline.catalog.accounts import under_contract
from pipeline.cli.options import TimeRange, json_option, opened, tenant_option, time_range_options
from pipeline.cli.output import print_prices_of_policies, print_text, visible
from pipeline.cli.views.usage import print_usage
from pipeline.ledger import Ledger, reports
from pipeline.ledger.entries import STUCK
from pipeline.ledger.pricing import price_usage

_TENANTS_SHOWN_MAX = 20
_OTHERS: dict[Literal["netted", "settled", "stated", "late"], str] = {
    "netted": "netted",
    "settled": "settled by hand",
    "stated": "on a final statement and not sent",
    "late": "late, for the next statement",
}


@click.command("usage")
@tenant_option("Show this tenant only.")
@time_range_options("usage that occurred")
@json_option("Print one JSON object a line.")
def command(tenant_id: str | None, time_range: TimeRange, *, as_json: bool) -> None:
    """Show what the ledger says is owed, billed and pending, by tenant and outcome.

    Amounts are at the prices of the policies; `resmeter statement` has what a contract makes of them.
    A reversal counts where its charge counted: under the same kind and at the same price. Pending
    usage is not at Stripe yet: it was not sent, or it is a negative sum that is carried forward. What
    is neither delivered nor pending is counted below the table: netted, settled by hand, stated (on
    a final statement, and not sent), late (for the next statement), or rejected, uncertain or altered.

    \b
    Example:
      resmeter usage --month 2026-11
      resmeter usage --tenant acme --from 2026-11-01 --to 2026-11-15
      resmeter usage --json | jq -s 'map(.quantity) | add'
    """
    with opened() as (_, tenants, ledger):
        sums = reports.usage(
            ledger,
            tenant_id=tenant_id,
            from_ms=time_range.from_ms,
            to_ms=time_range.to_ms,
            account_of=tenants.account_of,
        )
        lines = price_usage(sums, tenants)
        here, elsewhere = reports.reversals_across(ledger, tenant_id, *time_range)
        missing = "" if lines or as_json else _no_usage(ledger, tenant_id, time_range)
    if as_json:
        for line in lines:
            click.echo(orjson.dumps(line))
    elif missing:
        print_text(missing, err=True)
    else:
        print_usage(lines)
    if not as_json:
        at_ms = int(time.time() * 1000) if time_range.to_ms is None else time_range.to_ms - 1
        tenant_ids = {line["tenantid"] for line in lines}
        print_prices_of_policies(under_contract(tenants, ((each, at_ms) for each in tenant_ids)))
    for outcome in sorted({line["outcome"] for line in lines if line["amount"] is None}):
        click.echo(f"warning: no policy names a price for {visible(outcome)}", err=True)
    if here or elsewhere:
        print_text(_difference(here, elsewhere), err=True)
    for line in lines:
        others = [f"{line[state]} {words}" for state, words in _OTHERS.items() if line[state]]
        if others and not as_json:
            print_text(
                f"note: of the {line['outcome']} of {line['tenantid']}, {', '.join(others)}",
                err=True,
            )
        stuck = [f"{line[state]} {state}" for state in STUCK if line[state]]
        if stuck:
            print_text(
                f"warning: of the {line['outcome']} of {line['tenantid']}, "
                f"{' and '.join(stuck)} wait for you: see `resmeter deliveries list`",
                err=True,
            )


def _difference(here: int, elsewhere: int) -> str:
    """Return a sentence that says why statements of this time have other quantities."""
    counted = f"counts {here:,} of charges from another time" if here else ""
    left_out = f"leaves out {elsewhere:,} of its charges that occurred at another time"
    what = " and ".join(part for part in (counted, left_out if elsewhere else "") if part)
    return f"note: a statement counts a reversal with its charge, and this table when it occurred: it {what}"


def _no_usage(ledger: Ledger, tenant_id: str | None, time_range: TimeRange) -> str:
    """Return a sentence that says that there is no usage, and which tenants have usage."""
    known = sorted({usage.tenant_id for usage in reports.usage(ledger)})
    if not known:
        return "The ledger has no usage yet"
    at_that_time = "" if time_range == (None, None) else " at that time"
    if tenant_id is None:
        return f"No usage{at_that_time}"
    if tenant_id in known:
        return f"No usage for tenant {tenant_id!r}{at_that_time}"
    more = ", ..." if len(known) > _TENANTS_SHOWN_MAX else ""
    names = ", ".join(known[:_TENANTS_SHOWN_MAX])
    return f"No usage for tenant {tenant_id!r} (known tenants: {names}{more})"
