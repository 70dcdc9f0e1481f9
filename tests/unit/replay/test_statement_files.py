"""Statements from files: the worked cases, what is refused, and what has no price."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.billing.run import Stated
from pipeline.billing.statement import statement_object, unit_object
from pipeline.catalog.tenants import load_tenants
from pipeline.errors import ConfigurationError
from pipeline.events.times import format_time, parse_time
from pipeline.replay.statement_files import StatementFiles, state_files

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "cases" / "money.ndjson").read_bytes().splitlines()
]
AS_OF = "2027-03-01T00:00:00Z"
CLOSE_AFTER_MS = 45 * 60_000
# `+a*3 TIME stored TIME of OUTCOME` charges a1 to a3, a second apart; `-a TIME` takes a back.
_RECORD = re.compile(r"([+-])(\w+)(?:\*(\d+))? (\S+)(?: stored (\S+))?(?: of (\w+))?")


def record_lines(texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the usage records that the texts of a case stand for."""
    outcomes: dict[str, str] = {}
    for text in texts:
        match = _RECORD.fullmatch(text)
        assert match is not None, text
        sign, name, count, at, stored, outcome = match.groups()
        for number in range(int(count or 1)):
            charge = f"{name}{number + 1}" if count else name
            outcomes.setdefault(charge, outcome or "resolution")
            line = {
                "id": charge if sign == "+" else f"{charge}-",
                "tenantid": "acme",
                "conversation": "c",
                "outcome": outcomes[charge],
                "quantity": int(f"{sign}1"),
                "kind": "assumed",
                "reason": "silence",
                "occurred_at": format_time(parse_time(at) + number * 1000),
                "policy": "fin-2026",
                "policy_version": 1,
                "evidence": ["m1"],
                "supersedes": None if sign == "+" else charge,
            }
            yield line | ({} if stored is None else {"stored_at": stored})


def labelled(name: str, lines: Sequence[Any]) -> list[tuple[str, bytes]]:
    return [(f"{name}: line {n}", json.dumps(each).encode()) for n, each in enumerate(lines, 1)]


def state(
    *records: str | dict[str, Any],
    contract: str = "",
    grants: Sequence[Any] = (),
    period: str = "2026-10",
    as_of: str = AS_OF,
    account: str | None = None,
) -> Stated:
    lines = [
        line
        for each in records
        for line in (record_lines([each]) if isinstance(each, str) else [each])
    ]
    files = StatementFiles(
        labelled("usage", lines), {"acme.toml": contract}, labelled("grants", grants), account
    )
    return state_files(files, period, parse_time(as_of), CLOSE_AFTER_MS, load_tenants(None))


