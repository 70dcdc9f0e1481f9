"""The receipt of a conversation: what was charged, why, and how it reached Stripe."""

from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest

from pipeline.billing.ladder import ChargeRung, ReversalRung
from pipeline.catalog.entry import Amendment
from pipeline.catalog.policies import preset
from pipeline.catalog.value import DatedAmendment
from pipeline.events.model import Cause
from pipeline.events.times import parse_time
from pipeline.ledger.entries import Attempt, MeterEvent, Receipt, Result, State
from pipeline.ledger.receipt import Explanation, Kept, Way, explain
from pipeline.ledger.receipt_text import render
from pipeline.metrics import TRANSITION_REASONS
from pipeline.usage.record import Origin, UsageRecord

CHARGED_AT = parse_time("2026-05-05T09:01:00.000Z")
RETURNED_AT = parse_time("2026-05-06T10:00:00.000Z")
SENT_AT = parse_time("2026-05-05T09:12:00.000Z")


class Prices:
    """The prices of some versions of policies; other versions have none."""

    def __init__(self, prices: dict[tuple[str, int], str] | None = None) -> None:
        self._prices = {("fin-2026", 1): "0.99"} if prices is None else prices

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None:
        price = self._prices.get((policy, version))
        return None if price is None else (Decimal(price), "usd")


def receipt(n: int = 1, *, offset: int = 7, **changes: Any) -> Receipt:
    """A charge for silence, with changes to the record or the receipt."""
    fields: dict[str, Any] = {
        "id": f"acme:c-1042:{n}",
        "tenant_id": "acme",
        "conversation": "c-1042",
        "outcome": "resolution",
        "quantity": 1,
        "kind": "assumed",
        "reason": "silence",
        "occurred_at": CHARGED_AT,
        "policy": "fin-2026",
        "policy_version": 1,
        "evidence": ("m2",),
        "supersedes": None,
    }
    around: dict[str, Any] = {
        "topic": "usage.records",
        "partition": 2,
        "offset": offset,
        "origin": Origin("conversation.events", 3, (90211,)),
        "meter_event": None,
        "attempts": (),
        "superseded_policy": None,
    }
    fields |= {name: changes[name] for name in changes if name in fields}
    around |= {name: changes[name] for name in changes if name in around}
    assert not set(changes) - set(fields) - set(around)
    return Receipt(record=msgspec.convert(fields, UsageRecord), **around)


def reversal(n: int = 2, **changes: Any) -> Receipt:
    return receipt(
        n,
        **{
            "quantity": -1,
            "reason": "customer_returned",
            "occurred_at": RETURNED_AT,
            "evidence": ("m3",),
            "origin": Origin("conversation.events", 3, (90300,)),
            "supersedes": "acme:c-1042:1",
            "superseded_policy": ("fin-2026", 1),
            **changes,
        },
    )


def meter_event(state: State = "delivered", value: int = 12) -> MeterEvent:
    return MeterEvent(
        identifier="rm-1",
        tenant_id="acme",
        customer="cus_acme",
        outcome="resolution",
        event_name="resmeter_resolution",
        hour=parse_time("2026-05-05T09:00:00Z") // 3_600_000,
        value=value,
        timestamp=CHARGED_AT // 1000,
        body_sha256="",
        state=state,
    )


def attempt(result: Result, status: int | None = None, *, after_ms: int = 0) -> Attempt:
    return Attempt(
        at=SENT_AT + after_ms,
        answered_at=None if result == "unanswered" else SENT_AT + after_ms + 150,
        result=result,
        http_status=status,
        request_id="req_7" if status else None,
        detail=None if status == 200 else "connection reset",
    )


def rendered(*receipts: Receipt, prices: Prices | None = None) -> list[str]:
    return list(render(explain(receipts, prices or Prices())))


# --- rendering ------------------------------------------------------------------------------------


def test_an_unsent_charge_shows_its_evidence_and_that_it_waits() -> None:
    assert rendered(receipt()) == [
        "Conversation c-1042 of acme",
        "Billed in all: 1 resolution (0.99 usd)",
        "",
        "1. 2026-05-05T09:01:00.000Z  +1 resolution charged, 0.99 usd",
        (
            "   Why       The AI's answer stood, and the customer did not come back for help before "
            "the window of the policy ended (reason: silence; kind: assumed)."
        ),
        "   Policy    fin-2026, version 1",
        "   Evidence  event m2 (conversation.events, partition 3, offset 90211)",
        "   Record    acme:c-1042:1 (usage.records, partition 2, offset 7)",
        (
            "   Stripe    Not yet: it waits for the next flush, for the tenant's Stripe customer, or "
            "for usage that makes up for a negative sum."
        ),
    ]


