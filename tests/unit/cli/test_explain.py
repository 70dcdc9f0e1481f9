"""`resmeter explain`: the receipt of one conversation, from the ledger."""

import json
import subprocess
from collections.abc import Callable, Iterator

import msgspec
import pytest

from pipeline.ledger import Ledger, deliveries, leases, open_ledger, records, upgrade
from pipeline.ledger.entries import Conclusion, ConsumedRecord, Lease, Stored
from pipeline.ledger.receipt import Explanation
from pipeline.sink.grouping import Destination, freeze, group_records
from pipeline.sink.stripe.meter import body_sha256
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record
from tests.support.command import resmeter
from tests.support.journal import journalled

TOPIC = "usage.records"
T0 = 1_790_000_000_000

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ledger(resmeter_env: dict[str, str]) -> Iterator[Ledger]:
    upgrade(resmeter_env["RESMETER_LEDGER__URL"])
    opened = open_ledger(resmeter_env["RESMETER_LEDGER__URL"])
    yield opened
    opened.close()


@pytest.fixture
def explain(resmeter_env: dict[str, str]) -> Run:
    def run(*arguments: str, columns: int = 80) -> "subprocess.CompletedProcess[str]":
        ended = resmeter(
            *("explain", *arguments, "--ledger-only"),
            env={**resmeter_env, "COLUMNS": str(columns)},
        )
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


def record(conversation: str, n: int = 1, *, tenant_id: str = "acme") -> UsageRecord:
    """Return a charge for silence if n is 1, else the reversal of that charge."""
    fields = {
        "id": f"{tenant_id}:{conversation}:{n}",
        "tenant_id": tenant_id,
        "conversation": conversation,
        "outcome": "resolution",
        "quantity": 1 if n == 1 else -1,
        "kind": "assumed",
        "reason": "silence" if n == 1 else "customer_returned",
        "occurred_at": T0,
        "policy": "fin-2026",
        "policy_version": 1,
        "evidence": (f"m{n}",),
        "supersedes": None if n == 1 else f"{tenant_id}:{conversation}:1",
    }
    return msgspec.convert(fields, UsageRecord)


def stored(ledger: Ledger, *usage_records: UsageRecord) -> None:
    next_offset = records.offsets(ledger, TOPIC).get(0)
    origin = encode_origin(Origin("conversation.events", 3, (90211,)))
    consumed = [
        ConsumedRecord(0, offset, encode_record(usage_record), origin)
        for offset, usage_record in enumerate(usage_records, next_offset or 0)
    ]
    result = records.store(ledger, TOPIC, consumed, {0: next_offset}, T0)
    assert isinstance(result, Stored)
    assert (result.records, result.quarantined) == (len(usage_records), ())


def delivered_at_the_second_call(ledger: Ledger) -> None:
    grouping = group_records(deliveries.pending_records(ledger, "acme", "resolution", 1000))
    destination = Destination("acme", "resolution", "cus_1", "m")
    (planned,) = (freeze(group, destination, body_sha256) for group in grouping.groups)
    assert deliveries.store_planned(ledger, [planned], T0)
    journalled(ledger)
    conclusions = (
        Conclusion(result="failed", http_status=500, request_id="req_0", detail="no luck"),
        Conclusion(result="delivered", http_status=200, request_id="req_1"),
    )
    for number, conclusion in enumerate(conclusions):
        at = T0 + number * 60_000
        lease = leases.lease(
            ledger, planned.event, "a", at, until_ms=at + 30_000, remembered_from_ms=0
        )
        assert isinstance(lease, Lease)
        leases.conclude(ledger, lease, conclusion, at + 5)


