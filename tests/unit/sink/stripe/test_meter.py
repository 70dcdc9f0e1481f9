"""The body of a call to Stripe never changes between attempts, and neither does its digest."""

from typing import Any

from pipeline.ledger.entries import MeterEvent
from pipeline.sink.stripe.meter import body, body_sha256


def event(**changes: Any) -> MeterEvent:
    fields: dict[str, Any] = {
        "identifier": "rm_1",
        "tenant_id": "acme",
        "customer": "cus_1",
        "outcome": "resolution",
        "event_name": "m",
        "hour": 0,
        "value": 1,
        "timestamp": 5,
        "body_sha256": "",
    }
    return MeterEvent(**fields | changes)


def test_values_are_sent_as_digits() -> None:
    assert body(event(value=10**15))["payload"]["value"] == "1000000000000000"


def test_the_digest_of_a_body_is_that_of_earlier_versions() -> None:
    assert (
        body_sha256(event()) == "199c3b4b63041928dd4b2bd6d2c2984f92b1b023f1149fe464c8b1af7f95ee62"
    )


def test_the_digest_of_a_body_changes_with_every_part_of_it() -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"identifier": "rm_2"},
        {"customer": "cus_2"},
        {"event_name": "n"},
        {"value": 2},
        {"timestamp": 6},
    ]

    assert len({body_sha256(event(**part)) for part in parts}) == len(parts)
