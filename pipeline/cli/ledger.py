"""`resmeter ledger`."""

import sys
import time

import click
from rich.table import Table

from pipeline.catalog.tenants import Tenants
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import configured, decision_options, machine_user, opened
from pipeline.cli.output import count_of, print_table
from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.events.times import format_time
from pipeline.ledger import (
    Ledger,
    adoption,
    holds,
    open_ledger,
    priced_under,
    records,
    redacted,
    upgrade,
)
from pipeline.ledger.holds import Answer, Hold
from pipeline.ledger.moving import compare, copy, is_empty


@click.group("ledger", cls=CommandGroup)
def command() -> None:
    """Create, upgrade, check, rebuild or move the ledger.

    RESMETER_LEDGER__URL says where the ledger is: SQLite by default; for PostgreSQL,
    postgresql+psycopg://USER@HOST/DB.

    \b
    Example:
      resmeter ledger upgrade
    """


@command.command("upgrade")
def _upgrade() -> None:
    """Create the tables, or upgrade them to this version. Safe to repeat.

    \b
    Run it before you start a new version of worker and sink:
      resmeter ledger upgrade
    """
    settings = configured()
    upgrade(settings.ledger.url)
    click.echo(f"the ledger {redacted(settings.ledger.url)} is ready")


@command.command("check")
def _check() -> None:
    """Check that the ledger can be opened and has the tables of this version.

    \b
    Example:
      resmeter ledger check && resmeter sink
    """
    settings = configured()
    ledger = open_ledger(settings.ledger.url)
    ledger.close()
    click.echo(f"the ledger {ledger.redacted_url} is ready")


@command.command("resume")
@click.option(
    "--never-sent",
    "said",
    flag_value="never_sent",
    help="The missing units were never sent: send them.",
)
@click.option(
    "--perhaps-sent",
    "said",
    flag_value="perhaps_sent",
    help="The missing units may have been sent: send none before you have compared them with Stripe.",
)
@decision_options("the ledger", needed_by="--never-sent and --perhaps-sent need it.")
def _resume(said: Answer | None, who: str | None, reason: str | None) -> None:
    """Resume deliveries that are held because the ledger is outdated.

    Only a deployment that had no journal before can come to this: the journal knows what was sent.
    A sink holds all deliveries if its ledger is behind the offsets that its group committed: a
    backup was restored, a replica that lagged took over, or RESMETER_LEDGER__URL names another
    database. What the newer ledger sent is unknown to this one, and sending it again would bill
    twice. If the newer ledger still exists, point RESMETER_LEDGER__URL to it: then this command is
    not needed.

    If the newer ledger is lost, wait until the sink has read everything again, then resume with
    --perhaps-sent. The units that the lost ledger may have sent become uncertain meter events:
    compare each with Stripe, and release or settle it (`resmeter deliveries`). New usage is
    delivered as always.

    Without options, the command shows what is held and changes nothing. The exit status is 3 while
    deliveries are held.

    \b
    Examples:
      resmeter ledger resume
      resmeter ledger resume --perhaps-sent --reason "a backup"
      resmeter ledger resume --never-sent --reason "copied offsets"
    """
    with opened() as (_, tenants, ledger):
        held = holds.open_holds(ledger)
        if not held:
            click.echo(f"the ledger {ledger.redacted_url} holds no deliveries", err=True)
            return
        if said is None:
            print_table(_table_of(held))
            click.echo(
                f"deliveries are held: {ledger.redacted_url} is behind what the sinks have stored. "
                "See `resmeter ledger resume --help`",
                err=True,
            )
            sys.exit(FOUND)
        if not reason:
            raise click.UsageError("say why with --reason: it is kept in the ledger")
        now_ms = int(time.time() * 1000)
        uncertain = _doubt(ledger, tenants, held, now_ms) if said == "perhaps_sent" else 0
        decider = who or machine_user()
        if not holds.answer(ledger, said, who=decider, reason=reason, now_ms=now_ms, about=held):
            raise UnavailableError(
                "the sinks have learned meanwhile that more is missing in this ledger, or somebody else "
                "has resumed deliveries: see `resmeter ledger resume`, and repeat this"
            )
        click.echo(
            f"deliveries resume: {count_of(len(held), 'partition')} no longer held, by {decider}",
            err=True,
        )
        if uncertain:
            click.echo(
                f"{count_of(uncertain, 'meter event')} uncertain: compare with Stripe; see "
                "`resmeter deliveries list --state uncertain`",
                err=True,
            )


