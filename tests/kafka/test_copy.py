"""Events are copied to a topic with more partitions, and a replay of the copy changes no bill."""

import orjson

from tests.kafka.run import Run, net, wait_until
from tests.support.events import resolved


def test_partitions_grow_by_a_copy_and_a_replay(run: Run) -> None:
    old, copied = run.env["RESMETER_TOPICS__EVENTS"], {}
    for name in ("EVENTS", "CHANGELOG"):
        run.env[f"RESMETER_TOPICS__{name}"] += "-two"
        copied[f"RESMETER_TOPICS__{name}"] = run.env[f"RESMETER_TOPICS__{name}"] + "-grown"
    small, grown = {"RESMETER_TOPICS__PARTITIONS": "2"}, dict(run.env)
    run.env |= small
    run.done("topics", "create")
    run.done("ledger", "upgrade")
    source = run.env["RESMETER_TOPICS__EVENTS"]
    messages = [message for n in range(20) for message in resolved(f"c{n}")]
    run.produce(messages)
    worker = run.start("worker")
    run.start("sink")
    wait_until(lambda: len(run.usage_records()) == 20, "everything is decided")
    worker.stop()
    before = run.messages("EVENTS")

    run.env = {
        **grown,
        **copied,
        "RESMETER_WORKER__GROUP": run.env["RESMETER_WORKER__GROUP"] + "-g",
    }
    run.done("topics", "create")
    run.done("topics", "copy", source)
    again = run.resmeter("topics", "copy", source)
    by_broker = run.resmeter(
        "topics", "copy", old, RESMETER_TOPICS__EVENTS_TIMESTAMPS="LogAppendTime"
    )

    assert "has records already" in again.stderr
    assert "must be CreateTime while you copy" in by_broker.stderr
    after = run.messages("EVENTS")
    assert {(m.key, m.value) for m in before} == {(m.key, m.value) for m in after}
    assert len({message.partition for message in after}) > 2
    run.until_decided(run.start("worker"), len(messages))
    # The same ids with the same content: `usage_records` compares them.
    assert len(net(run.usage_records().values())) == len(run.usage_records()) == 20
    audit = run.resmeter("audit", "--json")
    assert audit.returncode == 0, audit.stdout
    assert orjson.loads(audit.stdout.splitlines()[-1])["records"] == 20
