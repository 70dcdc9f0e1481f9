"""What an audit says about its comparison with Stripe."""

import pytest

from pipeline.cli.views.audit import print_scope
from pipeline.replay.audit import AuditResult, StripeComparison


@pytest.mark.parametrize(
    ("recent", "said"),
    [
        (0, ""),
        (145, "because the delivery is too recent: see --stripe-lag"),
    ],
)
def test_units_that_stripe_may_not_count_yet_are_said(
    recent: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = StripeComparison([], 32, 145, 0, 3600, recent)

    print_scope(AuditResult([], {}, 1, 0, dead_letters_are_whole=True, stripe=compared), "dlq")

    printed = " ".join(capsys.readouterr().err.split())
    assert printed.startswith("compared 32 Stripe totals with 145 delivered units, from ")
    assert printed.endswith(said)
    assert ("too recent" in printed) is bool(recent)
