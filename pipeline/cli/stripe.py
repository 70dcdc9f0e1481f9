"""`resmeter stripe`."""

import asyncio
import sys
import time

import click

from pipeline.catalog.topic import current_tenants
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import configured
from pipeline.cli.output import count_of, text_columns, visible, wrapped


@click.group("stripe", cls=CommandGroup)
def command() -> None:
    """Create at Stripe what the catalog's prices need.

    \b
    Example:
      resmeter stripe setup
      resmeter stripe setup --subscriptions --apply
    """


@command.command("setup")
@click.option(
    "--subscriptions",
    is_flag=True,
    help="Also subscribe the customers that have no subscription to the prices.",
)
@click.option(
    "--days-until-due",
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="With --subscriptions: send invoices, due so much later, instead of charging the customers.",
)
@click.option("--apply", "applies", is_flag=True, help="Create what the plan lists.")
def setup(subscriptions: bool, days_until_due: int | None, applies: bool) -> None:
    """Show which meters, products and prices Stripe lacks, and create them with --apply.

    The prices are those that the catalog has in force now, for each tenant with a Stripe customer.
    What is there is not changed; a price or a subscription that differs is named, and what a contract
    that begins later will need. You can repeat the
    command at any time: it continues where it was interrupted, and creates nothing twice.

    Exit status 3: something is missing or differs.

    \b
    Example:
      resmeter stripe setup --subscriptions
    """
    from pipeline.sink.stripe.setup import Subscribing, set_up

    if days_until_due is not None and not subscriptions:
        raise click.UsageError("--days-until-due needs --subscriptions")
    settings = configured()
    plan = asyncio.run(
        set_up(
            settings.stripe,
            current_tenants(settings).catalog,
            int(time.time() * 1000),
            Subscribing(days_until_due) if subscriptions else None,
            applies=applies,
        )
    )
    done = "created" if applies else "create"
    for step in plan.steps:
        _print(f"{done} {step.kind} {step.says}")
    for problem in plan.problems:
        _print(f"differs: {problem}")
    for later in plan.later:
        _print(f"later: {later}")
    if not plan.steps and not plan.problems:
        _print("Stripe has all that the catalog's prices need")
    elif plan.steps and not applies:
        count = count_of(len(plan.steps), "object")
        click.echo(f"{count} to create; nothing was created: add --apply", err=True)
    if plan.problems or (plan.steps and not applies):
        sys.exit(FOUND)


def _print(text: str) -> None:
    click.echo(wrapped(visible(text), text_columns(sys.stdout), "   "))
