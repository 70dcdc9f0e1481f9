"""List, show and redrive dead letters on a real broker; too many dead letters raise an alarm."""

import orjson
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.kafka.run import Run, metric, net, readiness, wait_until
from tests.support.events import AT, KEY, event, resolved

HOUR_MS = 3_600_000


def test_event_that_is_accepted_now_is_sent_again_and_counts_once(run: Run) -> None:
    # The producer's clock was an hour fast, so its event was rejected with the reason future_time.
    question, answer, _ = resolved("c1")
    thanks = event("m2", at=AT + HOUR_MS, intent="confirmation")
    run.produce([question, answer, (KEY, thanks, AT + 2), (KEY, b"{garbage", AT + 3)])
    worker = run.start("worker")
    run.until_decided(worker, 4)

    listed = [orjson.loads(line) for line in run.done("dlq", "list", "--json").splitlines()]
    assert {entry["reason"]: entry["letters"] for entry in listed} == {
        "future_time": 1,
        "malformed_json": 1,
    }
    shown = run.resmeter("dlq", "show", "0:0").stdout
    assert "future_time: time 2026-05-04T10:00:00.000Z is more than 5 minutes after" in shown
    assert '"intent":"confirmation"' in shown
    raw = run.resmeter("dlq", "show", "0:1", "--raw").stdout
    assert raw == "{garbage"

    tried = run.resmeter("dlq", "redrive")
    assert tried.returncode == 3
    assert "1 would be sent" in tried.stdout
    assert "1 left: would be rejected again: malformed_json" in tried.stdout
    assert len(run.messages("EVENTS")) == 4

    for times in (1, 2):
        sent = run.resmeter("dlq", "redrive", "--reason", "future_time", "--apply")
        assert sent.returncode == 0, sent.stderr
        run.until_decided(worker, 4 + times)
        wait_until(lambda: bool(run.usage_records()), "it bills")
        assert net(run.usage_records().values()) == {("acme", "c1"): {"resolution": 1}}
    assert len(run.messages("DEAD_LETTERS")) == 2


def test_garbage_of_one_producer_raises_an_alarm_and_the_others_are_billed(run: Run) -> None:
    garbage = [(KEY, b"{garbage", AT + n) for n in range(1_500)]
    run.produce([*garbage, *resolved("c2")])

    worker = run.start("worker")

    run.until_decided(worker, 1_503)
    port = run.port(worker)
    status, ready = readiness(port)
    assert (status, ready["ready"]) == (200, True)
    (warning,) = ready["warnings"]
    assert "1500 malformed_json of other" in warning
    assert metric(port, "resmeter_dead_letters_over_limit") == 1
    assert metric(port, "resmeter_rejected_total", source="other", reason="malformed_json") == 1_500
    assert worker.log().count('"dead_letters_too_many"') == 1
    assert net(run.usage_records().values()) == {("acme", "c2"): {"resolution": 1}}


def test_a_worker_that_shall_end_when_most_input_is_invalid_ends_and_logs_why(run: Run) -> None:
    run.env |= {
        "RESMETER_WORKER__DEAD_LETTER_WINDOW_RECORDS": "20",
        "RESMETER_WORKER__DEAD_LETTERS_END_WORKER": "true",
    }
    run.produce([(KEY, b"{garbage", AT + n) for n in range(30)])

    worker = run.start("worker")

    assert worker.wait(60) == 1
    assert "dead_letters_too_many" in worker.log()
    assert "malformed_json" in worker.log()
    assert run.committed() == 0
    assert not run.messages("DEAD_LETTERS")
    run.env |= {"RESMETER_WORKER__DEAD_LETTERS_END_WORKER": "false"}
    run.until_decided(run.start("worker"), 30)
    assert len(run.messages("DEAD_LETTERS")) == 30


def test_list_tells_open_letters_apart_and_a_record_whose_letter_is_gone_is_redriven(
    run: Run,
) -> None:
    question, answer, _ = resolved("c1")
    thanks = event("m2", at=AT + HOUR_MS, intent="confirmation")
    run.produce([question, answer, (KEY, thanks, AT + 2), (KEY, b"{garbage", AT + 3)])
    worker = run.start("worker")
    run.until_decided(worker, 4)

    def listed(*options: str) -> dict[str, tuple[int, int]]:
        lines = run.done("dlq", "list", "--json", "--status", *options).splitlines()
        return {e["reason"]: (e["open"], e["redriven"]) for e in map(orjson.loads, lines)}

    assert listed() == {"future_time": (1, 0), "malformed_json": (1, 0)}
    # Without --status, the events topic is not read: it need not even exist.
    plain = run.done("dlq", "list", "--json", RESMETER_TOPICS__EVENTS="no.such.topic")
    assert {
        e["reason"]: ("open" in e, e["letters"]) for e in map(orjson.loads, plain.splitlines())
    } == {
        "future_time": (False, 1),
        "malformed_json": (False, 1),
    }
    assert listed("--source", "/chat") == {"future_time": (1, 0)}
    assert listed("--tenant", "nobody") == {}
    (letter,) = (m for m in run.messages("DEAD_LETTERS") if m.value == thanks)
    origin = ":".join(
        (letter.headers[f"resmeter-{name}"] or b"").decode() for name in ("partition", "offset")
    )
    admin = AdminClient({"bootstrap.servers": run.servers})
    place = TopicPartition(run.env["RESMETER_TOPICS__DEAD_LETTERS"], letter.partition, -1)
    for future in admin.delete_records([place]).values():
        future.result()

    sent = run.resmeter("dlq", "redrive", "--origin", origin, "--apply")

    assert sent.returncode == 0, sent.stderr
    assert "1 sent" in sent.stdout
    run.until_decided(worker, 5)
    assert net(run.usage_records().values()) == {("acme", "c1"): {"resolution": 1}}
    gone = run.resmeter("dlq", "redrive", "--origin", "0:99999")
    assert gone.returncode == 2
    assert "has no record at offset 99999" in gone.stderr
