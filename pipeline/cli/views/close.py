"""Print whether periods can be closed, what their invoices need, and how far they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import click
import orjson

from pipeline.billing.money import amount_text
from pipeline.cli.output import print_text, visible
from pipeline.replay.closing import Readiness
from pipeline.sink.progress import Progress

_ACCOUNTS_NAMED_MAX = 5


def print_readiness_as_json(readiness: Readiness) -> None:
    """Print one JSON object."""
    statement = readiness.stated.statement
    found: dict[str, Any] = {
        "account": readiness.stated.account,
        "period": statement.period.name,
        "currency": statement.currency,
        "total": amount_text(statement.total, statement.currency),
        "missing": [each._asdict() for each in readiness.missing],
        "invoice": None,
    }
    if readiness.invoice is not None:
        found["invoice"] = {
            "send": readiness.invoice.send,
            "items": [
                {
                    "amount": item.stripe_amount,
                    "description": item.description,
                    "metadata": item.metadata,
                    "idempotency_key": item.idempotency_key,
                }
                for item in readiness.invoice.items
            ],
        }
    click.echo(orjson.dumps(found))


def print_readiness(readiness: Readiness) -> None:
    """Print a line for the account, and one below it for each thing that is missing or needed."""
    statement = readiness.stated.statement
    total = f"{amount_text(statement.total, statement.currency)} {statement.currency.upper()}"
    state = "not ready" if readiness.missing else "ready"
    click.echo(f"{visible(readiness.stated.account)}, {statement.period.name}: {total}, {state}")
    for text in _texts(readiness):
        print_text(f"  {visible(text)}", "    ")


def _texts(readiness: Readiness) -> Iterator[str]:
    for each in readiness.missing:
        yield f"{each.what}: {each.detail}"
    if readiness.invoice is None:
        return
    for outcome, units in readiness.invoice.send.items():
        yield f"invoice: {units:,} {outcome} to send"
    currency = readiness.stated.statement.currency
    for item in readiness.invoice.items:
        amount = amount_text(item.amount, currency)
        yield f"invoice item: {amount}  {item.description}"


def print_progress_as_json(progress: Progress) -> None:
    """Print one JSON object."""
    currency = progress.currency
    amount = None if progress.amount is None else amount_text(progress.amount, currency)
    found = {
        "account": progress.account,
        "period": progress.period.name,
        "state": progress.state,
        "currency": currency,
        "amount": amount,
        "invoice": progress.invoice,
        "missing": list(progress.texts),
    }
    click.echo(orjson.dumps(found))


def print_nothing_to_close(accounts: Sequence[str]) -> None:
    """Say on standard error that the accounts have no period to close or to invoice."""
    of = (
        f" of {', '.join(map(visible, accounts))}"
        if 0 < len(accounts) <= _ACCOUNTS_NAMED_MAX
        else ""
    )
    print_text(
        f"nothing to close: each period{of} that has ended is closed, and its invoice is complete. "
        "`resmeter close --check` shows the next period",
        err=True,
    )


def print_progress(progress: Progress) -> None:
    """Print a line for a period of an account, and one below it for each thing to know."""
    parts = [f"{visible(progress.account)}, {progress.period.name}: "]
    if progress.amount is not None:
        parts.append(
            f"{amount_text(progress.amount, progress.currency)} {progress.currency.upper()}, "
        )
    parts.append(_STATES[progress.state])
    if progress.invoice is not None:
        parts.append(f" ({visible(progress.invoice)})")
    click.echo("".join(parts))
    for text in progress.texts:
        print_text(f"  {visible(text)}", "    ")


_STATES = {
    "open": "not closed",
    "waiting": "waits",
    "stopped": "needs you",
    "invoiced": "invoiced",
    "missed": "lacking on its final invoice",
    "without": "closed without an invoice",
}
