"""`resmeter explain`."""

import time

import click

from pipeline.catalog.accounts import under_contract
from pipeline.cli import FAILED
from pipeline.cli.files import read_lines
from pipeline.cli.options import TEXT, TIME, Opened, catalog_option, json_option, opened, tenants_of
from pipeline.cli.output import print_prices_of_policies, print_text, progress
from pipeline.cli.views.explain import Account, print_account
from pipeline.errors import ResmeterError
from pipeline.ledger import reports
from pipeline.ledger.receipt import explain
from pipeline.replay.lookup import find_in_lines, find_in_topic
from pipeline.replay.partition import Place
from pipeline.replay.why_not import WhyNot, why_not
from pipeline.sink.prospects import ways


@click.command("explain")
@click.argument("tenant_id", type=TEXT, metavar="TENANT")
@click.argument("conversation", type=TEXT, metavar="CONVERSATION")
@click.option(
    "--events",
    "files",
    multiple=True,
    metavar="FILE",
    help="Decide over the events in this file, without ledger and Kafka. Can be repeated; `-` is "
    "standard input.",
)
@catalog_option("the tenant file, with --events")
@click.option(
    "--as-of",
    "as_of_ms",
    type=TIME,
    metavar="TIME",
    help="With --events: the time up to which silence counts; now if not set.",
)
@click.option(
    "--ledger-only",
    is_flag=True,
    help="Show the receipt alone; do not read the events topic if nothing is billed.",
)
@json_option("Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    tenant_id: str,
    conversation: str,
    files: tuple[str, ...],
    catalog: str | None,
    as_of_ms: int | None,
    *,
    ledger_only: bool,
    as_json: bool,
) -> None:
    """Show the receipt of one conversation, or say why nothing is billed.

    For each charge and correction, the receipt shows the reason, the evidence, the policy, the place
    in Kafka, and how it reached Stripe. If nothing is billed, the command reads the events topic and says why not: which event
    took the answer away, until when its window is open, or which rule excludes the conversation.

    \b
    Example:
      resmeter explain acme c-1042
      resmeter explain acme c-1042 --json | jq '.records[].reason'
      resmeter explain acme c-1042 --events events.ndjson
    """
    if as_of_ms is not None and not files:
        raise click.UsageError("--as-of needs --events")
    if catalog is not None and not files:
        raise click.UsageError("--catalog needs --events")
    if ledger_only and files:
        raise click.UsageError("give --events or --ledger-only, but not both")
    place = (tenant_id, conversation)
    now = int(time.time() * 1000)
    if files:
        reason = _why_by_files(files, catalog, place, now if as_of_ms is None else as_of_ms)
        account = Account(*place, {}, {}, (), reason)
        problem = "" if reason else f"{', '.join(files)}: no event of {_named(place)}"
    else:
        with opened() as work:
            account, problem = _account(work, place, now, ledger_only=ledger_only)
    if problem:
        print_text(f"error: {problem}", err=True)
        ctx.exit(FAILED)
    print_account(account, as_json=as_json)


def _why_by_files(
    files: tuple[str, ...], catalog: str | None, place: Place, as_of_ms: int
) -> WhyNot | None:
    timeline = tenants_of(catalog).owed_timeline_for(place[0])
    known = find_in_lines((line for _, _, line in read_lines(files)), place)
    return why_not(known, timeline, as_of_ms, waits_grace=False)


def _account(work: Opened, place: Place, now: int, *, ledger_only: bool) -> tuple[Account, str]:
    """Return what ledger and log say about a conversation, and a problem if neither knows it."""
    settings, tenants, ledger = work
    receipts = reports.receipts(ledger, *place)
    account = Account(*place, {}, {}, ())
    if receipts:
        amendments = tenants.catalog.amendments_of(place[0])
        follows = ways(ledger, tenants, receipts, now)
        account = Account.of(explain(receipts, tenants, amendments, follows))
        units = ((place[0], receipt.record.occurred_at) for receipt in receipts)
        print_prices_of_policies(under_contract(tenants, units))
        if account.net or ledger_only:
            return account, ""
    topic = settings.topics.events
    missing = f"the ledger {ledger.redacted_url} has no usage record of {_named(place)}"
    if ledger_only:
        return account, f"{missing}: without --ledger-only, {topic} says why"
    try:
        with progress(f"reading {topic}") as on_record:
            known = find_in_topic(settings, tenants, place, on_record)
    except ResmeterError as error:
        if not receipts:
            return account, f"{missing}, and {topic} cannot say why: {error}"
        print_text(f"warning: {topic} cannot say what happened since then: {error}", err=True)
        return account, ""
    reason = why_not(known, tenants.owed_timeline_for(place[0]), now, waits_grace=True)
    if reason is None and not receipts:
        notes = "".join(f". {note}" for note in known.notes)
        return account, f"{missing}, and {topic} has no event of it: check both ids{notes}"
    if reason is not None and reason.reason == "owed":
        print_text(
            "note: the ledger does not have these units: wait for the worker and the sink; if they "
            "stay missing, run `resmeter audit`",
            err=True,
        )
    return account.because(reason), ""


def _named(place: Place) -> str:
    return f"conversation {place[1]!r} of tenant {place[0]!r}"