@command.command("rebuild")
def _rebuild() -> None:
    """Build a new ledger from the journal and the topic of usage records.

    RESMETER_LEDGER__URL names a database without a ledger, or with an empty one. First the command
    reads from the journal what was sent, then it stores the usage records that Kafka has. It sends
    nothing. A sink that finds an empty ledger does the same; but it refuses one if Kafka has deleted
    usage records. This command takes what Kafka has, and says how many records it has not: what was
    sent of them is known, and what was not sent is lost. So restore a backup if you have one.

    \b
    Example:
      RESMETER_LEDGER__URL=sqlite:///new.sqlite resmeter ledger rebuild
    """
    from pipeline.sink.rebuild import rebuild

    settings = configured()
    upgrade(settings.ledger.url)
    ledger = open_ledger(settings.ledger.url)
    try:
        if not is_empty(ledger):
            raise UnavailableError(
                f"the ledger {ledger.redacted_url} is not empty: name a new database in "
                "RESMETER_LEDGER__URL"
            )
        built = rebuild(settings, ledger, int(time.time() * 1000))
    finally:
        ledger.close()
    quarantined = f", {built.quarantined:,} quarantined" if built.quarantined else ""
    click.echo(
        f"the ledger {ledger.redacted_url} has {count_of(built.stored, 'usage record')}{quarantined}",
        err=True,
    )
    if built.deleted:
        click.echo(
            f"Kafka has deleted {count_of(built.deleted, 'usage record')}: what was sent of them is in "
            "the journal; the rest is lost",
            err=True,
        )
        sys.exit(FOUND)


@command.command("move")
@click.argument("url", metavar="URL")
def _move(url: str) -> None:
    """Copy the ledger to a new database at URL, and compare every row.

    From SQLite to PostgreSQL, or back. Stop the sinks first: the command refuses while one runs.
    Afterwards set RESMETER_LEDGER__URL to URL for all processes, and start the sinks. The old ledger
    is not changed.

    \b
    Example:
      resmeter ledger move postgresql+psycopg://resmeter@db/resmeter
    """
    settings = configured()
    _refuse_while_sinks_run(settings)
    upgrade(url)
    source, target = open_ledger(settings.ledger.url), open_ledger(url)
    try:
        counts = copy(source, target)
        compare(source, target)
    finally:
        source.close()
        target.close()
    click.echo(
        f"{target.redacted_url} has all {count_of(sum(counts.values()), 'row')} of "
        f"{source.redacted_url}; set RESMETER_LEDGER__URL to it",
        err=True,
    )


@command.command("follow")
@click.option("--yes", is_flag=True, help="Do it; without this option, nothing changes.")
def _follow(*, yes: bool) -> None:
    """Let the ledger follow another journal: a copy in another cluster, or a new one.

    The ledger remembers which journal it follows and under which entry of the catalog it was
    priced, and a sink refuses any other. Use this command if
    you moved to a cluster with copied topics, or if the journal is lost and this is the newest ledger:
    at its next start, a sink reads the journal from its beginning, and writes to it what it lacks.
    Never use it on a restored ledger whose journal is lost: nobody knows then what was sent.

    \b
    Example:
      resmeter ledger follow --yes
    """
    with opened(any_catalog=True) as (settings, _, ledger):
        _refuse_while_sinks_run(settings)
        if not yes:
            click.echo(
                f"the ledger {ledger.redacted_url} would follow {settings.topics.journal} at "
                f"{settings.kafka.bootstrap_servers} from its beginning; add --yes to do it",
                err=True,
            )
            return
        adoption.forget(ledger, settings.topics.journal, int(time.time() * 1000))
        priced_under.forget(ledger)
        click.echo(
            f"the ledger {ledger.redacted_url} follows {settings.topics.journal} from its beginning at "
            "the next start of a sink",
            err=True,
        )


def _refuse_while_sinks_run(settings: Settings) -> None:
    from pipeline.kafka.groups import members_of

    if running := members_of(settings.kafka, settings.sink.group):
        raise UnavailableError(
            f"{count_of(len(running), 'sink')} of the group {settings.sink.group} still run "
            f"({', '.join(running[:3])}): stop them first"
        )


def _doubt(ledger: Ledger, tenants: Tenants, held: list[Hold], now_ms: int) -> int:
    """Make everything uncertain that the lost ledger may have sent; return the meter events."""
    from pipeline.sink.planner import LedgerPlans, plan_doubted
    from pipeline.sink.stripe.meter import body_sha256

    for hold in held:
        stored = records.offsets(ledger, hold.topic).get(hold.partition, 0)
        if stored < hold.reached_offset:
            raise UnavailableError(
                f"this ledger has {hold.topic}[{hold.partition}] up to {stored}, and the lost one had "
                f"it up to {hold.reached_offset}: let a sink read the rest first, then repeat this"
            )
    marked = holds.mark_uncertain(ledger, now_ms)
    doubted = {hold.partition: hold.reached_offset for hold in held}
    plans = LedgerPlans(ledger, now_ms)
    planned = plan_doubted(ledger, tenants, body_sha256, plans, doubted)
    return marked + planned.events


def _table_of(held: list[Hold]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("topic", no_wrap=True)
    for name in ("partition", "this ledger", "stored before", "held since"):
        table.add_column(name, justify="right", no_wrap=True)
    for hold in held:
        table.add_row(
            hold.topic,
            str(hold.partition),
            "nothing" if hold.ledger_offset is None else f"{hold.ledger_offset:,}",
            f"{hold.reached_offset:,}",
            format_time(hold.noticed_at),
        )
    return table
