"""What always holds for statements, whatever the contract, the grants and the order of arrival."""

from collections import Counter
from decimal import Decimal

from hypothesis import Phase, given, settings

from tests.oracle.accounts import Account, accounts
from tests.oracle.periods import milliseconds

LAST = "2026-09"  # in this period nothing happens any more
AFTER = milliseconds("2027-01-01T00:00:00Z")  # and it is closed
BILLED = {"metered", "adjusted", "minimum"}
NOTHING = Decimal(0)


def billed(account: Account) -> dict[tuple[str, str], Decimal]:
    """Return what all statements together say of each period, and of its minimum."""
    sums: Counter[tuple[str, str]] = Counter()
    for statement in account.statements(LAST, AFTER):
        for line in statement["lines"]:
            if line["kind"] in BILLED:
                of = line.get("period", statement["period"]), line.get("outcome", "")
                sums[of] += Decimal(line["amount"])  # type: ignore[assignment]
    return {of: Decimal(amount) for of, amount in sums.items() if amount}


@given(accounts(rejects=True))
def test_what_is_billed_does_not_depend_on_when_anything_arrived(account: Account) -> None:
    in_time = [
        {name: value for name, value in record.items() if name != "stored_at"}
        for record in account.records
    ]

    assert billed(account) == billed(account._replace(records=in_time))


@given(accounts(rejects=True))
def test_a_final_statement_never_changes(account: Account) -> None:
    period = account.periods_until(account.as_of)[-1].name

    now, later = account.statements(period, account.as_of), account.statements(period, AFTER)

    final = sum(statement["state"] == "final" for statement in now)
    assert now[:final] == later[:final]
    assert all(statement["state"] == "open" for statement in now[final:])


@given(accounts(rejects=True))
def test_nothing_is_below_zero_and_every_unit_is_in_one_state(account: Account) -> None:
    for statement in account.statements(LAST, AFTER):
        units, closing, lines = statement["units"], statement["closing"], statement["lines"]
        assert sum((Decimal(line["amount"]) for line in lines), NOTHING) == Decimal(
            statement["total"]
        )
        assert Decimal(statement["total"]) >= 0
        assert all(left >= 0 for left in closing["packs"].values())
        assert all(Decimal(left) >= 0 for left in closing["credits"].values())
        assert (
            units["known"]
            == len(statement["each"])
            == sum(
                units.get(state, 0)
                for state in (
                    *("taken_back", "included", "pack", "metered", "over_cap", "unpriced"),
                )
            )
        )


@given(accounts(rejects=True))
def test_no_period_is_ever_billed_beyond_a_cap_that_stops(account: Account) -> None:
    stops = {
        period.name: Decimal(period.terms["cap"]["amount"])
        for period in account.periods_until(AFTER)
        if period.terms.get("cap", {}).get("action") == "stop" and "amount" in period.terms["cap"]
    }
    stated: Counter[str] = Counter()

    for statement in account.statements(LAST, AFTER):
        for line in statement["lines"]:
            if line["kind"] in {"metered", "adjusted"}:
                amount = Decimal(line["amount"])
                stated[line.get("period", statement["period"])] += amount  # type: ignore[assignment]
        assert all(stated[name] <= cap for name, cap in stops.items())


def lines_of(account: Account) -> set[str]:
    """Return the kinds of lines that the statements have, with their signs."""
    return {
        f"{line['kind']} {'-' if line['amount'].startswith('-') else '+'}{' of' * ('period' in line)}"
        for statement in account.statements(LAST, AFTER)
        for line in statement["lines"]
    }


def test_accounts_are_drawn_in_which_everything_happens() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=200, phases=[Phase.generate], database=None, derandomize=True)
    @given(accounts())
    def count_cases(account: Account) -> None:
        told = lines_of(account)
        for statement in account.statements(LAST, AFTER):
            told |= {name for name, units in statement["units"].items() if units}
        told |= {grant["kind"] for grant in account.grants}
        told |= {f"{len(account.versions)} versions"}
        seen.update(told)

    @settings(max_examples=200, phases=[Phase.generate], database=None, derandomize=True)
    @given(accounts(rejects=True))
    def count_rejections(account: Account) -> None:
        seen.update(lines_of(account))

    count_cases()
    count_rejections()
    expected = {
        *("metered +", "minimum +", "minimum + of", "minimum - of", "adjusted + of"),
        *("adjusted - of", "credit +", "credit -", "carried -", "carried_forward +"),
        *("waived + of", "credit_note +"),
        *(
            "included",
            "pack",
            "over_cap",
            "late",
            "unmatched",
            "unpriced",
            "void",
            "1 versions",
            "2 versions",
        ),
    }
    assert not {name for name in expected if not seen[name]}


@given(accounts(rejects=True))
def test_what_is_rejected_costs_nothing_and_never_comes_back(account: Account) -> None:
    for statement in account.statements(LAST, AFTER):
        rejected = {of for by, of in account.rejected if by == statement["period"]}
        sums: Counter[str] = Counter()
        for line in statement["lines"]:
            if line.get("period") in rejected:
                sums[line["period"]] += Decimal(line["amount"])  # type: ignore[assignment]
        assert not any(sums.values())
