"""Usage records are numbered in order, and a reversal names the charge that it reverses."""

import pytest

from pipeline.catalog.policies import preset
from pipeline.resolve.values import Charge, Transition
from pipeline.usage.emission import Emission
from pipeline.usage.record import UsageRecord

T0 = 1_777_885_200_000
FIN = preset("fin-2026")


def charge(outcome: str = "resolution", at: int = T0, version: int = 1) -> Transition:
    return Transition(at, outcome, 1, "assumed", "silence", ("m2",), "fin-2026", version)


def reversal(outcome: str = "resolution", at: int = T0 + 1) -> Transition:
    return Transition(at, outcome, -1, "assumed", "customer_returned", ("m3",), "other", 9)


@pytest.fixture
def emission() -> Emission:
    return Emission("acme", "c-1", [], 0)


def summary(records: list[UsageRecord]) -> list[tuple[str, str, int, str | None]]:
    return [(r.id, r.outcome, r.quantity, r.supersedes) for r in records]


def test_records_are_numbered_from_one_in_the_order_of_emission(emission: Emission) -> None:
    emission.emit(charge())
    emission.emit(reversal())
    emission.emit(charge())

    assert summary(emission.records) == [
        ("acme:c-1:1", "resolution", 1, None),
        ("acme:c-1:2", "resolution", -1, "acme:c-1:1"),
        ("acme:c-1:3", "resolution", 1, None),
    ]
    assert [each.n for each in emission.charges] == [3]
    assert emission.emitted == 3


def test_numbering_continues_after_the_records_emitted_before() -> None:
    emission = Emission("acme", "c-1", [], 7)

    emission.emit(charge())

    assert emission.records[0].id == "acme:c-1:8"


def test_a_reversal_takes_back_the_newest_charge_of_its_outcome(emission: Emission) -> None:
    for transition in (charge(), charge("qualification"), charge(), reversal()):
        emission.emit(transition)

    assert emission.records[-1].supersedes == "acme:c-1:3"
    assert [each.n for each in emission.charges] == [1, 2]


def test_a_reversal_carries_the_policy_of_the_charge(emission: Emission) -> None:
    emission.emit(charge(version=4))
    emission.emit(reversal())

    assert (emission.records[1].policy, emission.records[1].policy_version) == ("fin-2026", 4)


def test_a_correction_reverses_first_and_then_charges_in_the_order_of_precedence(
    emission: Emission,
) -> None:
    emission.emit(charge())
    decided = [charge("disqualification"), charge("qualification"), charge("procedure_handoff")]

    emission.correct(decided, None, "late", T0 + 5, FIN)

    assert [(r.outcome, r.quantity) for r in emission.records[1:]] == [
        ("resolution", -1),
        ("qualification", 1),
        ("procedure_handoff", 1),
        ("disqualification", 1),
    ]
    assert {(r.reason, r.evidence, r.occurred_at) for r in emission.records[1:]} == {
        ("late_event", ("late",), T0 + 5)
    }


def test_a_correction_emits_nothing_if_the_charges_match_the_decision(emission: Emission) -> None:
    emission.emit(charge())

    emission.correct([charge()], None, "late", T0 + 5, FIN)

    assert len(emission.records) == 1


def test_a_corrected_charge_has_the_kind_of_the_current_charge(
    emission: Emission,
) -> None:
    emission.correct([charge()], Charge("resolution", "confirmed", T0, "m2"), "late", T0 + 5, FIN)

    assert emission.records[0].kind == "confirmed"
