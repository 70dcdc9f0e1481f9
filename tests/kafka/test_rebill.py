"""On a real broker, a rebill plan lists the differences, and applying it twice corrects once."""

from pathlib import Path

import orjson
import pytest

from pipeline.config import Settings
from pipeline.events.times import format_time
from pipeline.ledger import open_ledger, reports
from pipeline.replay.planfile import decode_plan
from pipeline.replay.rebill import write_corrections
from pipeline.usage.record import decode_record
from tests.kafka.run import Run, net, wait_until
from tests.support.events import AT, Message, event, resolved

DAY_MS = 86_400_000
HALF = 'name = "half"\nversion = 1\neffective_from = 2020-01-01T00:00:00Z\nprice = { resolution = "0.50" }\n'
HOUR_MS = 3_600_000
WHO = ("--who", "ada", "--reason", "the contract says 0.50")


@pytest.fixture
def billed(run: Run) -> Run:
    """Six billed conversations, and one whose confirmation came too late."""
    run.done("ledger", "upgrade")
    messages = [message for n in range(6) for message in resolved(f"c{n}")]
    key = b"acme:old"
    old = AT - 90 * DAY_MS
    messages += [
        (key, event("m1", at=old, intent="help_request", subject="old"), old),
        (key, event("m4", "closed", old + 3, actor="workflow", subject="old"), old + 3),
        # These events happened earlier, but arrived 90 days later.
        (key, event("a1", "ai_message", old + 1, kind="answer", subject="old"), AT),
        (key, event("m2", at=old + 2, intent="confirmation", subject="old"), AT),
    ]
    run.produce(messages)
    run.until_decided(run.start("worker"), len(messages))
    run.start("sink")
    wait_until(lambda: _count(run) == 6, "the ledger has what was decided")
    return run


def test_plan_lists_the_differences_and_applying_it_twice_corrects_once(billed: Run) -> None:
    run = billed
    with run.ledger() as ledger:
        for table in ("pending_record", "meter_event_record"):
            ledger.execute(f"DELETE FROM {table}")
        ledger.execute("DELETE FROM usage_record WHERE id = 'acme:c0:1'")
        ledger.execute(
            "INSERT INTO usage_record (id, tenantid, conversation, outcome, quantity, kind, reason,"
            " occurred_at, policy, policy_version, evidence, record_topic, record_partition,"
            " record_offset, origin_topic, origin_partition, origin_offsets) SELECT 'acme:c2:2',"
            " tenantid, conversation, outcome, 1, kind, reason, occurred_at, policy,"
            " policy_version, evidence, record_topic, record_partition, record_offset,"
            " origin_topic, origin_partition, origin_offsets FROM usage_record"
            " WHERE id = 'acme:c2:1'"
        )
    file = run.folder / "plan.ndjson"

    made = run.resmeter("rebill", "plan", "--out", str(file))

    assert made.returncode == 3, made.stderr
    plan = decode_plan(str(file), file.read_bytes())
    quantities = {
        part.conversation: [c.record.quantity for c in part.corrections]
        for part in plan.conversations
    }
    assert quantities == {"c0": [1], "c2": [-1], "old": [1]}
    (total,) = plan.header.totals
    assert (total.added, total.removed, total.amount_added) == (2, 1, "1.98")
    assert "acme old: 2 of its events came too late for the worker" in made.stdout

    # As if the command was killed midway: only the first correction is written.
    (first,) = plan.conversations[0].corrections
    _write(run, file, 1)
    wait_until(lambda: _has(run, first.record.id), "the sink has the first")
    for expected in ("2 corrections of 2 conversations", "0 corrections"):
        applied = run.resmeter("rebill", "apply", str(file))
        assert applied.returncode == 0, applied.stderr
        assert expected in applied.stdout

    assert net(run.usage_records().values())[("acme", "old")] == {"resolution": 1}
    again = run.resmeter("rebill", "plan", "--out", str(run.folder / "next.ndjson"))
    assert again.returncode == 0, again.stdout
    audit = run.resmeter("audit", "--json")
    assert audit.returncode == 0, audit.stdout
    tally = orjson.loads(audit.stdout.splitlines()[-1])
    assert (tally["corrected"], tally["findings"]) == (3, 0)
    receipt = run.done("explain", "acme", "c0")
    assert "the charge was recalculated from the event log" in " ".join(receipt.split())


