"""Reconciling compares the ledger's deliveries with Stripe's own sums."""

import msgspec
import pytest

from pipeline.ledger.entries import DeliveredSum
from pipeline.sink.stripe.reconcile import reconcile

METER = ("cus_1", "resmeter_resolution")


def delivered(least: int, most: int, *tenant_ids: str) -> DeliveredSum:
    return DeliveredSum(
        customer=METER[0],
        event_name=METER[1],
        tenant_ids=tenant_ids or ("acme",),
        least=least,
        most=most,
    )


@pytest.mark.parametrize("units", [3, 4, 5])
def test_stripe_may_or_may_not_count_units_in_flight(units: int) -> None:
    assert list(reconcile([delivered(3, 5)], {METER: units})) == []


@pytest.mark.parametrize(
    ("units", "difference"),
    [(0, "3 missing at Stripe"), (2, "1 missing at Stripe"), (6, "1 too many at Stripe")],
)
def test_a_difference_is_reported_with_both_sums(units: int, difference: str) -> None:
    (finding,) = reconcile([delivered(3, 5)], {METER: units})

    assert (finding.kind, finding.tenant_id) == ("at_stripe", "acme")
    assert finding.detail == (
        f"resmeter_resolution of cus_1: Stripe counts {units} units, the ledger has delivered "
        f"3 to 5: {difference}"
    )


def test_a_missing_sum_is_zero() -> None:
    (finding,) = reconcile([delivered(2, 2)], {})

    assert finding.detail.endswith(
        "Stripe counts 0 units, the ledger has delivered 2: 2 missing at Stripe"
    )


def test_rejected_usage_is_reported_even_if_the_sums_agree() -> None:
    known = msgspec.structs.replace(delivered(2, 2), rejected=5)

    (finding,) = reconcile([known], {METER: 2})

    assert (finding.kind, finding.tenant_id) == ("refused", "acme")
    assert "Stripe has rejected 5 units" in finding.detail


def test_units_that_the_ledger_never_sent_are_reported() -> None:
    (finding,) = reconcile([], {METER: 7, ("cus_2", "resmeter_resolution"): 0})

    assert finding.detail.endswith("Stripe counts 7 units, the ledger has delivered none")


def test_a_finding_about_several_tenants_names_no_tenant() -> None:
    (finding,) = reconcile([delivered(2, 2, "acme", "bluejay")], {METER: 3})

    assert finding.tenant_id == ""
