"""`resmeter rebill`."""

import os
import sys
from pathlib import Path

import click

from pipeline.catalog.policies import PRESETS, read_policy
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    TimeRange,
    decision_options,
    machine_user,
    opened,
    tenant_option,
    time_range_options,
    wait_option,
)
from pipeline.cli.output import count_of, progress, visible
from pipeline.cli.views.rebill import name_of, print_applied, print_plan
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.replay.planfile import Candidate, decode_plan
from pipeline.replay.rebill import AppliedPlan, apply_plan, make_plan

_PLAN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("rebill", cls=CommandGroup)
def command() -> None:
    """Correct the ledger where it differs from the event log.

    A plan is the difference between the ledger and the log, in a file that you can read, pass on
    and keep. Applying a plan adds usage records that correct the ledger, and changes none that
    exist. Applying a plan twice has the same effect as applying it once.

    \b
    Example:
      resmeter rebill plan --month 2026-11 --out plan.ndjson
      resmeter rebill show plan.ndjson
      resmeter rebill apply plan.ndjson
    """


@command.command("plan")
@tenant_option("Correct this tenant only.")
@time_range_options("charges that occurred")
@click.option(
    "--policy",
    metavar="NAME_OR_FILE",
    help="Decide the time from --from to --to again as if this policy had been in force: a TOML file "
    f"or a preset ({', '.join(PRESETS)}). Needs --from, --to (or --month) and --reason.",
)
@decision_options("the catalog", needed_by="Needed with --policy.")
@wait_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The file to write. It must not exist yet.",
)
def plan(
    tenant_id: str | None,
    time_range: TimeRange,
    policy: str | None,
    who: str | None,
    reason: str | None,
    wait_seconds: float,
    out: Path,
) -> None:
    """Recompute every decision from the event log, and write the corrections to a file.

    A plan includes events that came too late for the worker; nothing else bills them. A plan
    leaves out conversations that a worker is not done with, and says how many. Exit status 3:
    there is something to correct.

    With --policy, a plan puts a wrong time right: it has the conversations that owe something else
    under that policy, and no others. Without --tenant it is about all tenants, also those with a
    policy of their own.

    \b
    Example:
      resmeter rebill plan --tenant acme --month 2026-11 --out acme.ndjson
      resmeter rebill plan --tenant acme --month 2026-10 --policy acme-2.toml \\
          --reason "contract says 0.79" --out october.ndjson
    """
    _check_out(out)
    candidate = _candidate(policy, who, reason, time_range)
    with opened() as (settings, tenants, ledger), progress("reading the log") as on_record:
        made_plan = make_plan(
            settings,
            tenants,
            ledger,
            tenant_id=tenant_id,
            from_ms=time_range.from_ms,
            to_ms=time_range.to_ms,
            candidate=candidate,
            wait_seconds=wait_seconds,
            on_record=on_record,
        )
    if tenant_id is not None and tenant_id not in made_plan.tenants:
        click.echo(f"{settings.topics.events} has no event of {visible(tenant_id)}", err=True)
    try:
        out.write_bytes(made_plan.content)
    except OSError as error:
        raise UnavailableError(f"the plan cannot be written to {out}: {error.strerror}") from error
    print_plan(made_plan.plan)
    identity = made_plan.plan.header.id
    if made_plan.plan.conversations:
        click.echo(f"plan {identity} is in {out}; to apply it: resmeter rebill apply {out}")
        sys.exit(FOUND)
    click.echo(f"nothing to correct; the empty plan {identity} is in {out}", err=True)


def _candidate(
    policy: str | None, who: str | None, reason: str | None, time_range: TimeRange
) -> Candidate | None:
    if policy is None:
        if reason is not None or who is not None:
            raise click.UsageError("--reason and --who need --policy")
        return None
    from_ms, to_ms = time_range
    if reason is None or from_ms is None or to_ms is None:
        raise click.UsageError("--policy needs --from and --to (or --month), and --reason")
    if from_ms >= to_ms:
        raise click.UsageError("--from must be earlier than --to")
    return Candidate.of(read_policy(policy), who or machine_user(), reason)


def _check_out(out: Path) -> None:
    # Fail before the log is read, which may take an hour.
    if out.exists():
        raise ConfigurationError(
            [f"{out} already exists; plans are never overwritten. Choose another file name."]
        )
    if not out.parent.is_dir():
        raise ConfigurationError([f"{out.parent} is not a folder: no plan can be written there"])
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            [f"the folder {out.parent} is not writable: no plan can be written there"]
        )


@command.command("show")
@click.argument("file", type=_PLAN_FILE)
def show(file: Path) -> None:
    """Show what a plan would correct.

    \b
    Example:
      resmeter rebill show plan.ndjson
    """
    rebill_plan = decode_plan(str(file), file.read_bytes())
    print_plan(rebill_plan)
    if not rebill_plan.conversations and not rebill_plan.header.totals:
        click.echo("there is nothing to correct", err=True)


@command.command("apply")
@click.argument("file", type=_PLAN_FILE)
@wait_option
def apply(file: Path, wait_seconds: float) -> None:
    """Write a plan's corrections, and wait until the ledger has them.

    Corrections go to the topic of usage records; the sink stores and delivers them like any other
    usage record. Conversations that have changed since the plan was made are listed and left as
    they are. Exit status 3: there are such conversations.

    A plan under another policy is first entered in the catalog, with who made it and why.

    \b
    Example:
      resmeter rebill apply plan.ndjson
    """
    rebill_plan = decode_plan(str(file), file.read_bytes())
    with opened() as (settings, _, ledger), progress("applying the plan") as on_record:
        applied = apply_plan(
            settings, ledger, rebill_plan, wait_seconds=wait_seconds, on_record=on_record
        )
    report(applied)


def report(applied: AppliedPlan) -> None:
    """Print the result of applying a plan; exit with 3 if conversations have changed.

    Raises:
        UnavailableError: the sink has quarantined a correction.
    """
    print_applied(applied)
    if quarantined := applied.quarantined:
        raise UnavailableError(
            f"the sink has quarantined corrections of {count_of(len(quarantined), 'conversation')}"
            f", the first {name_of(quarantined[0])}: see the sink's log"
        )
    if applied.changed:
        sys.exit(FOUND)
