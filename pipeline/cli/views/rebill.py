"""Print a rebill plan, and the result of applying one."""

from decimal import Decimal

import click
from msgspec import UNSET

from pipeline.cli.output import (
    add_group,
    add_member,
    count_of,
    grouped_table,
    print_table,
    print_text,
    visible,
)
from pipeline.replay.corrections import Correctable
from pipeline.replay.planfile import Header, RebillPlan, Total
from pipeline.replay.rebill import AppliedPlan

_CONVERSATIONS_SHOWN_MAX = 20


def print_plan(plan: RebillPlan) -> None:
    """Print the totals, the first conversations with their corrections, and what was left out."""
    header = plan.header
    if header.policy is not UNSET:
        policy = header.policy
        print_text(
            f"{policy.name} version {policy.version} ({policy.digest}) instead of what was in force "
            f"from {header.from_} to {header.to}, for {header.tenant or 'all tenants'}; "
            f"{policy.who}: {policy.reason}",
            "  ",
        )
    if header.totals:
        _print_totals(header.totals)
        print_text(_way_to_stripe(header.totals), err=True)
    for part in plan.conversations[:_CONVERSATIONS_SHOWN_MAX]:
        _print_corrections(part)
    if (more := len(plan.conversations) - _CONVERSATIONS_SHOWN_MAX) > 0:
        click.echo(f"and {count_of(more, 'more conversation')}; the file has all")
    if header.unsettled:
        again = "" if header.policy is UNSET else " without --policy, once this plan is applied"
        print_text(
            f"{count_of(header.unsettled, 'conversation')} left out: different from the log, but "
            f"the worker is not done with them; plan again later{again}",
            err=True,
        )
    if header.unjudged:
        print_text(
            f"{count_of(header.unjudged, 'conversation')} left out: different from the log, but "
            "the log no longer shows all of their events: retention has deleted its beginning, its "
            "end is cut, or it is another topic. Nobody can say which is right, so nothing is taken "
            f"back. The log that was read: {_ranges(header)}",
            err=True,
        )


def print_applied(applied: AppliedPlan) -> None:
    """Print how many corrections the ledger has, and which conversations were left as they are."""
    stored = applied.stored
    written = sum(map(len, stored))
    click.echo(
        f"{count_of(written, 'correction')} of {count_of(len(stored), 'conversation')} "
        f"{_are(written)} in the ledger"
    )
    if before := len(applied.written_before):
        click.echo(f"{count_of(before, 'conversation')} had been corrected by this plan before")
    for part in applied.changed[:_CONVERSATIONS_SHOWN_MAX]:
        click.echo(f"left: {name_of(part)} has changed since the plan was made")
    if left := len(applied.changed):
        click.echo(f"{count_of(left, 'conversation')} {_are(left)} left: make a new plan for them")


def name_of(part: Correctable) -> str:
    """Return tenant and conversation, safe to print."""
    return visible(f"{part.tenant_id} {part.conversation}")


def _ranges(header: Header) -> str:
    return ", ".join(
        f"{header.topic}[{partition}] offsets {first} to {end - 1}"
        if end > first
        else f"{header.topic}[{partition}] nothing"
        for partition, (first, end) in header.log.items()
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _way_to_stripe(totals: tuple[Total, ...]) -> str:
    """Say how a plan's money gets onto an invoice."""
    later = "What changes in a closed period is on the next statement and its invoice."
    if all(total.added == total.removed for total in totals):
        return (
            "Stripe gets no units, as it prices them itself: the close brings the invoice of an open "
            f"period to the new amount. {later}"
        )
    return f"Stripe gets the units of open periods, and the close completes their invoices. {later}"


def _print_totals(totals: tuple[Total, ...]) -> None:
    figures = ("added", "removed", "amount added", "amount removed", "net")
    table = grouped_table("tenant, outcome", figures)
    previous: str | None = None
    for total in totals:
        if total.tenant_id != previous:
            add_group(table, total.tenant_id)
            previous = total.tenant_id
        added = _amount("+", total.amount_added, total.currency)
        removed = _amount("-", total.amount_removed, total.currency)
        units = (_signed(total.added), _signed(-total.removed))
        add_member(
            table, total.outcome, [*units, added, removed, _signed(total.added - total.removed)]
        )
    print_table(table)


def _print_corrections(part: Correctable) -> None:
    print_text(f"{part.tenant_id} {part.conversation}: {part.why}", "  ")
    for correction in part.corrections:
        record = correction.record
        cause = f"reverses {record.supersedes}" if record.supersedes else "for"
        evidence = "" if record.supersedes else f" {', '.join(record.evidence)}"
        click.echo(f"  {record.quantity:+d} {visible(f'{record.outcome} {cause}{evidence}')}")


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _amount(sign: str, amount: str | None, currency: str | None) -> str:
    if amount is None:
        return "no price"
    return f"{sign}{amount} {currency}" if Decimal(amount) else f"0.00 {currency}"
