"""The ledger's deliveries compared with Stripe's own sums."""

import msgspec
import pytest

from pipeline.ledger.entries import DeliveredSum
from pipeline.sink.stripe.reconcile import reconcile

PLACE = ("cus_1", "resmeter_resolution")


def delivered(least: int, most: int, *tenant_ids: str) -> DeliveredSum:
    return DeliveredSum(
        customer=PLACE[0],
        event_name=PLACE[1],
        tenant_ids=tenant_ids or ("acme",),
        least=least,
        most=most,
    )


@pytest.mark.parametrize("units", [3, 4, 5])
def test_stripe_may_count_anything_from_what_is_certain_to_what_is_in_flight(units: int) -> None:
    assert list(reconcile([delivered(3, 5)], {PLACE: units})) == []


@pytest.mark.parametrize(
    ("units", "difference"),
    [(0, "3 missing at Stripe"), (2, "1 missing at Stripe"), (6, "1 billed too many")],
)
def test_a_difference_is_reported_with_both_sums(units: int, difference: str) -> None:
    (found,) = reconcile([delivered(3, 5)], {PLACE: units})

    assert (found.kind, found.tenant_id) == ("at_stripe", "acme")
    assert found.detail == (
        f"resmeter_resolution of cus_1: Stripe counts {units} units, the ledger has delivered "
        f"3 to 5: {difference}"
    )


def test_a_missing_sum_is_zero() -> None:
    (found,) = reconcile([delivered(2, 2)], {})

    assert found.detail.endswith(
        "Stripe counts 0 units, the ledger has delivered 2: 2 missing at Stripe"
    )


def test_rejected_usage_is_reported_though_the_sums_agree() -> None:
    known = msgspec.structs.replace(delivered(2, 2), rejected=5)

    (found,) = reconcile([known], {PLACE: 2})

    assert (found.kind, found.tenant_id) == ("refused", "acme")
    assert "Stripe has rejected 5 units" in found.detail


def test_units_that_the_ledger_never_sent_are_reported() -> None:
    (found,) = reconcile([], {PLACE: 7, ("cus_2", "resmeter_resolution"): 0})

    assert found.detail.endswith("Stripe counts 7 units, the ledger sent none")


def test_a_sum_of_several_tenants_names_no_tenant() -> None:
    (found,) = reconcile([delivered(2, 2, "acme", "bluejay")], {PLACE: 3})

    assert found.tenant_id == ""
