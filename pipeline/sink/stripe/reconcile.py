"""This file holds what the ledger delivered against Stripe's own sums. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from pipeline.ledger.entries import DeliveredSum
from pipeline.ledger.findings import Finding


def reconcile(
    delivered: Iterable[DeliveredSum], at_stripe: Mapping[tuple[str, str], int]
) -> Iterator[Finding]:
    """Yield where Stripe has less or more than it can have.

    Args:
        delivered: what the ledger says, by customer and meter.
        at_stripe: what Stripe says; one that is missing has nothing. It may name customers that the
            ledger has never delivered to.
    """
    left = dict(at_stripe)
    for known in delivered:
        units = left.pop((known.customer, known.event_name), 0)
        if not known.least <= units <= known.most:
            expected = str(known.most)
            if known.least != known.most:
                expected = f"{known.least} to {known.most}"
            yield _finding(known.customer, known.event_name, units, expected, known.tenant_ids)
        if known.refused:
            detail = (
                f"{known.event_name} of {known.customer}: Stripe has refused {known.refused} units; "
                "`resmeter explain` shows its answer"
            )
            yield Finding("refused", _whose(known.tenant_ids), "", detail)
    for (customer, event_name), units in sorted(left.items()):
        if units:
            yield _finding(customer, event_name, units, "nothing", ())


def _finding(
    customer: str, event_name: str, units: int, expected: str, tenant_ids: tuple[str, ...]
) -> Finding:
    detail = f"{event_name} of {customer}: Stripe has {units}, the ledger has delivered {expected}"
    return Finding("at_stripe", _whose(tenant_ids), "", detail)


def _whose(tenant_ids: tuple[str, ...]) -> str:
    return tenant_ids[0] if len(tenant_ids) == 1 else ""
