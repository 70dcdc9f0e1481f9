"""`resmeter deliveries`."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import orjson

from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    TEXT,
    TIME,
    Opened,
    decision_options,
    json_option,
    machine_user,
    opened,
    tenant_option,
)
from pipeline.cli.output import count_of, print_text, visible
from pipeline.events.times import format_time
from pipeline.ledger import decisions, reports
from pipeline.ledger.entries import (
    HOUR_MS,
    STUCK,
    Action,
    Attempt,
    Decided,
    Decision,
    MeterEvent,
    State,
    WaitingEvent,
)
from pipeline.ledger.lineage import lineage

_LISTED: tuple[State, ...] = (*STUCK, "released", "settled", "withdrawing", "withdrawn")
_DETAIL_CHARACTERS_MAX = 160


@click.group("deliveries", cls=CommandGroup)
def command() -> None:
    """List, show, release and settle meter events that wait for you.

    A meter event waits if Stripe rejected it, if it is uncertain whether Stripe counted it, or if
    somebody altered it in the ledger. `release` sends its units again, under a new identifier that
    names the old one. `settle` records its units as billed.

    \b
    Example:
      resmeter deliveries list
      resmeter deliveries show IDENTIFIER --stripe
      resmeter deliveries release --state rejected --tenant acme \\
          --reason "the meter was inactive" --apply
    """


def _selection(function: Any) -> Any:
    """Add --state, --tenant and --since."""
    options: list[Callable[[Any], Any]] = [
        click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice(_LISTED),
            metavar="STATE",
            help=f"Only this state: {', '.join(_LISTED)}. Can be repeated.",
        ),
        tenant_option("Only this tenant."),
        click.option(
            "--since",
            "since_ms",
            type=TIME,
            metavar="TIME",
            help="Only if its state changed at this time or later.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


# --- list and show --------------------------------------------------------------------------------


@command.command("list")
@_selection
@json_option("Print one JSON object a line.")
def list_(
    states: tuple[State, ...], tenant_id: str | None, since_ms: int | None, *, as_json: bool
) -> None:
    """List the meter events that wait for you, those that have waited longest first.

    \b
    Example:
      resmeter deliveries list --state uncertain --since 2026-11-26
      resmeter deliveries list --json | jq -s 'map(.value) | add'
    """
    with opened() as (_, _, ledger):
        found = decisions.waiting(
            ledger, states=states or STUCK, tenant_id=tenant_id, since_ms=since_ms
        )
    if as_json:
        for waiting in found:
            click.echo(visible(orjson.dumps(_members(waiting)).decode()))
        return
    for line in _listed(found):
        print_text(line, "    ")
    if not found:
        click.echo("no meter event waits for you", err=True)


def _members(waiting: WaitingEvent) -> dict[str, object]:
    event = waiting.event
    return {
        "identifier": event.identifier,
        "state": event.state,
        "tenantid": event.tenant_id,
        "outcome": event.outcome,
        "customer": event.customer,
        "event_name": event.event_name,
        "hour": format_time(event.hour * HOUR_MS),
        "timestamp": format_time(event.timestamp * 1000),
        "value": event.value,
        "since": format_time(event.updated_at),
        "calls": waiting.calls,
        "perhaps_counted": waiting.perhaps_counted,
        "detail": waiting.detail,
    }


def _listed(found: Sequence[WaitingEvent]) -> Iterator[str]:
    """Yield a header, and three lines for each meter event: figures, identifier, last call."""
    if found:
        yield f"{'state':<11}  {'tenant':<22}  {'units':>7}  {'hour':<13}  {'since':<16}"
    for waiting in found:
        event = waiting.event
        yield (
            f"{event.state:<11}  {event.tenant_id:<22}  {event.value:>7}  "
            f"{_short(event.hour * HOUR_MS)[:13]}  {_short(event.updated_at)}"
        )
        yield f"    {event.identifier}"
        detail = (waiting.detail or "never sent")[:_DETAIL_CHARACTERS_MAX]
        yield f"    {event.outcome}, {count_of(waiting.calls, 'call')}; the last: {detail}"


def _short(ms: int) -> str:
    return format_time(ms)[:16].replace("T", " ")


@command.command("show")
@click.argument("identifiers", nargs=-1, required=True, type=TEXT, metavar="IDENTIFIER...")
@click.option(
    "--stripe", "asks_stripe", is_flag=True, help="Also ask Stripe for its sum of the hour."
)
def show(identifiers: tuple[str, ...], *, asks_stripe: bool) -> None:
    """Show meter events with every call and every decision about them.

    With --stripe, also compare Stripe's sum for the customer, meter and hour with the units that the
    ledger has delivered. If Stripe's sum is higher by the units of an uncertain meter event, Stripe
    has counted it.

    \b
    Example:
      resmeter deliveries show rm_7d41... --stripe
    """
    with opened() as work:
        for waiting in _chosen(work, identifiers):
            event = waiting.event
            for name, value in _members(waiting).items():
                click.echo(f"{name:<16} {visible(str(value))}")
            for number, call in enumerate(reports.attempts_of(work.ledger, event.identifier), 1):
                status = "" if call.http_status is None else f" (HTTP {call.http_status})"
                request = f", request {call.request_id}" if call.request_id else ""
                told = f": {call.detail}" if call.detail else ""
                print_text(
                    f"call {number:<11} {format_time(call.at)} {_called(call)}{status}{request}{told}",
                    " " * 17,
                )
            for decided in decisions.decided(work.ledger, lineage(event.identifier)):
                print_text(f"decision         {_words(decided)}", " " * 17)
            if asks_stripe:
                print_text(f"stripe           {_at_stripe(work, event)}", " " * 17)
            click.echo()


def _called(call: Attempt) -> str:
    return f"withdraw: {call.result}" if call.call == "withdraw" else call.result


def _chosen(work: Opened, identifiers: Sequence[str]) -> list[WaitingEvent]:
    found = {
        waiting.event.identifier: waiting
        for waiting in decisions.waiting(work.ledger, identifiers=identifiers)
    }
    unknown = [identifier for identifier in identifiers if identifier not in found]
    if unknown:
        raise click.UsageError(f"the ledger has no meter event {', '.join(map(visible, unknown))}")
    return [found[identifier] for identifier in dict.fromkeys(identifiers)]


def _at_stripe(work: Opened, event: MeterEvent) -> str:
    from pipeline.sink.stripe.reconcile import read_sums

    pair = (event.customer, event.event_name)
    start, end = event.hour * 3600, (event.hour + 1) * 3600
    sums = asyncio.run(read_sums(work.settings.stripe, [pair], start, end))
    if pair not in sums:
        return f"has no meter with the event_name {event.event_name}"
    known = [
        each
        for each in reports.delivered_sums(work.ledger, start, end, int(time.time() * 1000))
        if (each.customer, each.event_name) == pair
    ]
    least = known[0].least if known else 0
    return (
        f"counts {sums[pair]} units of {event.customer} in {event.event_name} in this hour; the "
        f"ledger has delivered {least}. Stripe's sums may be some minutes behind"
    )


# --- release and settle ---------------------------------------------------------------------------


def _deciding(function: Any) -> Any:
    """Add what `release` and `settle` have in common."""
    options: list[Callable[[Any], Any]] = [
        click.argument("identifiers", nargs=-1, type=TEXT, metavar="[IDENTIFIER...]"),
        _selection,
        decision_options("the ledger", needed_by="--apply needs it."),
        click.option(
            "--apply", is_flag=True, help="Store the decision. Without --apply, nothing changes."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command.command("release")
@_deciding
@click.option(
    "--stripe-checked",
    is_flag=True,
    help="You have compared Stripe's sums, and Stripe has not counted these units.",
)
@click.option(
    "--bill-at",
    "bill_at_ms",
    type=TIME,
    metavar="TIME",
    help="Bill them at this time. Stripe rejects usage whose own time is over 35 days ago.",
)
def release(
    identifiers: tuple[str, ...],
    *,
    stripe_checked: bool,
    bill_at_ms: int | None,
    **options: Any,
) -> None:
    """Send the units of meter events again, under a new identifier that names the old one.

    The sink sends them at its next flush, to the customer and the meter that the catalog has
    now. Without --stripe-checked, the command leaves meter events that Stripe may have counted,
    because they could be billed twice. It is safe to repeat. Exit status 3: some are left.

    \b
    Example:
      resmeter deliveries release --state rejected        # what would be sent
      resmeter deliveries release rm_7d41... --stripe-checked \\
          --reason "not in Stripe's sum of 09:00" --apply
    """
    _decide("release", identifiers, stripe_checked=stripe_checked, bill_at=bill_at_ms, **options)


@command.command("settle")
@_deciding
def settle(identifiers: tuple[str, ...], **options: Any) -> None:
    """Record the units of meter events as billed; they are not sent again.

    Use it for units that Stripe has counted, or that you have billed by hand. It is safe to repeat.
    Exit status 3: some are left.

    \b
    Example:
      resmeter deliveries settle rm_7d41... \\
          --reason "in Stripe's sum of 09:00" --apply
    """
    _decide("settle", identifiers, stripe_checked=False, bill_at=None, **options)


def _decide(
    action: Action,
    identifiers: tuple[str, ...],
    *,
    states: tuple[State, ...],
    tenant_id: str | None,
    since_ms: int | None,
    who: str | None,
    reason: str | None,
    apply: bool,
    stripe_checked: bool,
    bill_at: int | None,
) -> None:
    from pipeline.sink.stripe.meter import body_sha256

    filters = bool(states) or tenant_id is not None or since_ms is not None
    if bool(identifiers) == filters:
        raise click.UsageError(
            "give identifiers, or select meter events by --state, --tenant and --since"
        )
    if apply and not (reason or "").strip():
        raise click.UsageError("--apply needs --reason: it is kept in the ledger")
    decision = Decision(
        action=action,
        at=int(time.time() * 1000),
        who=who or machine_user(),
        reason=reason or "",
        stripe_checked=stripe_checked,
        bill_at=bill_at,
    )
    done = left = units = 0
    with opened() as work:
        found = (
            _chosen(work, identifiers)
            if identifiers
            else decisions.waiting(
                work.ledger, states=states or STUCK, tenant_id=tenant_id, since_ms=since_ms
            )
        )
        for waiting in found:
            result = decisions.decide(
                work.ledger, waiting, decision, work.tenants, body_sha256, apply=apply
            )
            event = waiting.event
            what = f"{event.identifier} ({event.tenant_id}, {event.value} {event.outcome})"
            if isinstance(result, str):
                left += 1
                print_text(f"left      {what}: {result}", " " * 10)
            else:
                done += 1
                units += event.value
                is_new = result.at == decision.at
                words = _words(result) if apply or not is_new else f"would be {_words(result)}"
                print_text(f"{'ok' if is_new else 'earlier':<9} {what}: {words}", " " * 10)
    past = {"release": "released", "settle": "settled"}[action]
    would = "" if apply else "would be "
    end = "" if apply else "; add --apply to do it"
    click.echo(f"{count_of(done, 'meter event')} {would}{past}, {count_of(units, 'unit')}{end}")
    if left:
        click.echo(f"{left:,} left")
        sys.exit(FOUND)


def _words(decided: Decided) -> str:
    did = "settled" if decided.replaced_by is None else f"sent again as {decided.replaced_by}"
    why = f": {decided.reason}" if decided.reason else ""
    return f"{did}, by {decided.who} at {format_time(decided.at)}{why}"
