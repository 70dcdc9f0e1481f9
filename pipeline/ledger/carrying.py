"""Say what an account carries, which credit notes gave money of it back, and prepare another one.

docs/reference/money.md §4.6. A credit note counts once the journal has it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from pipeline.billing.contract import BilledAccount
from pipeline.billing.grants import CreditNote, Goes, Void
from pipeline.billing.money import amount_text
from pipeline.billing.periods import Period
from pipeline.billing.run import carried_at
from pipeline.catalog.prices import Prices
from pipeline.events.times import format_time
from pipeline.ledger.account_history import read_history
from pipeline.ledger.database import Ledger


class Carried(NamedTuple):
    """What an account carries by its last final statement, and its credit notes."""

    account: str
    currency: str
    period: Period | None  # the last that is closed
    amount: int  # minor units, above zero: what another credit note can give back
    notes: tuple[CreditNote, ...]  # that are not void
    of_period: int  # how many credit notes the period has, void ones too


def read_carried(ledger: Ledger, account: BilledAccount, prices: Prices, at: int) -> Carried:
    """Return what an account carries at a time, ms."""
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
    closings = history.closes.closings
    period = history.contract.calendar.period_at(closings[-1].period_start) if closings else None
    carried = carried_at(history.contract, history.records, history.grants, history.closes, at)
    notes = [grant for grant in history.grants if isinstance(grant, CreditNote)]
    void = {grant.grant for grant in history.grants if isinstance(grant, Void)}
    return Carried(
        account=account.name,
        currency=history.contract.currency,
        period=period,
        amount=-carried,
        notes=tuple(note for note in notes if note.id not in void),
        of_period=sum(period is not None and note.of_period == period.start_ms for note in notes),
    )


def note_line(
    carried: Carried,
    invoice: str,
    amount: int,
    goes: Goes | None,
    said: "Said",
) -> bytes:
    """Return the line of a further credit note: its id is a function of the period and its number."""
    assert carried.period is not None
    period = carried.period
    line: dict[str, Any] = {
        "kind": "credit_note",
        "id": f"credit-note-{format_time(period.start_ms)[:13]}-{carried.of_period + 1}",
        "account": carried.account,
        "amount": amount_text(amount, carried.currency),
        "invoice": invoice,
        "of_period": format_time(period.start_ms),
        **({"goes": goes} if goes else {}),
        "created_at": format_time(said.at),
        "who": said.who,
        "reason": said.reason,
    }
    return orjson.dumps(line)


class Said(NamedTuple):
    """Who wants something, why, and when."""

    who: str
    reason: str
    at: int  # ms


def void_line(carried: Carried, note: CreditNote, said: Said) -> bytes:
    """Return the line that ends a credit note which the biller does not have."""
    return orjson.dumps(
        {
            "kind": "void",
            "grant": note.id,
            "account": carried.account,
            "takes": amount_text(note.amount, carried.currency),
            "created_at": format_time(said.at),
            "who": said.who,
            "reason": said.reason,
        }
    )


def note_key(account: str, note_id: str) -> str:
    """Return what a credit note has in its metadata: a function of what it stands for."""
    content: Sequence[str] = ("credit_note", account, note_id)
    return f"ri_{hashlib.sha256(orjson.dumps(content)).hexdigest()}"