def test_conversation_that_changed_since_the_plan_was_made_is_left_and_listed(billed: Run) -> None:
    run = billed
    file = run.folder / "plan.ndjson"
    assert run.resmeter("rebill", "plan", "--out", str(file)).returncode == 3
    other = run.folder / "other.ndjson"
    assert run.resmeter("rebill", "plan", "--out", str(other)).returncode == 3
    run.done("rebill", "apply", str(other))
    # Change the ledger so that the first plan no longer fits.
    with run.ledger() as ledger:
        ledger.execute("UPDATE usage_record SET id = 'acme:old:9' WHERE reason = 'rebill'")

    applied = run.resmeter("rebill", "apply", str(file))

    assert applied.returncode == 3
    assert "left: acme old has changed" in applied.stdout


def test_changed_plan_file_is_rejected(billed: Run, tmp_path: Path) -> None:
    run = billed
    file = tmp_path / "plan.ndjson"
    assert run.resmeter("rebill", "plan", "--tenant", "acme", "--out", str(file)).returncode == 3
    file.write_bytes(file.read_bytes().replace(b'"quantity":1', b'"quantity":-1'))

    applied = run.resmeter("rebill", "apply", str(file))

    assert applied.returncode == 2
    assert "was changed" in applied.stderr
    assert run.resmeter("rebill", "plan", "--out", str(file)).returncode == 2  # it exists


def _write(run: Run, file: Path, count: int) -> None:
    plan = decode_plan(str(file), file.read_bytes())
    settings = Settings.model_validate(
        {
            "kafka": {"bootstrap_servers": run.servers},
            "topics": {"records": run.env["RESMETER_TOPICS__RECORDS"]},
        }
    )
    write_corrections(settings, plan.conversations[:count])


def _has(run: Run, identity: str) -> bool:
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
    try:
        tenant_id, conversation = identity.split(":")[:2]
        return identity in reports.ids_of(ledger, tenant_id, conversation)
    finally:
        ledger.close()


def _count(run: Run) -> int:
    with run.ledger() as ledger:
        (number,) = ledger.execute("SELECT count(*) FROM usage_record").fetchone()
    return int(number)


def _confirmed(subject: str, answered: int, confirmed: int) -> list[Message]:
    key = f"acme:{subject}".encode()
    asked = event("m1", at=answered - 1, intent="help_request", subject=subject)
    answer = event("a1", "ai_message", answered, kind="answer", subject=subject)
    thanks = event("m2", at=confirmed, intent="confirmation", subject=subject)
    return [(key, asked, answered - 1), (key, answer, answered), (key, thanks, confirmed)]


def test_plan_under_another_policy_puts_a_wrong_time_right_and_nothing_else(run: Run) -> None:
    run.done("ledger", "upgrade")
    until = AT + 24 * HOUR_MS
    messages = _confirmed("before", AT - 2, AT - 1)
    messages += _confirmed("enters", AT - 1, AT + 5)  # its answer is from before
    messages += _confirmed("within", AT, AT + 5)
    messages += _confirmed("leaves", until - 1, until + 5)
    messages += _confirmed("after", until, until + 5)
    run.produce(messages)
    run.until_decided(run.start("worker"), len(messages))
    run.start("sink")
    wait_until(lambda: _count(run) == 5, "the ledger has what was decided")
    policy, plan = run.folder / "half.toml", str(run.folder / "plan.ndjson")
    policy.write_text(HALF)
    day = ("--from", format_time(AT), "--to", format_time(until))

    made = run.resmeter("rebill", "plan", *day, "--policy", str(policy), *WHO, "--out", plan)
    applied = [run.resmeter("rebill", "apply", plan) for _ in range(2)]

    assert made.returncode == 3, made.stderr
    assert "half version 1" in made.stdout
    assert "ada: the contract says 0.50" in " ".join(made.stdout.split())
    header = decode_plan(plan, Path(plan).read_bytes()).header
    (total,) = header.totals
    assert (total.added, total.removed) == (2, 2)
    assert (total.amount_added, total.amount_removed) == ("1.00", "1.98")
    assert [each.returncode for each in applied] == [0, 0], applied
    assert "4 corrections of 2 conversations" in applied[0].stdout
    prices = {
        (record.conversation, record.policy, record.quantity)
        for record in map(decode_record, run.usage_records().values())
        if record.reason == "rebill"
    }
    corrected = {("within", "half", 1), ("leaves", "half", 1)}
    assert prices == corrected | {(name, "fin-2026", -1) for name, _, _ in corrected}
    # Everybody goes by the plan now, and the catalog says who made it and why.
    assert run.resmeter("audit").returncode == 0
    next_plan = str(run.folder / "next.ndjson")
    assert run.resmeter("rebill", "plan", "--out", next_plan).returncode == 0
    assert run.done("catalog", "log").count("ada: the contract says 0.50; all tenants") == 1
    receipt = " ".join(run.done("explain", "acme", "within").split())
    assert f"plan {header.id}, entry 2 of the catalog, ada: the contract says 0.50" in receipt
    assert "0.50 usd" in receipt
