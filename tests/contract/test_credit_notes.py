"""Credit notes over what is carried: in the journal first, and once at Stripe whatever stops between."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger
from pipeline.ledger.carrying import Carried, Said, read_carried
from pipeline.ledger.statements import prepare_grant
from pipeline.sink.crediting import (
    CreditNotes,
    FinalInvoice,
    Made,
    Result,
    Wanted,
    complete,
    look,
    plan_note,
)
from pipeline.sink.stripe.credit_notes import StripeCreditNotes
from tests.contract.test_emulator_credits import drafted
from tests.contract.test_ledger_statements import (
    ACME,
    NOVEMBER,
    OCTOBER,
    Bench,
    Prices,
    at,
    charge,
    reversal,
)
from tests.support.journal import written
from tests.support.stripe_account import Account, open_account

NOW = at("2026-12-10T00:00")
SAID = Said("ann", "the contract ended", NOW)


class StoppedError(Exception):
    """The process ends here."""


class Stops:
    """A biller that ends the process before or after its n-th effect."""

    def __init__(self, biller: CreditNotes, *, before: bool, effects: int) -> None:
        self._biller = biller
        self._before = before
        self._left = effects

    async def invoices(self, customer: str, currency: str) -> list[FinalInvoice]:
        return await self._biller.invoices(customer, currency)

    async def find(self, invoice: str, key: str) -> Made | None:
        return await self._biller.find(invoice, key)

    async def make(self, wanted: Wanted) -> Made:
        self._left -= 1
        if self._left < 0 and self._before:
            raise StoppedError
        made = await self._biller.make(wanted)
        if self._left < 0:
            raise StoppedError
        return made


class Books:
    """A ledger in which October's 100 units are taken back in November, and Stripe's invoice of them."""

    def __init__(self, ledger: Ledger, account: Account) -> None:
        self.ledger, self.account = ledger, account
        bench = self._bench = Bench(ledger)
        names = [f"c{n}" for n in range(100)]
        bench.store("2026-10-05T00:00", *(charge(each, "2026-10-05T00:00") for each in names))
        bench.close(OCTOBER, "2026-11-01T00:45")
        bench.store("2026-11-03T00:00", *(reversal(each, "2026-11-03T00:00") for each in names))
        bench.close(NOVEMBER, "2026-12-01T00:45")
        self.invoice = account.v1.invoices.finalize_invoice(drafted(account).id).id

    def carried(self) -> Carried:
        return read_carried(self.ledger, ACME, Prices("0.99"), NOW)

    def write(self, line: bytes) -> str | None:
        item = prepare_grant(self.ledger, ACME, Prices("0.99"), line)
        return written(self.ledger, [item], "a")[0].why

    def notes(self) -> list[Any]:
        return list(self.account.v1.credit_notes.list({"invoice": self.invoice}).data)

    def lines(self) -> list[tuple[str, str | None, int]]:
        return self._bench.lines("2026-12", "2026-12-10T00:00")

    def run(self, work: Callable[[StripeCreditNotes], Any]) -> Any:
        async def opened() -> Any:
            settings = StripeSettings(
                api_key=SecretStr("sk_test_1"), base_url=self.account.base_url
            )
            biller = StripeCreditNotes(settings, _no_pause)
            try:
                return await work(biller)
            finally:
                await biller.close()

        return asyncio.run(opened())

    def final(self) -> FinalInvoice:
        found: list[FinalInvoice] = self.run(
            lambda biller: biller.invoices(self.account.customer, "usd")
        )
        return next(each for each in found if each.id == self.invoice)

    def plan(self, amount: int | None = None, goes: Any = None) -> None:
        assert self.write(plan_note(self.carried(), self.final(), amount, goes, SAID)) is None

    def complete(self) -> list[Result]:
        return self.run(lambda biller: complete(self.carried(), biller, self.write, SAID))  # type: ignore[no-any-return]


async def _no_pause(_: float) -> None:
    return


@pytest.fixture
def books(ledger: Ledger) -> Iterator[Books]:
    with open_account() as account:
        yield Books(ledger, account)


def test_a_credit_note_gives_back_what_is_carried_and_the_balance_stays(books: Books) -> None:
    assert books.carried().amount == 9_900

    books.plan()
    (result,) = books.complete()

    assert result.state == "made"
    assert [(each.total, each.pre_payment_amount) for each in books.notes()] == [(9_900, 9_900)]
    assert books.account.balance() == 0
    assert books.carried().amount == 0
    assert books.lines() == [("carried", None, -9_900), ("credit_note", None, 9_900)]


@pytest.mark.parametrize("goes", ["refund", "out_of_band"])
def test_of_a_paid_invoice_a_person_says_where_the_money_goes(books: Books, goes: Any) -> None:
    books.account.v1.invoices.pay(books.invoice)
    with pytest.raises(ConfigurationError, match="add --refund"):
        books.plan(500)

    books.plan(500, goes)
    books.complete()

    (note,) = books.notes()
    assert (note.total, note.post_payment_amount) == (500, 500)
    assert note.customer_balance_transaction is None
    assert books.account.balance() == 0
    assert books.carried().amount == 9_400


@pytest.mark.parametrize("before", [True, False])
def test_it_is_made_once_wherever_the_process_stops(books: Books, before: bool) -> None:
    books.plan(700)  # it stops directly after the entry

    assert [each.state for each in books.run(lambda b: look(books.carried(), b))] == ["missing"]
    with pytest.raises(StoppedError):
        books.run(
            lambda b: complete(
                books.carried(), Stops(b, before=before, effects=0), books.write, SAID
            )
        )
    states = [each.state for each in (*books.complete(), *books.complete())]

    assert states == ["made" if before else "found", "found"]
    assert [each.total for each in books.notes()] == [700]
    assert books.carried().amount == 9_200


def test_two_notes_of_a_period_never_give_back_more_than_is_carried(books: Books) -> None:
    first = plan_note(books.carried(), books.final(), 6_000, None, SAID)
    second = plan_note(books.carried(), books.final(), 5_000, None, SAID)
    assert books.write(first) is None

    with pytest.raises(ConfigurationError, match="another grant"):
        books.write(second)  # both were planned before either was written
    with pytest.raises(ConfigurationError, match=r"carries 39\.00 USD"):
        plan_note(books.carried(), books.final(), 5_000, None, SAID)
    books.complete()
    books.plan()
    books.complete()

    assert sorted(each.total for each in books.notes()) == [3_900, 6_000]
    assert books.carried().amount == 0


def test_what_stripe_refuses_is_carried_again(books: Books) -> None:
    books.plan(9_000, "refund")
    books.account.v1.credit_notes.create({"invoice": books.invoice, "amount": 5_000})

    (result,) = books.complete()

    assert result.state == "refused"
    assert "must be positive and at most" in result.detail
    assert books.carried().amount == 9_900
    assert books.lines() == []  # it stays carried
    books.plan()
    assert [each.state for each in books.complete()] == ["made"]
    assert sorted(each.total for each in books.notes()) == [4_900, 5_000]


def test_what_somebody_voids_at_stripe_is_carried_again(books: Books) -> None:
    books.plan(500)
    books.complete()
    books.account.v1.credit_notes.void_credit_note(books.notes()[0].id)

    (result,) = books.complete()

    assert result.state == "void"
    assert books.carried().amount == 9_900
    assert books.complete() == []


def test_another_rest_at_an_unfinished_credit_note_is_not_guessed(books: Books) -> None:
    """The invoice was paid after the entry, and nobody said where paid money goes."""
    books.plan(500)
    books.account.v1.invoices.pay(books.invoice)

    (result,) = books.complete()

    assert (result.state, books.notes()) == ("refused", [])
    assert books.carried().amount == 9_900


def test_nothing_is_given_back_that_is_not_carried(ledger: Ledger) -> None:
    bench = Bench(ledger)
    bench.store("2026-10-05T00:00", charge("c1", "2026-10-05T00:00"))
    invoice = FinalInvoice("in_1", "A-1", "open", 0, 9_900, 9_900, is_taxed=False)
    carried = read_carried(ledger, ACME, Prices("0.99"), NOW)

    with pytest.raises(ConfigurationError, match="no final statement carries anything"):
        plan_note(carried, invoice, None, None, SAID)


def test_an_invoice_with_tax_is_refused(books: Books) -> None:
    taxed = books.final()._replace(is_taxed=True)

    with pytest.raises(ConfigurationError, match="has tax"):
        plan_note(books.carried(), taxed, None, None, SAID)
