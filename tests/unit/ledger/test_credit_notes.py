"""A credit note is valid in the journal only over what the last final statement carries."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.events.times import format_time, parse_time
from pipeline.ledger.month_entries import AccountStanding, Closing, Granted, judge

OCTOBER, NOVEMBER = (parse_time(f"2026-{month}-01T00:00:00Z") for month in (10, 11))
CLOSED, LATER = (parse_time(f"2026-12-01T0{hour}:00:00Z") for hour in (1, 2))


def closing(carried: str, grants: int = 0, period: int = NOVEMBER, at: int = CLOSED) -> Closing:
    return Closing(
        account="acme",
        period_start=period,
        period_end=at - 1,
        closed_at=at,
        topic="usage.records",
        offsets={0: 1},
        grants=grants,
        statement=json.dumps({"closing": {"carried": carried}}),
    )


def note(amount: object, number: int = 1, period: int = NOVEMBER, **more: Any) -> Granted:
    line = {
        "kind": "credit_note",
        "id": f"n{number}",
        "amount": amount,
        "invoice": "in_1",
        "of_period": format_time(period),
        "created_at": format_time(LATER),
        **more,
    }
    return Granted("acme", json.dumps(line))


def void(number: int = 1) -> Granted:
    line = {"kind": "void", "grant": f"n{number}", "takes": "1.00", "created_at": LATER + 1}
    return Granted("acme", json.dumps(line))


@pytest.fixture
def account() -> AccountStanding:
    standing = AccountStanding()
    assert judge(standing, closing("-9.50")) is None
    return standing


def test_credit_notes_give_back_what_is_carried_and_no_more(account: AccountStanding) -> None:
    assert judge(account, note("5.00")) is None
    assert judge(account, note("4.51", 2)) == "it gives back 4.51, and 4.50 is carried"
    assert judge(account, note("4.50", 2)) is None
    assert judge(account, note("0.01", 3)) == "it gives back 0.01, and 0.00 is carried"


def test_a_void_lets_the_money_be_given_back_again(account: AccountStanding) -> None:
    assert judge(account, note("9.50")) is None
    assert judge(account, void()) is None
    assert judge(account, note("9.50")) == "the account has a grant 'n1' already"
    assert judge(account, note("9.50", 2)) is None


@pytest.mark.parametrize("amount", ["-1.00", "0", "0.00", "NaN", "Infinity", "", "1e1"])
def test_what_is_not_an_amount_gives_nothing_back(account: AccountStanding, amount: str) -> None:
    assert judge(account, note(amount)) == f"it gives back {amount}, and 9.50 is carried"


def test_a_credit_note_is_over_the_last_closed_period_only(account: AccountStanding) -> None:
    why = "its period is not the last that is closed"

    assert judge(account, note("1.00", period=OCTOBER)) == why
    assert judge(AccountStanding(), note("1.00")) == why


def test_a_close_that_does_not_know_a_credit_note_is_void(account: AccountStanding) -> None:
    december = parse_time("2026-12-01T00:00:00Z")
    assert judge(account, note("9.50")) is None

    assert str(judge(account, closing("0.00", 0, december, LATER + 9))).startswith("a grant has")
    assert judge(account, closing("0.00", 1, december, LATER + 9)) is None


@pytest.mark.parametrize(
    "statement", ["", "[]", "{}", '{"closing":{"carried":"NaN"}}', "[" * 9_999]
)
def test_a_statement_that_is_not_ours_carries_nothing(statement: str) -> None:
    account = AccountStanding()
    assert judge(account, replace(closing("0.00"), statement=statement)) is None

    assert judge(account, note("1.00")) == "it gives back 1.00, and 0 is carried"