def test_receipt_has_charge_reversal_and_every_call(ledger: Ledger, explain: Run) -> None:
    stored(ledger, record("c-1"))
    delivered_at_the_second_call(ledger)
    stored(ledger, record("c-1", 2))

    result = explain("acme", "c-1", columns=400)

    assert (result.returncode, result.stderr) == (0, "")
    text = result.stdout
    assert text.startswith(
        "Conversation c-1 of acme\n"
        "Billed in all: nothing: what was charged has been taken back (0.00 usd)\n\n1. "
    )
    assert " +1 resolution charged, 0.99 usd\n" in text
    assert " -1 resolution taken back, -0.99 usd\n" in text
    assert "   Reverses  acme:c-1:1\n" in text
    assert "   Evidence  event m1 (conversation.events, partition 3, offset 90211)\n" in text
    assert "   Record    acme:c-1:2 (usage.records, partition 0, offset 1)\n" in text
    assert ": failed, the sink tries again (HTTP 500, request req_0, no luck)\n" in text
    assert ": accepted (HTTP 200, request req_1)\n" in text
    assert "   Stripe    Not yet: " in text


def test_json_is_one_object_with_the_same_facts(ledger: Ledger, explain: Run) -> None:
    stored(ledger, record("c-1"))
    delivered_at_the_second_call(ledger)
    stored(ledger, record("c-1", 2))

    result = explain("acme", "c-1", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    explanation = msgspec.json.decode(result.stdout, type=Explanation)
    assert (explanation.net, explanation.amounts) == ({}, {"usd": "0.00"})
    charge, reversal = explanation.records
    assert (charge.quantity, charge.amount) == (1, "0.99")
    assert (reversal.quantity, reversal.amount, reversal.supersedes) == (-1, "-0.99", "acme:c-1:1")
    assert charge.delivery is not None
    assert [call.result for call in charge.delivery.attempts] == ["failed", "delivered"]
    assert reversal.delivery is None


def test_receipt_has_the_requested_conversation_only(ledger: Ledger, explain: Run) -> None:
    stored(ledger, record("c-1"), record("c-1:2"), record("c-10"))
    stored(ledger, record("c-1", tenant_id="globex"))

    for tenant_id, conversation in (("acme", "c-1"), ("acme", "c-1:2"), ("globex", "c-1")):
        receipt = json.loads(explain(tenant_id, conversation, "--json").stdout)

        assert [line["id"] for line in receipt["records"]] == [f"{tenant_id}:{conversation}:1"]


def test_long_lines_wrap_below_their_labels(ledger: Ledger, explain: Run) -> None:
    stored(ledger, record("c-1"))

    wide = explain("acme", "c-1", columns=400).stdout
    narrow = explain("acme", "c-1", columns=70).stdout

    assert max(map(len, narrow.splitlines())) <= 70
    assert narrow.split() == wide.split()
    more = len(narrow.splitlines()) - len(wide.splitlines())
    assert more == sum(row.startswith(" " * 13) for row in narrow.splitlines()) > 0


@pytest.mark.parametrize(("tenant_id", "conversation"), [("acme", "c-2"), ("globex", "c-1")])
def test_unknown_conversation_is_reported_with_the_ledger_that_was_read(
    ledger: Ledger, explain: Run, tenant_id: str, conversation: str
) -> None:
    stored(ledger, record("c-1"))

    result = explain(tenant_id, conversation)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(
        f"error: the ledger {ledger.redacted_url} has no usage record of "
    )
    assert f"conversation '{conversation}' of tenant '{tenant_id}'" in result.stderr


def test_missing_ledger_is_reported_with_the_command_to_run(explain: Run) -> None:
    result = explain("acme", "c-1")

    assert (result.returncode, result.stdout) == (2, "")
    assert "run `resmeter ledger upgrade`" in result.stderr


def test_missing_conversation_argument_is_bad_usage(explain: Run) -> None:
    result = explain("acme")

    assert (result.returncode, result.stdout) == (2, "")
    assert "CONVERSATION" in result.stderr


def test_control_characters_in_an_id_are_printed_as_escapes(ledger: Ledger, explain: Run) -> None:
    conversation = "c\x1b[2J\x9b\u202e1"
    stored(ledger, record(conversation))

    text, as_json = explain("acme", conversation), explain("acme", conversation, "--json")

    for result in (text, as_json):
        assert r"c\u001b[2J\u009b\u202e1" in result.stdout
        assert not set("\x1b\x9b\u202e") & set(result.stdout)
    assert json.loads(as_json.stdout)["conversation"] == conversation