def test_a_reversal_names_what_it_reverses_and_leaves_nothing_billed() -> None:
    lines = rendered(receipt(), reversal())

    assert lines[:2] == [
        "Conversation c-1042 of acme",
        "Billed in all: nothing: what was charged has been taken back (0.00 usd)",
    ]
    assert lines[10:16] == [
        "2. 2026-05-06T10:00:00.000Z  -1 resolution taken back, -0.99 usd",
        (
            "   Why       The customer came back for help, so the answer had not settled it "
            "(reason: customer_returned; kind: assumed)."
        ),
        "   Reverses  acme:c-1042:1",
        "   Policy    fin-2026, version 1",
        "   Evidence  event m3 (conversation.events, partition 3, offset 90300)",
        "   Record    acme:c-1042:2 (usage.records, partition 2, offset 7)",
    ]


def test_a_delivery_after_a_failed_call_lists_both_calls() -> None:
    lines = rendered(
        receipt(
            meter_event=meter_event(),
            attempts=(attempt("failed"), attempt("delivered", 200, after_ms=2000)),
        )
    )

    assert lines[8:] == [
        (
            "   Stripe    Meter event rm-1 was delivered to Stripe. It covers 12 units for cus_acme in "
            "resmeter_resolution, in the hour from 2026-05-05T09:00:00.000Z."
        ),
        (
            "             Call 1 at 2026-05-05T09:12:00.000Z: failed, the sink tries again "
            "(connection reset)"
        ),
        "             Call 2 at 2026-05-05T09:12:02.000Z: accepted (HTTP 200, request req_7)",
    ]


def test_a_planned_meter_event_lists_no_calls() -> None:
    lines = rendered(receipt(meter_event=meter_event("planned")))

    assert lines[8].startswith("   Stripe    Meter event rm-1 is planned, and not sent yet.")
    assert lines[9:] == []


def test_a_meter_event_of_one_unit_covers_1_unit() -> None:
    (line,) = rendered(receipt(meter_event=meter_event("planned", 1)))[8:]

    assert ". It covers 1 unit for cus_acme" in line


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_of_a_meter_event_has_words(state: State) -> None:
    (line,) = rendered(receipt(meter_event=meter_event(state)))[8:]

    assert line.startswith("   Stripe    Meter event rm-1 ")
    assert ". It covers 12 units for cus_acme" in line


@pytest.mark.parametrize("result", get_args(Result))
def test_every_result_of_a_call_has_words(result: Result) -> None:
    lines = rendered(receipt(meter_event=meter_event("sent"), attempts=(attempt(result, 500),)))

    assert lines[9].startswith("             Call 1 at 2026-05-05T09:12:00.000Z: ")
    assert lines[9].endswith(" (HTTP 500, request req_7, connection reset)")
    # More than the ledger's word.
    assert f": {result} (" not in lines[9]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (409, "throttled by Stripe and not counted, the sink tries again (HTTP 409, "),
        (429, "throttled by Stripe and not counted, the sink tries again (HTTP 429, "),
        (None, "Stripe could not be reached, the sink tries again (connection reset)"),
    ],
)
def test_a_refused_call_says_whether_stripe_throttled_it_or_was_not_reached(
    status: int | None, words: str
) -> None:
    lines = rendered(
        receipt(meter_event=meter_event("sent"), attempts=(attempt("refused", status),))
    )

    assert f"Call 1 at 2026-05-05T09:12:00.000Z: {words}" in lines[9]


@pytest.mark.parametrize("reason", sorted({*TRANSITION_REASONS, *get_args(Cause)}))
def test_every_reason_has_words(reason: str) -> None:
    line = explain([receipt(reason=reason)], Prices()).records[0]

    assert line.why != reason
    assert " " in line.why


def test_an_unknown_reason_is_rendered_as_it_is() -> None:
    lines = rendered(receipt(reason="full_moon"))

    assert lines[4] == "   Why       Full_moon (reason: full_moon; kind: assumed)."


