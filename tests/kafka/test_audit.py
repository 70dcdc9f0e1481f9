"""The audit of a real broker and ledger finds each difference, and nothing if there is none."""

import orjson
from confluent_kafka import Producer

from tests.kafka.run import Run, metric, wait_until
from tests.support.events import AT, KEY, resolved


def test_audit_finds_records_that_were_changed_in_the_ledger(run: Run) -> None:
    run.done("ledger", "upgrade")
    messages = [*resolved("c1"), *resolved("c2"), (KEY, b"{garbage", AT + 9)]
    run.produce(messages)
    run.until_decided(run.start("worker"), len(messages))
    run.start("sink")
    wait_until(lambda: _count(run) == 2, "the ledger has both")

    well = run.resmeter("audit")

    assert well.returncode == 0, well.stderr + well.stdout
    assert "nothing differs" in well.stderr
    assert "7 records read: 6 events, 1 dead letter" in well.stderr
    unknown = ["--tenant", "nobody"]
    plan = ["rebill", "plan", "--out", str(run.folder / "plan.ndjson")]
    for command in (["audit"], plan):
        nobody = run.resmeter(*command, *unknown)
        assert nobody.returncode == 0
        assert f"{run.env['RESMETER_TOPICS__EVENTS']} has no event of nobody" in nobody.stderr

    with run.ledger() as ledger:
        ledger.execute("UPDATE usage_record SET id = 'acme:c2:7' WHERE id = 'acme:c2:1'")
        ledger.execute("UPDATE usage_record SET kind = 'assumed' WHERE id = 'acme:c1:1'")
    wrong = run.resmeter("audit", "--json")

    assert wrong.returncode == 3
    lines = [orjson.loads(line) for line in wrong.stdout.splitlines()]
    found = {(line["finding"], line["conversation"]) for line in lines if "finding" in line}
    assert found == {("differs", "c1"), ("missing", "c2"), ("unexpected", "c2")}
    (tally,) = (line for line in lines if "finding" not in line)
    assert (tally["tenantid"], tally["conversations"], tally["findings"]) == ("acme", 2, 3)


def test_audit_fails_if_the_sink_has_not_stored_all_usage_records(run: Run) -> None:
    run.done("ledger", "upgrade")
    run.produce(resolved("c1"))
    run.until_decided(run.start("worker"), 3)

    found = run.resmeter("audit", "--wait", "0")

    assert found.returncode == 1
    assert "the sink is 1 usage records behind" in found.stderr


def test_usage_records_that_end_with_an_aborted_transaction_hold_up_nothing(run: Run) -> None:
    run.done("ledger", "upgrade")
    messages = resolved("c1")
    run.produce(messages)
    run.until_decided(run.start("worker"), len(messages))
    port = run.port(run.start("sink"))
    wait_until(lambda: _count(run) == 1, "the ledger has the unit")
    topic = run.env["RESMETER_TOPICS__RECORDS"]
    other = Producer({"bootstrap.servers": run.servers, "transactional.id": f"{topic}-other"})
    other.init_transactions()
    other.begin_transaction()
    for partition in (0, 1):  # one has a usage record, and one has none
        other.produce(topic, b"junk", partition=partition)
    other.flush()
    other.abort_transaction()

    audit = run.resmeter("audit", "--wait", "2")
    plan = run.resmeter("rebill", "plan", "--wait", "2", "--out", str(run.folder / "plan.ndjson"))

    assert (audit.returncode, plan.returncode) == (0, 0), audit.stderr + plan.stderr
    wait_until(lambda: metric(port, "resmeter_sink_lag_records") == 0, "the sink is at the end")
    run.produce(resolved("c2"))
    wait_until(lambda: _count(run) == 2, "what follows is stored")


def _count(run: Run) -> int:
    with run.ledger() as ledger:
        (number,) = ledger.execute("SELECT count(*) FROM usage_record").fetchone()
    return int(number)
