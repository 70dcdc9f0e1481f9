"""A broker's disk changes a batch: its partition stops, the others go on, and an operator decides."""

from pathlib import Path

from pipeline.dev.broker import LocalKafka
from tests.kafka.run import PARTITIONS, Run, metric, net, readiness, running, wait_until
from tests.support.batches import Sent, produce_batch
from tests.support.events import AT, resolved


def test_a_damaged_batch_stops_its_partition_until_an_operator_steps_over_it(
    tmp_path: Path,
) -> None:
    broker = LocalKafka(tmp_path / "broker")
    broker.start()
    try:
        with running(broker.bootstrap_servers, tmp_path) as run:
            _stop_and_step_over(run, broker)
    finally:
        broker.stop()


def _stop_and_step_over(run: Run, broker: LocalKafka) -> None:
    events = run.env["RESMETER_TOPICS__EVENTS"]
    of_partition: dict[int, str] = {}
    for subject in (f"c{n}" for n in range(40)):
        of_partition.setdefault(_partition_of(subject), subject)
    for number, subject in of_partition.items():
        question, answer, thanks = (Sent(key, value) for key, value, _ in resolved(subject))
        for sent in ([question, answer], [Sent(None, b"DAMAGED" * 9)] * 5, [thanks]):
            produce_batch(run.servers, events, number, sent, AT + 2)
    broker.stop()
    (log,) = broker.data.rglob(f"{events}-0/*0.log")
    log.write_bytes(log.read_bytes().replace(b"DAMAGED", b"dAMAGED", 1))
    broker.start()

    worker = run.start("worker")

    wait_until(lambda: run.committed() == 8 * PARTITIONS - 6, "everything else is decided")
    port = run.port(worker)
    wait_until(lambda: metric(port, "resmeter_damaged_partitions") == 1, "the damage is found")
    status, ready = readiness(port)
    assert status == 200
    (warning,) = ready["warnings"]
    command = "resmeter topics step-over 0:2 --to 7 --who NAME --reason TEXT"
    assert command in warning
    assert command in worker.log()
    others = {("acme", subject): {"resolution": 1} for n, subject in of_partition.items() if n}
    assert net(run.usage_records().values()) == others
    worker.stop()
    refused = run.resmeter(
        "topics", "step-over", "0:2", "--to", "99", "--who", "a", "--reason", "b"
    )
    assert refused.returncode == 2, refused.stderr
    assert "offsets 0 to 7" in refused.stderr

    stepped = run.resmeter(*command.replace(" --who NAME", "").split()[1:], LOGNAME="ada")
    assert stepped.returncode == 0, stepped.stderr
    assert ", by ada; restart the workers" in stepped.stderr
    worker = run.start("worker")

    run.until_decided(worker, 8 * PARTITIONS)
    assert metric(run.port(worker), "resmeter_offsets_stepped_over_total") == 5
    assert net(run.usage_records().values()) == {
        ("acme", subject): {"resolution": 1} for subject in of_partition.values()
    }
    run.done("ledger", "upgrade")
    run.start("sink")
    audit = run.resmeter("audit")
    assert audit.returncode == 3, audit.stderr
    assert audit.stdout.count("damaged: ") == 1, audit.stdout


def _partition_of(subject: str) -> int:
    from aiokafka.partitioner import murmur2

    return int(murmur2(f"acme:{subject}".encode())) % 2**31 % PARTITIONS
