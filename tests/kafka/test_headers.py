"""A header whose name is not text costs one record: worker, sink and commands go on."""

from aiokafka.partitioner import murmur2

from tests.kafka.run import PARTITIONS, Run, net, wait_until
from tests.support.batches import Sent, produce_batch
from tests.support.events import AT, KEY, event, resolved

BAD = [(b"a", b"1"), (b"bad-\xff", b"x")]


def test_worker_sink_audit_rebill_and_redrive_survive_names_that_are_no_text(run: Run) -> None:
    run.done("ledger", "upgrade")
    partition = murmur2(KEY) % 2**31 % PARTITIONS
    good = [Sent(key, value) for key, value, _ in resolved("c1")]
    # As many as it takes for Python's interpreter to specialise the call that reads headers.
    bad = [Sent(KEY, event(f"x{n}", intent="help_request"), BAD) for n in range(50)]
    events, records, letters = (
        run.env[f"RESMETER_TOPICS__{name}"] for name in ("EVENTS", "RECORDS", "DEAD_LETTERS")
    )
    produce_batch(run.servers, events, partition, [*bad, *good], AT + 2)

    run.until_decided(run.start("worker"), len(bad) + len(good))
    produce_batch(run.servers, records, 0, [Sent(b"acme", b"{}", BAD)] * 50, AT)
    produce_batch(run.servers, letters, 0, [Sent(KEY, b"{}", BAD)] * 50, AT)
    run.start("sink")
    wait_until(lambda: _units(run) == 1, "the ledger has the unit")

    found = run.messages("DEAD_LETTERS")
    ours = [letter for letter in found if "resmeter-reason" in letter.headers]
    assert len(ours) == len(bad)
    assert {letter.headers["resmeter-reason"] for letter in ours} == {b"invalid_attribute"}
    assert {letter.headers["resmeter-name-6261642dff"] for letter in ours} == {b"x"}
    assert net(m.value or b"" for m in run.messages("RECORDS") if m.value != b"{}") == {
        ("acme", "c1"): {"resolution": 1}
    }
    audit = run.resmeter("audit")
    assert (audit.returncode, "nothing differs" in audit.stderr) == (0, True), audit.stderr
    plan = run.resmeter("rebill", "plan", "--out", str(run.folder / "plan.ndjson"))
    assert plan.returncode == 0, plan.stderr
    redrive = run.resmeter("dlq", "redrive", "--apply")
    assert redrive.returncode == 3, redrive.stderr
    assert f"{len(bad)} left: would be rejected again: invalid_attribute" in redrive.stdout
    assert run.resmeter("dlq", "list").returncode == 0


def _units(run: Run) -> int:
    with run.ledger() as ledger:
        return int(ledger.execute("SELECT count(*) FROM usage_record").fetchone()[0])
