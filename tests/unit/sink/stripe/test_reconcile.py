"""What the ledger delivered, held against Stripe's own sums."""

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
def test_stripe_may_have_anything_from_what_is_certain_to_what_is_on_its_way(units: int) -> None:
    assert list(reconcile([delivered(3, 5)], {PLACE: units})) == []


@pytest.mark.parametrize("units", [0, 2, 6])
def test_less_and_more_are_named_with_both_sums(units: int) -> None:
    (found,) = reconcile([delivered(3, 5)], {PLACE: units})

    assert (found.kind, found.tenant_id) == ("at_stripe", "acme")
    assert found.detail == (
        f"resmeter_resolution of cus_1: Stripe has {units}, the ledger has delivered 3 to 5"
    )


def test_a_meter_that_stripe_does_not_have_has_nothing() -> None:
    (found,) = reconcile([delivered(2, 2)], {})

    assert found.detail.endswith("Stripe has 0, the ledger has delivered 2")


def test_what_stripe_has_refused_is_named_though_the_sums_agree() -> None:
    known = msgspec.structs.replace(delivered(2, 2), refused=5)

    (found,) = reconcile([known], {PLACE: 2})

    assert (found.kind, found.tenant_id) == ("refused", "acme")
    assert "Stripe has refused 5 units" in found.detail


def test_what_stripe_has_and_the_ledger_never_sent_is_named() -> None:
    (found,) = reconcile([], {PLACE: 7, ("cus_2", "resmeter_resolution"): 0})

    assert found.detail.endswith("Stripe has 7, the ledger has delivered nothing")


def test_a_sum_of_several_tenants_is_no_single_ones() -> None:
    (found,) = reconcile([delivered(2, 2, "acme", "bluejay")], {PLACE: 3})

    assert found.tenant_id == ""