def problems(*records: str | dict[str, Any], **given: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        state(*records, **given)
    return refused.value.problems


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    for period, expected in case["expect"].items():
        stated = state(
            *record_lines(case["records"]),
            contract=case["contract"],
            grants=case["grants"],
            period=period,
            as_of=case["as_of"],
        )

        found = statement_object(stated.account, stated.statement)
        assert (found["lines"], found["total"]) == (expected["lines"], expected["total"]), period


def test_the_object_has_the_members_of_the_reference_in_their_order() -> None:
    stated = state(
        "+a*2 2026-10-01T00:00:00Z",
        "+b 2026-09-30T00:00:00Z stored 2026-10-05T00:00:00Z",
        "-x 2026-10-07T00:00:00Z",
        contract='price.resolution = "0.990"\nincluded.resolution = 1\n',
        grants=[
            {"kind": "credit", "id": "b", "amount": "5.00", "created_at": "2026-10-01T00:00:00Z"}
        ],
    )

    assert json.dumps(
        statement_object(stated.account, stated.statement), separators=(",", ":")
    ) == (
        '{"account":"acme","period":"2026-10-01","state":"final","currency":"usd",'
        '"units":{"known":2,"taken_back":0,"included":1,"pack":0,"metered":1,"over_cap":0,'
        '"late":1,"unmatched":1},'
        '"lines":[{"kind":"metered","outcome":"resolution","quantity":1,"price":"0.99",'
        '"amount":"0.99"},{"kind":"credit","grant":"b","amount":"-0.99"}],'
        '"subtotal":"0.99","total":"0.00",'
        '"closing":{"carried":"0.00","packs":{},"credits":{"b":"4.01"}}}'
    )


def test_a_unit_says_which_later_statement_changed_its_charge() -> None:
    records = ("+a*2 2026-10-01T00:00:00Z", "-a1 2026-11-09T00:00:00Z")

    october = [unit_object(unit) for unit in state(*records).units]
    november = [unit_object(unit) for unit in state(*records, period="2026-11").units]

    unit = {"period": "2026-10-01", "grant": None}
    assert october == [
        {"id": "a1", **unit, "state": "metered", "price": "0.99", "adjusted": "2026-11-01"},
        {"id": "a2", **unit, "state": "metered", "price": "0.99", "adjusted": None},
    ]
    assert november == [
        {"id": "a1", **unit, "state": "taken_back", "price": None, "adjusted": "2026-11-01"}
    ]


def test_a_unit_without_a_price_is_visible_and_not_billed() -> None:
    stated = state("+a*2 2026-10-01T00:00:00Z of refund", "+b 2026-10-01T00:00:00Z")

    assert stated.statement.counts.unpriced == 2
    assert stated.statement.total == 99
    assert stated.missing == (
        (
            "2 units of outcome 'refund' have no price in usd (policy 'fin-2026', version 1) and are "
            "not billed: write price.refund in the contract, or set RESMETER_CONFIG to the tenant file "
            "with that policy"
        ),
    )


def test_a_price_in_another_currency_is_no_price() -> None:
    stated = state("+a 2026-10-01T00:00:00Z", contract='currency = "eur"')

    assert (stated.statement.counts.unpriced, stated.statement.total) == (1, 0)


def test_the_same_record_twice_counts_once() -> None:
    stated = state("+a 2026-10-01T00:00:00Z", "+a 2026-10-01T00:00:00Z")

    assert stated.statement.counts.known == 1


def test_the_same_record_with_its_time_in_another_form_counts_once() -> None:
    (line,) = record_lines(["+a 2026-10-05T00:00:00.000Z"])
    same = line | {"occurred_at": "2026-10-05T02:00:00+02:00", "stored_at": 1_791_158_400_000}

    assert state(line, same).statement.counts.known == 1


def test_a_line_that_is_nested_too_deeply_is_named() -> None:
    nested = b'{"a":' * 100_000

    files = StatementFiles([("usage: line 1", nested)], {}, [("grants: line 1", nested)])
    with pytest.raises(ConfigurationError) as refused:
        state_files(files, "2026-10", parse_time(AS_OF), CLOSE_AFTER_MS, load_tenants(None))

    assert refused.value.problems == (
        "usage: line 1: is not a usage record: it is nested too deeply",
        "grants: line 1: is not a grant: it is nested too deeply",
    )


def test_all_problems_of_all_files_are_named() -> None:
    pack = {"kind": "pack", "id": "p", "outcomes": ["resolution"], "units": 3}
    created = {"created_at": "2026-10-01T00:00:00Z"}

    found = problems(
        "+a 2026-10-01T00:00:00Z",
        "+a 2026-10-02T00:00:00Z",
        {"id": "b"},
        "-c 2026-10-03T00:00:00Z",
        {**next(record_lines(["-c 2026-10-03T00:00:00Z"])), "id": "d"},
        grants=[
            pack | created | {"account": "other"},
            pack | created | {"units": 0},
            pack | created,
            pack | created,
            {"kind": "credit", "id": "x", "amount": "5.005", **created},
            {"kind": "void", "grant": "q", "takes": 1, **created},
        ],
        contract='account = "acme"',
    )

    assert found == (
        "usage: line 3: is not a usage record: tenantid: is missing",
        "usage: line 2: 'a' is in usage: line 1 with other content",
        "usage: line 5: 'c' is taken back already, by usage: line 4",
        "grants: line 1: account is 'other'; the statement is of 'acme'",
        "grants: line 2: units: is 0; it must be a whole number from 1 to 1000000000",
        "grants: line 5: amount: 5.005 has more digits than an amount in usd, such as 5.01",
        "grants: line 4: id 'p' is that of another grant of the account",
        "grants: line 6: no grant 'q' was created before this void",
    )


def test_a_void_that_takes_more_than_is_left_is_refused() -> None:
    pack = {"kind": "pack", "id": "p", "outcomes": ["resolution"], "units": 3}
    void = {"kind": "void", "grant": "p", "created_at": "2026-10-09T00:00:00Z"}
    credit = {"kind": "credit", "id": "c", "amount": "5.00", "created_at": "2026-10-01T00:00:00Z"}
    grants = [pack | {"created_at": "2026-10-01T00:00:00Z"}, credit]

    found = problems(
        "+a*2 2026-10-01T00:00:00Z",
        "+b*3 2026-10-01T00:00:00Z of qualification",
        grants=[*grants, void | {"takes": 2}, void | {"grant": "c", "takes": "0.01"}],
    )

    assert found == (
        "void of 'c': takes 0.01, more than was left when it entered: 0.00",
        "void of 'p': takes 2, more than was left when it entered: 1",
    )


def test_a_credit_note_over_more_than_is_carried_is_refused() -> None:
    note = {
        "kind": "credit_note",
        "id": "n",
        "amount": "0.99",
        "invoice": "in_1",
        "of_period": "2026-09-01T00:00:00Z",
        "created_at": "2026-10-02T00:00:00Z",
    }

    found = problems("+a 2026-10-01T00:00:00Z", grants=[note])
    incomplete = problems("+a 2026-10-01T00:00:00Z", grants=[{**note, "of_period": None}])

    assert found == ("credit note 'n': gives back 0.99, and final statements carry 0.00",)
    assert incomplete == ("grants: line 1: of_period: is missing",)


def test_a_period_that_does_not_begin_then_is_refused() -> None:
    assert problems("+a 2026-10-01T00:00:00Z", period="2026-10-02") == (
        "--period 2026-10-02: no period begins then; the nearest begin on 2026-10-01 and 2026-11-01",
    )


def test_a_period_before_the_first_unit_has_an_empty_statement() -> None:
    stated = state("+a 2026-11-03T00:00:00Z", period="2026-10")

    assert statement_object("acme", stated.statement)["lines"] == []
    assert stated.statement.is_final


def test_a_grant_may_be_void_before_the_contract_begins() -> None:
    pack = {
        "kind": "pack",
        "id": "2026",
        "outcomes": ["resolution"],
        "units": 5,
        "starts_at": "2026-01-01T00:00:00Z",
        "created_at": "2026-01-01T00:00:00Z",
    }
    void = {"kind": "void", "grant": "2026", "takes": 5, "created_at": "2026-01-02T00:00:00Z"}

    stated = state(
        "+a 2026-10-03T00:00:00Z",
        contract='effective_from = 2026-09-01T00:00:00Z\nprice.resolution = "0.99"\n',
        grants=[pack, void],
    )

    assert statement_object("acme", stated.statement)["total"] == "0.99"


def test_records_of_several_tenants_need_the_name_of_the_account() -> None:
    charges = [
        line | {"id": f"{tenant}{n}", "tenantid": tenant}
        for n, tenant in enumerate(("acme", "bluejay"))
        for line in record_lines(["+a 2026-10-01T00:00:00Z"])
    ]

    (problem,) = problems(*charges)
    named = state(*charges, account="group")

    assert problem.startswith(
        "the records are of 2 tenants, such as acme and bluejay: name the ACC"
    )
    assert (named.account, statement_object("group", named.statement)["total"]) == ("group", "1.98")


@pytest.mark.parametrize("account", [None, "acme"])
def test_a_contract_of_another_account_is_refused(account: str | None) -> None:
    versions = """
    [[versions]]
    account = "acme"
    [[versions]]
    account = "bluejay"
    effective_from = 2026-11-01T00:00:00Z
    """

    assert problems("+a 2026-10-01T00:00:00Z", contract=versions, account=account) == (
        "acme.toml: versions[2]: account: is 'bluejay'; the statement is of 'acme'",
    )


def test_a_misspelt_outcome_is_doubted() -> None:
    pack = {
        "kind": "pack",
        "id": "p",
        "outcomes": ["qualificaton"],
        "units": 1,
        "created_at": "2026-10-01T00:00:00Z",
    }

    stated = state(
        "+a 2026-10-01T00:00:00Z",
        contract="included = { resolutions = 5, of_our_own = 1 }",
        grants=[pack],
    )

    assert stated.doubts == (
        "no record has the outcome 'qualificaton' of contract or grants; did you mean 'qualification'?",
        "no record has the outcome 'resolutions' of contract or grants; did you mean 'resolution'?",
    )


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ({"source": "gift"}, "source: it must be one of reallocated, goodwill, correction"),
        ({"amount": 5.5}, "amount: is a decimal number; it must be a string"),
        ({"outcomes": [1]}, "outcomes: is a whole number; it must be a string"),
        ({"start_at": "2026-12-01T00:00:00Z"}, "start_at: is unknown; did you mean 'starts_at'?"),
        (
            {"starts_at": "2026-12-01"},
            "starts_at: '2026-12-01' is not an RFC 3339 time such as 2026-05-04T09:00:00.000Z",
        ),
    ],
)
def test_a_wrong_member_of_a_grant_is_named(member: dict[str, Any], problem: str) -> None:
    credit = {"kind": "credit", "id": "c", "amount": "5.00", "created_at": "2026-10-01T00:00:00Z"}

    found = problems("+a 2026-10-01T00:00:00Z", grants=[credit | member])

    assert found == (f"grants: line 1: is not a grant: {problem}",)


def test_a_grant_may_have_members_of_its_own() -> None:
    credit = {"kind": "credit", "id": "c", "amount": "5.00", "created_at": "2026-10-01T00:00:00Z"}

    stated = state("+a 2026-10-01T00:00:00Z", grants=[credit | {"reason": "sorry", "note": "x"}])

    assert statement_object("acme", stated.statement)["total"] == "0.00"


def test_times_may_be_milliseconds() -> None:
    (text,) = record_lines(["+a 2026-11-05T09:00:00Z stored 2026-11-06T00:00:00Z"])
    number = text | {key: parse_time(text[key]) for key in ("occurred_at", "stored_at")}

    assert state(number) == state(text)
    with pytest.raises(ConfigurationError, match="stored_at: the time -1 is not in milliseconds"):
        state(text | {"stored_at": -1})
