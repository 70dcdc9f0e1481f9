"""`resmeter corrections`."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from pipeline.billing.approvals import Approvable, Verdict
from pipeline.catalog.accounts import account_of
from pipeline.cli import FOUND, CommandGroup, credit
from pipeline.cli.options import (
    TEXT,
    Opened,
    decision_options,
    json_option,
    limit_option,
    machine_user,
    opened,
)
from pipeline.cli.output import count_of, print_text, visible
from pipeline.cli.views.corrections import print_list, print_list_as_json, print_one, words
from pipeline.errors import ConfigurationError
from pipeline.ledger import approving
from pipeline.ledger.approving import Waiting
from pipeline.ledger.statements import accounts_in, check_accounts

_UNITS_SHOWN_MAX = 20
Found = list[tuple[Waiting, Approvable]]


@click.group("corrections", cls=CommandGroup)
def command() -> None:
    """List, show, approve, reject and credit corrections of earlier periods.

    A statement says what changed in earlier periods since their statements. If a period changes by
    more than RESMETER_CORRECTIONS__AMOUNT_MAX, the statement is not closed before a person has
    approved or rejected that. A reversal whose charge is not known waits for a person too.

    \b
    Example:
      resmeter corrections list
      resmeter corrections show 5f1c9a0e77d2b340
      resmeter corrections approve 5f1c9a0e77d2b340 --reason "outage of 3 October"
    """


def _account_option(function: Any) -> Any:
    return click.option(
        "--account",
        type=TEXT,
        metavar="ACCOUNT",
        help="Only this account. Without it, every account is read.",
    )(function)


command.add_command(credit.command)


# --- list and show --------------------------------------------------------------------------------


@command.command("list")
@_account_option
@click.option("--all", "shows_all", is_flag=True, help="Also what does not wait for a person.")
@json_option("Print one JSON object a line.")
def list_(account: str | None, *, shows_all: bool, as_json: bool) -> None:
    """List what waits for a person, on the statement of each account that is closed next.

    --all also lists what is decided, and what is below the limit. Exit status 3: something waits.

    \b
    Example:
      resmeter corrections list --all --account acme
      resmeter corrections list --json | jq -r .id
    """
    with opened() as work:
        found = [(waits, each) for waits, each in _found(work, account) if shows_all or each.blocks]
    if as_json:
        print_list_as_json(found)
    elif found:
        print_list(found)
    else:
        click.echo("no correction waits for you", err=True)
    if any(each.blocks for _, each in found):
        sys.exit(FOUND)


@command.command("show")
@click.argument("id_", type=TEXT, metavar="ID")
@_account_option
@limit_option(f"How many units to show. {_UNITS_SHOWN_MAX} if not set.")
def show(id_: str, account: str | None, limit: int | None) -> None:
    """Show a correction: its lines, and the units and conversations that it is about.

    \b
    Example:
      resmeter corrections show 5f1c9a0e77d2b340 --limit 500
    """
    with opened() as work:
        ((waits, each),) = _chosen(work, account, [id_])
        changes = approving.changes(work.ledger, waits, each)
    amount_max = work.settings.corrections.amount_max
    print_one(waits, each, changes, amount_max, limit or _UNITS_SHOWN_MAX)


def _found(work: Opened, account: str | None) -> Iterator[tuple[Waiting, Approvable]]:
    """Yield what people may decide about the account, or about all."""
    now_ms, amount_max = int(time.time() * 1000), work.settings.corrections.amount_max
    if account is not None:
        check_accounts(work.ledger, work.tenants, [account])
    for name in [account] if account else accounts_in(work.ledger, work.tenants, now_ms):
        billed = account_of(work.tenants, name)
        waits = approving.waiting(work.ledger, billed, work.tenants, now_ms, amount_max)
        yield from ((waits, each) for each in waits.found)


def _chosen(work: Opened, account: str | None, ids: Sequence[str]) -> Found:
    by_id = {each.id: (waits, each) for waits, each in _found(work, account)}
    unknown = [id_ for id_ in ids if id_ not in by_id]
    if unknown:
        raise ConfigurationError(
            [
                f"{visible(id_)}: no statement that is open has this correction. If its amounts have "
                "changed, it has another id: run `resmeter corrections list`"
                for id_ in unknown
            ]
        )
    return [by_id[id_] for id_ in dict.fromkeys(ids)]


# --- approve and reject ---------------------------------------------------------------------------


def _deciding(function: Any) -> Any:
    """Add what `approve` and `reject` have in common."""
    options: list[Callable[[Any], Any]] = [
        click.argument("ids", nargs=-1, required=True, type=TEXT, metavar="ID..."),
        _account_option,
        decision_options("the journal", required=True),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command.command("approve")
@_deciding
def approve(ids: tuple[str, ...], **options: Any) -> None:
    """Approve corrections: they are charged, or credited, as the statement says.

    You approve exactly the amounts that `show` says. If they change before the period is closed, the
    correction has another id and waits again. An approved reversal without a charge costs nothing,
    and takes back its charge if that becomes known. The first decision counts.

    \b
    Example:
      resmeter corrections approve 5f1c9a0e77d2b340 \\
          --reason "outage of 3 October"
    """
    _decide("approved", ids, **options)


@command.command("reject")
@_deciding
def reject(ids: tuple[str, ...], **options: Any) -> None:
    """Reject corrections: the statement has them, and a line `waived` of the opposite.

    So they cost nothing and give nothing back, on this statement and on every later one. A reversal
    without a charge costs nothing, so it cannot be rejected. The first decision counts.

    \b
    Example:
      resmeter corrections reject 5f1c9a0e77d2b340 \\
          --reason "agreed with the customer"
    """
    _decide("rejected", ids, **options)


def _decide(
    verdict: Verdict,
    ids: tuple[str, ...],
    *,
    account: str | None,
    who: str | None,
    reason: str,
) -> None:
    from pipeline.cli.journalled import open_journal

    if not reason.strip():
        raise click.UsageError("--reason is empty: it is kept in the journal")
    decider = who or machine_user()
    # The journal is read first: what another machine decided is known.
    with opened() as work, open_journal(work.settings, work.ledger) as journal:
        found = _chosen(work, account, ids)
        now_ms = int(time.time() * 1000)
        items = {
            each.id: approving.prepare_approval(
                waits.account, each, verdict, decider, reason, now_ms
            )
            for waits, each in found
            if each.verdict is None
        }
        written = journal.write([*items.values()]) if items else []
        why = dict(zip(items, (each.why for each in written), strict=True))
    left = 0
    for waits, each in found:
        said = waits.said.get(each.id)
        if said is not None:
            is_done, text = said.verdict == verdict, f"earlier: {words(said)}"
        else:
            is_done, text = why[each.id] is None, why[each.id] or verdict
        left += not is_done
        print_text(f"{each.id}  {visible(waits.account)}: {text}", " " * 18)
    click.echo(f"{count_of(len(found) - left, 'correction')} {verdict}")
    if left:
        click.echo(f"{left:,} left")
        sys.exit(FOUND)
