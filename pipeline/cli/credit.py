"""`resmeter corrections credit`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import click

from pipeline.billing.contract import BilledAccount
from pipeline.billing.grants import Goes
from pipeline.billing.money import amount_text, read_amount
from pipeline.catalog.accounts import account_of
from pipeline.cli import FOUND
from pipeline.cli.options import TEXT, Opened, decision_options, machine_user, opened
from pipeline.cli.output import print_text, visible
from pipeline.cli.views.credit import print_credits
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger.carrying import Carried, Said, read_carried
from pipeline.ledger.statements import check_accounts, prepare_grant
from pipeline.sink.crediting import CreditNotes, FinalInvoice, Result, complete, look, plan_note

_T = TypeVar("_T")


@click.command("credit")
@click.argument("account", type=TEXT)
@click.option("--invoice", type=TEXT, metavar="ID", help="The final invoice to credit: in_...")
@click.option(
    "--amount",
    type=TEXT,
    metavar="AMOUNT",
    help="In the account's currency. As much as is carried, and the invoice has, if not set.",
)
@click.option(
    "--refund", "goes", flag_value="refund", help="Of a paid invoice: Stripe returns the money."
)
@click.option(
    "--out-of-band",
    "goes",
    flag_value="out_of_band",
    help="Of a paid invoice: you return the money outside of Stripe.",
)
@decision_options("the journal", needed_by="--apply needs it.")
@click.option("--apply", is_flag=True, help="Do it. Without --apply, nothing changes.")
def command(
    account: str,
    invoice: str | None,
    amount: str | None,
    goes: Goes | None,
    who: str | None,
    reason: str | None,
    *,
    apply: bool,
) -> None:
    """Give back what an account carries, by a credit note on a final invoice.

    What a statement leaves below zero is carried to the next one. If no invoice follows, because the
    contract or the subscription has ended, or if you want the money on an earlier invoice, credit
    that one: never more than is carried, and never through the customer's balance.

    Without --apply, the command shows what is carried, the credit notes so far, and the final
    invoices. With --apply, it also finishes a credit note that an interrupted command left. It is
    safe to repeat. Exit status 3: a credit note is missing, or was refused.

    \b
    Example:
      resmeter corrections credit acme
      resmeter corrections credit acme --invoice in_1PqR --refund \\
          --reason "the contract ended" --apply
    """
    if apply and not (reason or "").strip():
        raise click.UsageError("--apply needs --reason: it is kept in the journal")
    now_ms = int(time.time() * 1000)
    said = Said(who or machine_user(), reason or "", now_ms)
    with opened() as work:
        check_accounts(work.ledger, work.tenants, [account])
        billed = account_of(work.tenants, account)
        customer = work.tenants.catalog.customers.get(account)
        if customer is None:
            raise ConfigurationError([f"{account} has no customer in the catalog"])
        wanted = None if invoice is None else _Wanted(invoice, amount, goes)
        if apply:
            results = _apply(work, billed, customer, wanted, said)
        else:
            results = _show(work, billed, customer, wanted, said)
    if any(each.state in ("missing", "refused", "void") for each in results):
        sys.exit(FOUND)


class _Wanted:
    """What the options say about a further credit note."""

    def __init__(self, invoice: str, amount: str | None, goes: Goes | None) -> None:
        self.invoice = invoice
        self._amount = amount
        self._goes = goes

    def line(self, carried: Carried, invoices: Sequence[FinalInvoice], said: Said) -> bytes:
        """Return the grant of the credit note.

        Raises:
            ConfigurationError: it cannot be made; the message says why.
        """
        found = [each for each in invoices if self.invoice in (each.id, each.number)]
        if not found:
            raise ConfigurationError(
                [f"--invoice: {carried.account} has no final invoice {self.invoice}"]
            )
        amount = None
        if self._amount is not None:
            try:
                amount = read_amount(self._amount, carried.currency)
            except ValueError as error:
                raise ConfigurationError([f"--amount: {error}"]) from None
        return plan_note(carried, found[0], amount, self._goes, said)


def _show(
    work: Opened, account: BilledAccount, customer: str, wanted: _Wanted | None, said: Said
) -> list[Result]:
    carried = read_carried(work.ledger, account, work.tenants, said.at)

    async def read(biller: CreditNotes) -> tuple[list[Result], list[FinalInvoice]]:
        results = await look(carried, biller)
        return results, await biller.invoices(customer, carried.currency)

    results, invoices = _with_stripe(work, read)
    print_credits(carried, results, invoices)
    if wanted is not None:
        wanted.line(carried, invoices, said)
        print_text("this credit note can be made; add --apply to do it")
    return results


def _apply(
    work: Opened, account: BilledAccount, customer: str, wanted: _Wanted | None, said: Said
) -> list[Result]:
    from pipeline.cli.journalled import open_journal

    def carried() -> Carried:
        return read_carried(work.ledger, account, work.tenants, said.at)

    with open_journal(work.settings, work.ledger) as journal:

        def write(line: bytes) -> str | None:
            (verdict,) = journal.write([prepare_grant(work.ledger, account, work.tenants, line)])
            return verdict.why

        async def run(biller: CreditNotes) -> list[Result]:
            # What an interrupted command left comes first: it may give the money back already.
            results = await complete(carried(), biller, write, said)
            if wanted is not None:
                invoices = await biller.invoices(customer, carried().currency)
                if why := write(wanted.line(carried(), invoices, said)):
                    raise UnavailableError(f"the journal has another entry: {why}; run it again")
                results = await complete(carried(), biller, write, said)
            return results

        results = _with_stripe(work, run)
    now = carried()
    for each in results:
        money = f"{amount_text(each.note.amount, now.currency)} {now.currency.upper()}"
        print_text(
            f"{each.state:<8}  {money} on {each.note.invoice}  {visible(each.detail)}", " " * 10
        )
    left = f"{amount_text(now.amount, now.currency)} {now.currency.upper()}"
    click.echo(f"{visible(account.name)} carries {left}")
    return results


def _with_stripe(work: Opened, run: Callable[[CreditNotes], Awaitable[_T]]) -> _T:
    # Stripe's SDK is slow to import.
    from pipeline.sink.stripe.credit_notes import StripeCreditNotes

    async def opened_() -> _T:
        biller = StripeCreditNotes(work.settings.stripe)
        try:
            return await run(biller)
        finally:
            await biller.close()

    return asyncio.run(opened_())
