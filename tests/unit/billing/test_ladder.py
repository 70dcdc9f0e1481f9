"""Which way a unit leaves or reaches an invoice, over every combination of what matters."""

from itertools import product
from typing import get_args

import pytest

from pipeline.billing.ladder import (
    Books,
    Charge,
    ChargeRung,
    Reversal,
    ReversalRung,
    rung_of_charge,
    rung_of_reversal,
    withdrawn_until,
)

HOUR = 3_600_000
END = 1_000 * HOUR
CHARGES: tuple[Charge, ...] = get_args(Charge)
BOTH = (False, True)
# Hours before the end of the period, and hours since Stripe received the charge.
BEFORE_END = (30.0, 2.6, 2.5, 0.1, 0.0, -1.0)
AGES = (None, 0.0, 22.9, 23.0, 40.0)


def every_reversal() -> list[tuple[Reversal, Books, float, float | None]]:
    """Return each combination, with the hours before the end and the age of the charge."""
    return [
        (Reversal(charge, later, waited, _received(before, age)), Books(END, *books), before, age)
        for charge, later, waited in product(CHARGES, BOTH, BOTH)
        for before, age in product(BEFORE_END, AGES)
        for books in product(BOTH, BOTH, BOTH)
    ]


def _received(before: float, age: float | None) -> int | None:
    return None if age is None else int(END - (before + age) * HOUR)


def expected(reversal: Reversal, books: Books, before: float, age: float | None) -> ReversalRung:
    """Return the rung by the rows of the reference, from the last to the first."""
    charge = reversal.charge
    can_withdraw = age is not None and age < 23 and before > 2.5
    rows: list[tuple[bool, ReversalRung]] = [
        (charge == "unknown", "unmatched"),
        (books.is_closed and books.is_followed, "adjusted"),
        (books.is_closed or books.is_invoiced, "credit_note"),
        (charge == "pending", "netted"),
        (charge == "under_way", "waits"),
        (reversal.has_later, "lessened"),
        (can_withdraw and reversal.has_waited, "withdrawn"),
        (can_withdraw or before > 0, "waits"),
        (True, "item"),
    ]
    return next(rung for holds, rung in rows if holds)


def test_a_reversal_takes_the_first_way_of_the_reference_that_is_possible() -> None:
    for reversal, books, before, age in every_reversal():
        now = int(END - before * HOUR)

        rung = rung_of_reversal(reversal, books, now)

        assert rung == expected(reversal, books, before, age), (reversal, books, before, age)


def test_every_way_is_taken() -> None:
    taken = {
        rung_of_reversal(r, b, int(END - before * HOUR)) for r, b, before, _ in every_reversal()
    }

    assert taken == set(get_args(ReversalRung))


def test_nothing_of_a_closed_period_or_a_final_invoice_is_withdrawn_or_sent() -> None:
    for reversal, books, before, _ in every_reversal():
        if books.is_closed or books.is_invoiced:
            rung = rung_of_reversal(reversal, books, int(END - before * HOUR))
            assert rung in {"unmatched", "adjusted", "credit_note"}


def test_time_alone_never_leads_back_to_an_earlier_way() -> None:
    """What is withdrawn, waits or is an item changes in this order only."""
    order = ["withdrawn", "waits", "item"]
    for age in (None, 0.0):
        received = None if age is None else END - 30 * HOUR
        reversal = Reversal("delivered", has_later=False, has_waited=True, received_ms=received)
        rungs = [
            rung_of_reversal(reversal, Books(END), int(END - before * HOUR))
            for before in BEFORE_END
        ]

        assert rungs == sorted(rungs, key=order.index)


@pytest.mark.parametrize(
    ("books", "rung"),
    [
        (Books(END), "sent"),
        (Books(END, is_closed=True), "adjusted"),
        (Books(END, is_closed=True, is_invoiced=True), "adjusted"),
        (Books(END, is_closed=True, is_followed=False), "own_invoice"),
        (Books(END, is_invoiced=True), "own_invoice"),
    ],
)
def test_a_late_unit_is_sent_while_its_period_is_open(books: Books, rung: ChargeRung) -> None:
    assert rung_of_charge(books) == rung


@pytest.mark.parametrize(
    ("age", "before", "hours"), [(0.0, 100.0, 23.0), (20.0, 100.0, 3.0), (0.0, 10.0, 7.5)]
)
def test_stripe_is_asked_until_an_hour_or_half_an_hour_before_it_refuses(
    age: float, before: float, hours: float
) -> None:
    now = int(END - before * HOUR)

    assert withdrawn_until(int(now - age * HOUR), END) == now + hours * HOUR
