"""The emulator's credit notes and credit grants, as Stripe's own SDK reads them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import stripe

from tests.support.stripe_account import NOVEMBER, OCTOBER, Account, error_of, open_account


@pytest.fixture
def account() -> Iterator[Account]:
    with open_account() as opened:
        yield opened


def drafted(account: Account, units: int = 100) -> stripe.Invoice:
    """Return October's draft, of 99.00."""
    account.subscribe(
        account.price().id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )
    account.now("2026-10-15")
    account.use(units, "2026-10-14")
    account.now("2026-11-01T00:01")
    return account.invoices()[-1]


# --- credit notes ----------------------------------------------------------------------------------


def credit(account: Account, invoice: str, **params: Any) -> stripe.CreditNote:
    note: stripe.CreditNote = account.v1.credit_notes.create({"invoice": invoice, **params})
    return note


def test_a_credit_note_on_an_open_invoice_lowers_what_it_asks_for(account: Account) -> None:
    invoice = account.v1.invoices.finalize_invoice(drafted(account).id)

    note = credit(account, invoice.id, amount=99, memo="taken back", metadata={"id": "1"})

    credited = account.v1.invoices.retrieve(invoice.id)
    assert (note.type, note.pre_payment_amount, note.post_payment_amount) == ("pre_payment", 99, 0)
    assert (note.number, note.memo) == (f"{invoice.number}-CN-01", "taken back")
    assert (credited.total, credited.amount_due, credited.amount_remaining) == (9_900, 9_801, 9_801)
    assert credited.pre_payment_credit_notes_amount == 99
    assert account.balance() == 0


def test_a_credit_note_over_all_pays_the_invoice(account: Account) -> None:
    invoice = account.v1.invoices.finalize_invoice(drafted(account).id)

    credit(account, invoice.id, amount=9_900)

    assert account.v1.invoices.retrieve(invoice.id).status == "paid"
    assert error_of(lambda: credit(account, invoice.id, amount=1)).http_status == 400


@pytest.mark.parametrize(
    ("goes", "balance"),
    [("credit_amount", -99), ("out_of_band_amount", 0), ("refund_amount", 0)],
)
def test_a_credit_note_on_a_paid_invoice_says_where_the_money_goes(
    account: Account, goes: str, balance: int
) -> None:
    invoice = account.v1.invoices.pay(drafted(account).id)
    without = error_of(lambda: credit(account, invoice.id, amount=99))

    note = credit(account, invoice.id, amount=99, **{goes: 99})

    assert "must equal the post-payment amount, 99" in str(without.user_message)
    assert (note.type, note.post_payment_amount) == ("post_payment", 99)
    assert account.balance() == balance
    assert (note.customer_balance_transaction is None) == (balance == 0)
    assert account.v1.invoices.retrieve(invoice.id).post_payment_credit_notes_amount == 99


def test_a_credit_note_names_the_lines_that_it_credits(account: Account) -> None:
    invoice = account.v1.invoices.finalize_invoice(drafted(account).id)
    (line,) = invoice.lines.data
    of_line = {"type": "invoice_line_item", "invoice_line_item": line.id, "amount": 198}
    own = {"type": "custom_line_item", "description": "d", "quantity": 3, "unit_amount": 33}

    note = credit(account, invoice.id, lines=[of_line, own])

    assert [(each.type, each.amount) for each in note.lines.data] == [
        ("invoice_line_item", 198),
        ("custom_line_item", 99),
    ]
    assert note.amount == 297
    listed = account.v1.credit_notes.list({"invoice": invoice.id}).data
    assert [each.id for each in listed] == [note.id]
    too_much = {**of_line, "amount": 9_800}
    error = error_of(lambda: credit(account, invoice.id, lines=[too_much]))
    assert "exceed its amount" in str(error.user_message)


def test_a_void_credit_note_raises_what_the_invoice_asks_for_again(account: Account) -> None:
    invoice = account.v1.invoices.finalize_invoice(drafted(account).id)
    note = credit(account, invoice.id, amount=99)

    void = account.v1.credit_notes.void_credit_note(note.id)

    assert void.status == "void"
    assert account.v1.invoices.retrieve(invoice.id).amount_due == 9_900
    assert error_of(lambda: account.v1.credit_notes.void_credit_note(note.id)).http_status == 400


def test_a_draft_takes_no_credit_note_and_none_exceeds_the_total(account: Account) -> None:
    draft = drafted(account)
    assert "is draft" in str(error_of(lambda: credit(account, draft.id, amount=1)).user_message)
    account.v1.invoices.finalize_invoice(draft.id)

    for params in ({"amount": 9_901}, {"amount": 0}, {"amount": -1}, {}, {"amount": 9, "x": 1}):
        assert error_of(partial(credit, account, draft.id, **params)).http_status == 400
    assert account.v1.credit_notes.list().data == []


