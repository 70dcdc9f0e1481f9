"""An operator who decides about the meter events that wait."""

from pipeline.catalog.prices import Billing
from pipeline.dev.emulator.state import State
from pipeline.ledger import Ledger, decisions
from pipeline.ledger.entries import Action, Decision
from pipeline.sink.stripe.meter import body_sha256


def decide_about_waiting(ledger: Ledger, stripe: State, billing: Billing, now_ms: int) -> int:
    """Decide about all of them by what Stripe has counted; return how many there were.

    The operator first tries to release each without a look at Stripe. That must be refused where a
    call may have been counted.
    """
    events = stripe.meter_events.counted
    counted = {event.identifier for event in events if event.cancelled is None}
    found = decisions.waiting(ledger)
    for waiting in found:
        is_counted = waiting.event.identifier in counted
        choices: list[tuple[Action, bool]] = [
            ("release", False),
            ("settle" if is_counted else "release", True),
        ]
        for action, checked in choices:
            decision = Decision(
                action=action,
                at=now_ms,
                who="operator",
                reason="Stripe's sums",
                stripe_checked=checked,
            )
            decisions.decide(ledger, waiting, decision, billing, body_sha256, apply=True)
    return len(found)