def test_evidence_without_a_position_is_named_by_its_id() -> None:
    lines = rendered(receipt(origin=None, evidence=("m2", "m4")))

    assert lines[6] == "   Evidence  event m2; event m4"


def test_evidence_with_too_few_positions_is_named_by_its_id() -> None:
    lines = rendered(receipt(evidence=("m2", "m4")))  # the origin has one offset

    assert lines[6] == "   Evidence  event m2; event m4"


def test_a_charge_without_a_price_says_so() -> None:
    lines = rendered(receipt(), prices=Prices({}))

    assert lines[1] == "Billed in all: 1 resolution"
    assert lines[3].endswith("+1 resolution charged, no price")


# --- sums -----------------------------------------------------------------------------------------


def test_a_reversal_has_the_price_of_its_charge_not_of_the_new_version() -> None:
    prices = Prices({("fin-2026", 1): "0.99", ("fin-2026", 2): "1.50"})

    explanation = explain([receipt(), reversal(policy_version=2)], prices)

    assert [line.amount for line in explanation.records] == ["0.99", "-0.99"]
    assert explanation.amounts == {"usd": "0.00"}
    assert explanation.net == {}


def test_units_are_summed_by_outcome_and_money_over_all() -> None:
    explanation = explain(
        [
            receipt(1),
            receipt(2, outcome="procedure_handoff", kind="handoff", reason="procedure"),
            receipt(3, outcome="procedure_handoff", kind="handoff", reason="procedure"),
        ],
        Prices(),
    )

    assert explanation.net == {"procedure_handoff": 2, "resolution": 1}
    assert explanation.amounts == {"usd": "2.97"}
    assert (
        list(render(explanation))[1]
        == "Billed in all: 2 procedure handoff, 1 resolution (2.97 usd)"
    )


def test_amounts_are_exact() -> None:
    explanation = explain([receipt(n) for n in range(1, 11)], Prices({("fin-2026", 1): "0.1"}))

    assert explanation.amounts == {"usd": "1.0"}


def test_small_and_large_prices_are_written_without_an_exponent() -> None:
    prices = Prices({("fin-2026", 1): "1E-7", ("fin-2026", 2): "1E+3"})

    explanation = explain([receipt(), receipt(2, policy_version=2)], prices)

    assert [line.amount for line in explanation.records] == ["0.0000001", "1000"]


def test_the_receipt_survives_json() -> None:
    explanation = explain(
        [receipt(meter_event=meter_event(), attempts=(attempt("delivered", 200),)), reversal()],
        Prices(),
    )

    decoded = msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation)

    assert decoded == explanation
    assert [(line.id, line.supersedes) for line in decoded.records] == [
        ("acme:c-1042:1", None),
        ("acme:c-1042:2", "acme:c-1042:1"),
    ]
    assert decoded.records[0].delivery is not None
    assert decoded.records[0].delivery.attempts[0].answered_at == "2026-05-05T09:12:00.150Z"
    assert decoded.records[1].delivery is None


def test_correction_of_a_plan_under_another_policy_says_which_plan_who_and_why() -> None:
    made_ms = CHARGED_AT + 1
    from_ms = parse_time("2026-05-01T00:00:00Z")
    to_ms = parse_time("2026-06-01T00:00:00Z")
    amendment = Amendment(preset("gorgias"), from_ms, to_ms, None, "plan-1", made_ms)
    corrections = [receipt(), reversal(reason="rebill", occurred_at=made_ms)]

    charge, taken_back = explain(
        corrections, Prices(), [DatedAmendment(amendment, 7, "ada", "wrong contract")]
    ).records

    assert (charge.plan, taken_back.plan) == (None, "plan-1")
    assert taken_back.why.endswith(
        "from 2026-05-01T00:00:00Z to 2026-06-01T00:00:00Z it owes by gorgias, version 1, and no "
        "longer by what was in force (plan plan-1, entry 7 of the catalog, ada: wrong contract)"
    )


@pytest.mark.parametrize("way", [*get_args(ReversalRung), *get_args(ChargeRung), *get_args(Kept)])
def test_every_way_of_a_unit_that_is_not_sent_has_words(way: Way) -> None:
    lines = list(render(explain([receipt()], Prices(), (), {"acme:c-1042:1": way})))

    (line,) = (each for each in lines if each.startswith("   Stripe    Not yet: "))
    assert line.endswith(".")
