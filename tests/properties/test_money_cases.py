"""The worked cases of the law of money, by the second implementation."""

from typing import Any

from tests.oracle.money import statement
from tests.oracle.periods import milliseconds

CLOSE_AFTER = 45 * 60_000
PRICE = {"price": {"resolution": "0.99", "handoff": "0.99", "sale": "9.99"}, "currency": "usd"}


def unit(
    name: str, at: str, outcome: str = "resolution", stored: str | None = None
) -> dict[str, Any]:
    return {
        "id": f"acme:{name}:1",
        "tenantid": "acme",
        "conversation": name,
        "outcome": outcome,
        "quantity": 1,
        "occurred_at": f"2026-{at}Z",
        "stored_at": f"2026-{stored or at}Z",
        "policy": "fin-2026",
        "policy_version": 1,
    }


def taken_back(name: str, at: str) -> dict[str, Any]:
    return {
        **unit(name, at),
        "id": f"acme:{name}:2",
        "quantity": -1,
        "supersedes": f"acme:{name}:1",
    }


def stated(
    period: str,
    *records: dict[str, Any],
    as_of: str = "2027-03-01T00:00:00Z",
    grants: tuple[dict[str, Any], ...] = (),
    **terms: Any,
) -> dict[str, Any]:
    made = statement(
        records, {**PRICE, **terms}, grants, period, milliseconds(as_of), CLOSE_AFTER, no_policy
    )
    assert sum(made["units"][state] for state in STATES) == made["units"]["known"]
    return made


STATES = ("taken_back", "included", "pack", "metered", "over_cap")


def no_policy(policy: str, version: int, outcome: str) -> None:
    return None


def short(made: dict[str, Any]) -> list[str]:
    """Return each line in words."""
    shown = []
    for line in made["lines"]:
        words = [line["kind"], line.get("period", "")[:7]]
        words += [f"{line['quantity']} at {line['price']}"] if "quantity" in line else []
        shown.append(" ".join([*filter(None, words), line["amount"]]))
    return [*shown, f"total {made['total']}"]


def test_a_unit_that_is_taken_back_frees_an_included_one() -> None:
    march = [unit(f"c{n:02}", f"03-{1 + n // 2:02}T0{n % 2}:00:00") for n in range(52)]
    included = {"resolution": 50}
    in_march, in_april = taken_back("c07", "03-30T00:00:00"), taken_back("c07", "04-09T00:00:00")

    assert short(stated("2026-03", *march, in_march, included=included)) == [
        "metered 1 at 0.99 0.99",
        "total 0.99",
    ]
    assert short(stated("2026-03", *march, in_april, included=included)) == [
        "metered 2 at 0.99 1.98",
        "total 1.98",
    ]
    assert short(stated("2026-04", *march, in_april, included=included)) == [
        "adjusted 2026-03 -1 at 0.99 -0.99",
        "carried_forward 0.99",
        "total 0.00",
    ]


def test_the_minimum_of_a_period_whose_units_are_taken_back_is_owed_later() -> None:
    october = [unit(f"c{n:02}", f"10-05T00:00:{n:02}") for n in range(50)]
    back = [taken_back(f"c{n:02}", f"11-05T00:00:{n:02}") for n in range(50)]
    terms: dict[str, Any] = {
        "minimum": {"amount": "20.00"},
        "effective_from": "2026-10-01T00:00:00Z",
    }

    assert short(stated("2026-10", *october, *back, **terms)) == [
        "metered 50 at 0.99 49.50",
        "total 49.50",
    ]
    november = stated("2026-11", *october, *back, **terms)
    assert short(november) == [
        "minimum 20.00",
        "adjusted 2026-10 -50 at 0.99 -49.50",
        "minimum 2026-10 20.00",
        "carried_forward 9.50",
        "total 0.00",
    ]
    assert november["subtotal"] == "-9.50"
    assert short(stated("2026-12", *october, *back, **terms))[0] == "carried -9.50"


def test_units_move_up_through_tiers() -> None:
    units = [unit(f"c{n}", f"10-0{n}T00:00:00") for n in (1, 2, 3)]
    tiers = {"resolution": [{"up_to": 1, "price": "1.00"}, {"price": "0.5"}]}
    back = taken_back("c1", "11-20T00:00:00")

    assert short(stated("2026-10", *units, back, tiers=tiers, price={})) == [
        "metered 2 at 0.5 1.00",
        "metered 1 at 1 1.00",
        "total 2.00",
    ]
    assert short(stated("2026-11", *units, back, tiers=tiers, price={}))[0] == (
        "adjusted 2026-10 -1 at 0.5 -0.50"
    )


