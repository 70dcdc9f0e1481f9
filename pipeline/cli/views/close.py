"""Print whether periods can be closed, and what their invoices need."""

from collections.abc import Iterator
from typing import Any

import click
import orjson

from pipeline.billing.money import amount_text
from pipeline.cli.output import print_text, visible
from pipeline.replay.closing import Readiness


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
        print_text(visible(text), "  ")


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
