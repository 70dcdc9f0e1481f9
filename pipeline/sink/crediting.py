"""Give back what an account carries, by credit notes on earlier invoices.

What a statement leaves below zero is carried to the next one. Where no invoice follows, or where the
money is wanted on an earlier invoice, a person has a credit note made instead.

Each credit note is an entry of the journal first: from then on the money is not carried any more, on any
ledger. Its identifier is a function of the closed period that left the money, and of its number. It is in
the credit note's metadata, and is looked for before the credit note is made. So the work can stop
anywhere, and goes on when it is repeated:

| it stopped                    | then                                                         |
|-------------------------------|--------------------------------------------------------------|
| before the entry              | nothing happened                                             |
| after the entry               | the credit note is not found, and made                       |
| while or after Stripe made it | the credit note is found                                     |
| after Stripe refused it       | Stripe refuses it again; a void: the money is carried again  |
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from pipeline.billing.grants import CreditNote, Goes
from pipeline.billing.money import amount_text
from pipeline.errors import ConfigurationError, ResmeterError, UnavailableError
from pipeline.ledger.carrying import Carried, Said, note_key, note_line, void_line

# Writes a grant or a void to the journal, reads it back, and returns why it is void, or None.
Write = Callable[[bytes], "str | None"]
State = Literal["made", "found", "missing", "refused", "void"]


class CreditRefusedError(ResmeterError):
    """Stripe refuses a credit note for good."""


class FinalInvoice(NamedTuple):
    """A final invoice, with what of it can be credited. Amounts in minor units of its currency."""

    id: str
    number: str
    status: str
    created: int  # seconds
    left: int  # less earlier credit notes
    unpaid: int
    is_taxed: bool


class Wanted(NamedTuple):
    """A credit note to make. `goes`: where paid money goes."""

    key: str
    invoice: str
    amount: int  # minor units
    currency: str
    goes: Goes | None
    memo: str


class Made(NamedTuple):
    """A credit note at Stripe."""

    id: str
    is_void: bool


class CreditNotes(Protocol):
    """The biller's credit notes."""

    async def invoices(self, customer: str, currency: str) -> list[FinalInvoice]: ...

    async def find(self, invoice: str, key: str) -> Made | None: ...

    async def make(self, wanted: Wanted) -> Made: ...


class Result(NamedTuple):
    """How far a credit note is.

    `missing`: it is in the journal, and not at Stripe. `void`: somebody voided it at Stripe.
    """

    note: CreditNote
    state: State
    detail: str = ""


def plan_note(
    carried: Carried,
    invoice: FinalInvoice,
    amount: int | None,
    goes: Goes | None,
    said: Said,
) -> bytes:
    """Return the grant of a further credit note; without an amount, over as much as can be.

    Raises:
        ConfigurationError: nothing is carried, the invoice cannot be credited so far, or nobody says
            where paid money goes.
    """
    problems: list[str] = []
    currency = carried.currency
    wanted = min(carried.amount, invoice.left) if amount is None else amount
    if carried.amount <= 0:
        problems.append(f"{carried.account}: no final statement carries anything to give back")
    elif not 0 < wanted <= carried.amount:
        text = amount_text(carried.amount, currency)
        problems.append(f"--amount: {carried.account} carries {text} {currency.upper()}")
    if wanted > invoice.left or not invoice.left:
        text = amount_text(invoice.left, currency)
        problems.append(f"--invoice: {invoice.number} can be credited {text} {currency.upper()}")
    if invoice.is_taxed:
        problems.append(
            f"--invoice: {invoice.number} has tax, and a credit note must say how much of it is tax: "
            "make it at Stripe, on another invoice here, or let the next invoice take the money"
        )
    if wanted > invoice.unpaid and goes is None:
        problems.append(
            f"--invoice: {invoice.number} is paid: add --refund, and Stripe returns the money, or "
            "--out-of-band, and you do"
        )
    if problems:
        raise ConfigurationError(problems)
    return note_line(carried, invoice.id, wanted, goes, said)


async def look(carried: Carried, biller: CreditNotes) -> list[Result]:
    """Return how far each credit note of an account is; change nothing."""
    results: list[Result] = []
    for note in carried.notes:
        made = await biller.find(note.invoice, note_key(carried.account, note.id))
        if made is None:
            results.append(Result(note, "missing"))
        else:
            results.append(Result(note, "void" if made.is_void else "found", made.id))
    return results


async def complete(carried: Carried, biller: CreditNotes, write: Write, said: Said) -> list[Result]:
    """Make each credit note that is missing; one that Stripe refuses or somebody voided is void."""
    results: list[Result] = []
    for result in await look(carried, biller):
        done = await _make(carried, result.note, biller) if result.state == "missing" else result
        if done.state in ("refused", "void"):
            why = write(void_line(carried, done.note, said._replace(reason=done.detail)))
            if why is not None:
                raise UnavailableError(f"{done.note.id} cannot be void: {why}; run it again")
        results.append(done)
    return results


async def _make(carried: Carried, note: CreditNote, biller: CreditNotes) -> Result:
    key = note_key(carried.account, note.id)
    memo = "Usage that was taken back since"
    wanted = Wanted(key, note.invoice, note.amount, carried.currency, note.goes, memo)
    try:
        made = await biller.make(wanted)
    except CreditRefusedError as error:
        # Another process may have made it meanwhile, and so used up what the invoice has.
        found = await biller.find(note.invoice, key)
        if found is None:
            return Result(note, "refused", str(error))
        made = found
    return Result(note, "void" if made.is_void else "made", made.id)