def test_a_unit_over_the_cap_moves_up_when_another_is_taken_back() -> None:
    units = [unit(f"c{n}", f"10-0{n}T00:00:00") for n in (1, 2, 3, 4, 5)]
    back = taken_back("c1", "11-20T00:00:00")
    cap = {"units": 3, "action": "stop"}

    october = stated("2026-10", *units, back, cap=cap)
    assert short(october) == ["metered 3 at 0.99 2.97", "total 2.97"]
    assert october["units"]["over_cap"] == 2
    assert short(stated("2026-11", *units, back, cap=cap)) == ["total 0.00"]


def test_a_unit_moves_into_the_pack_that_another_period_freed() -> None:
    october = [unit(name, f"10-0{n}T00:00:00") for n, name in enumerate("abc", 1)]
    records = [*october, unit("d", "11-04T00:00:00"), taken_back("a", "12-05T00:00:00")]
    pack = {
        "kind": "pack",
        "id": "2026",
        "outcomes": ["resolution"],
        "units": 2,
        "price": "1.00",
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2027-01-01T00:00:00Z",
        "created_at": "2026-01-01T00:00:00Z",
    }

    assert short(stated("2026-10", *records, grants=(pack,))) == [
        "metered 1 at 0.99 0.99",
        "total 0.99",
    ]
    assert short(stated("2026-11", *records, grants=(pack,))) == [
        "metered 1 at 0.99 0.99",
        "total 0.99",
    ]
    december = stated("2026-12", *records, grants=(pack,))
    assert short(december) == [
        "adjusted 2026-10 -1 at 0.99 -0.99",
        "carried_forward 0.99",
        "total 0.00",
    ]
    assert december["closing"]["packs"] == {"2026": 0}


def test_a_unit_that_is_stored_after_the_close_is_on_the_next_statement() -> None:
    late = unit("a", "10-31T12:00:00", stored="11-03T00:00:00")

    assert short(stated("2026-10", late)) == ["total 0.00"]
    november = stated("2026-11", late)
    assert short(november) == ["adjusted 2026-10 1 at 0.99 0.99", "total 0.99"]
    assert november["units"] == {**dict.fromkeys(["known", *STATES], 0), "late": 1, "unmatched": 0}


def test_a_cap_of_money_holds_for_lines_that_round_up() -> None:
    units = [unit("a", "10-01T00:00:00"), unit("b", "10-02T00:00:00", "handoff")]
    price = {"resolution": "0.005", "handoff": "0.005"}
    cap = {"amount": "0.01", "action": "stop"}

    october = stated("2026-10", *units, price=price, cap=cap)

    assert short(october) == ["metered 1 at 0.005 0.01", "total 0.01"]
    assert october["units"]["over_cap"] == 1


def test_an_earlier_period_that_is_open_is_stated_first() -> None:
    records = [
        unit("a", "09-10T00:00:00"),
        taken_back("a", "10-10T00:00:00"),
        unit("b", "11-01T00:05:00"),
    ]
    as_of = "2026-11-01T00:20:00Z"

    october = stated("2026-10", *records, as_of=as_of)
    assert short(october) == [
        "adjusted 2026-09 -1 at 0.99 -0.99",
        "carried_forward 0.99",
        "total 0.00",
    ]
    assert october["state"] == "open"
    assert short(stated("2026-11", *records, as_of=as_of)) == [
        "carried -0.99",
        "metered 1 at 0.99 0.99",
        "total 0.00",
    ]


def test_what_is_taken_back_first_goes_back_to_the_credit_that_paid() -> None:
    october = [unit(f"c{n}", f"10-0{n}T00:00:00") for n in range(1, 6)]
    back = [taken_back(f"c{n}", f"11-1{n}T00:00:00") for n in range(1, 6)]
    credit = {
        "kind": "credit",
        "id": "g",
        "amount": "4.95",
        "source": "goodwill",
        "starts_at": "2026-01-01T00:00:00Z",
        "created_at": "2026-01-01T00:00:00Z",
    }

    assert short(stated("2026-10", *october, *back, grants=(credit,))) == [
        "metered 5 at 0.99 4.95",
        "credit -4.95",
        "total 0.00",
    ]
    november = stated("2026-11", *october, *back, grants=(credit,))
    assert short(november) == [
        "adjusted 2026-10 -5 at 0.99 -4.95",
        "credit 4.95",
        "total 0.00",
    ]
    assert november["closing"] == {"carried": "0.00", "packs": {}, "credits": {"g": "4.95"}}


def test_a_reversal_under_a_cap_can_raise_a_bill() -> None:
    records = [
        unit("a", "10-01T00:00:00"),
        unit("b", "10-02T00:00:00", "sale"),
        taken_back("a", "11-05T00:00:00"),
    ]
    cap = {"units": 1, "action": "stop"}

    assert short(stated("2026-10", *records, cap=cap)) == ["metered 1 at 0.99 0.99", "total 0.99"]
    assert short(stated("2026-11", *records, cap=cap)) == [
        "adjusted 2026-10 -1 at 0.99 -0.99",
        "adjusted 2026-10 1 at 9.99 9.99",
        "total 9.00",
    ]