# --- credit grants ---------------------------------------------------------------------------------


def grant(account: Account, value: int, **params: Any) -> stripe.billing.CreditGrant:
    created: stripe.billing.CreditGrant = account.v1.billing.credit_grants.create(
        {
            "customer": account.customer,
            "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": value}},
            "applicability_config": {"scope": {"price_type": "metered"}},
            **params,
        }
    )
    return created


def used(account: Account) -> list[tuple[str, int]]:
    """Return which grants paid how much, oldest first."""
    listed = account.v1.billing.credit_balance_transactions.list({"customer": account.customer})
    return [(each.credit_grant, each.debit.amount.monetary.value) for each in listed.data][::-1]


def test_a_grant_pays_metered_lines_when_the_invoice_becomes_final(account: Account) -> None:
    draft = drafted(account)
    account.item(500, invoice=draft.id)
    granted = grant(account, 100_000, name="reallocated")
    assert account.v1.invoices.retrieve(draft.id).total == 10_400

    final = account.v1.invoices.finalize_invoice(draft.id)

    # The item is not metered: no credit pays it.
    assert (final.subtotal, final.total, final.amount_due) == (10_400, 500, 500)
    (applied,) = final.total_pretax_credit_amounts
    assert (applied.amount, applied.type) == (9_900, "credit_balance_transaction")
    assert used(account) == [(granted.id, 9_900)]


def test_grants_are_used_by_priority_expiry_and_category(account: Account) -> None:
    draft = drafted(account)
    last = grant(account, 5_000, priority=60)
    later = grant(account, 1_000, expires_at=NOVEMBER + 9_000_000)
    paid = grant(account, 1_000, expires_at=NOVEMBER + 8_000_000)
    promotional = grant(account, 1_000, expires_at=NOVEMBER + 8_000_000, category="promotional")
    first = grant(account, 1_000, priority=0)
    grant(account, 7_000, effective_at=NOVEMBER + 9_000_000)

    final = account.v1.invoices.finalize_invoice(draft.id)

    assert [each for each, _ in used(account)] == [
        first.id,
        promotional.id,
        paid.id,
        later.id,
        last.id,
    ]
    assert final.total == 900


def test_a_grant_for_prices_pays_only_their_lines(account: Account) -> None:
    draft = drafted(account)
    other = account.price(unit_amount=5)
    scope = {"prices": [{"id": other.id}]}
    grant(account, 5_000, applicability_config={"scope": scope})

    assert account.v1.invoices.finalize_invoice(draft.id).total == 9_900
    assert used(account) == []


def test_an_expired_or_void_grant_pays_nothing_and_stays_so(account: Account) -> None:
    draft = drafted(account)
    grants = account.v1.billing.credit_grants
    expired, void = grant(account, 100), grant(account, 100)
    grants.expire(expired.id)
    grants.void_grant(void.id)

    assert account.v1.invoices.finalize_invoice(draft.id).total == 9_900
    for call in (grants.expire, grants.void_grant):
        for each in (expired, void):
            assert error_of(partial(call, each.id)).http_status == 400


def test_a_grant_that_was_used_can_expire_and_not_be_void(account: Account) -> None:
    draft = drafted(account)
    granted = grant(account, 10_000)
    account.v1.invoices.finalize_invoice(draft.id)

    error = error_of(lambda: account.v1.billing.credit_grants.void_grant(granted.id))

    assert "has been used" in str(error.user_message)
    assert account.v1.billing.credit_grants.expire(granted.id).expires_at is not None


def test_a_customer_has_at_most_100_unused_grants(account: Account) -> None:
    for _ in range(100):
        grant(account, 1)

    assert "at most 100" in str(error_of(lambda: grant(account, 1)).user_message)


def test_wrong_grants_are_errors(account: Account) -> None:
    price = {"prices": [{"id": "price_none"}]}
    wrong: list[dict[str, Any]] = [
        {"priority": 101},
        {"expires_at": OCTOBER},
        {"amount": {"type": "custom"}},
        {"category": "gift"},
        {"applicability_config": {"scope": {}}},
        {"applicability_config": {"scope": price}},
    ]
    for params in wrong:
        assert isinstance(
            error_of(partial(grant, account, 1, **params)), stripe.InvalidRequestError
        )
    assert error_of(lambda: grant(account, 0)).http_status == 400
    assert account.v1.billing.credit_grants.list({"customer": account.customer}).data == []
