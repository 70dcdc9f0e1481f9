"""On a real broker, bad input gets a clear message, is counted, and affects nothing else."""

import random
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from pipeline.catalog.tenants import load_tenants
from pipeline.dev.emulator.server import Emulator, running
from tests.kafka.run import Run, lines_named, metric, net, readiness, wait_until
from tests.support.events import AT, KEY, event, resolved

BAD: list[tuple[bytes | None, bytes | None, str, str]] = [
    # key, value, reason, a part of the detail
    (KEY, b"\xff\x00garbage", "malformed_json", "not JSON"),
    (KEY, b"", "malformed_json", "empty"),
    (KEY, None, "malformed_json", "empty"),
    (KEY, b"[1, 2]", "not_cloudevents", "expected one JSON object"),
    (KEY, b'{"hello": "world"}', "not_cloudevents", "specversion"),
    (b"acme:other", event("w1", intent="help_request"), "key_mismatch", "acme:c1"),
    (None, event("w2", intent="help_request"), "key_mismatch", "missing"),
    (KEY, event("x", intent="help_request", pad="x" * 300 * 1024), "too_large", "the limit is"),
    (KEY, event("u1", "teleported"), "unknown_type", "conversation.teleported"),
    (KEY, event("f1", at=AT + 3_600_000, intent="confirmation"), "future_time", "5 minutes"),
    (KEY, event("d1", intent="bliss"), "invalid_data", "intent"),
    (KEY, event("", intent="confirmation"), "invalid_attribute", "id"),
]


def test_every_bad_record_becomes_a_dead_letter_with_its_origin_and_the_rest_bills(
    run: Run,
) -> None:
    messages = resolved("c1")
    for key, value, _, _ in BAD:
        messages += [(key, value, AT + 3)]
    messages += resolved("c2")
    run.produce(messages)
    worker = run.start("worker")

    run.until_decided(worker, len(messages))

    assert net(run.usage_records().values()) == {
        ("acme", "c1"): {"resolution": 1},
        ("acme", "c2"): {"resolution": 1},
    }
    letters = run.messages("DEAD_LETTERS")
    assert len(letters) == len(BAD)
    for key, value, reason, in_detail in BAD:
        (letter,) = (
            m
            for m in letters
            if (m.key, m.value) == (key, value) and m.headers["resmeter-reason"] == reason.encode()
        )
        assert in_detail in (letter.headers["resmeter-detail"] or b"").decode()
        assert letter.headers["resmeter-topic"] == run.env["RESMETER_TOPICS__EVENTS"].encode()
        assert letter.headers["resmeter-timestamp"] == str(AT + 3).encode()
    port = run.port(worker)
    assert metric(port, "resmeter_rejected_total") == len(BAD)
    assert metric(port, "resmeter_rejected_total", reason="key_mismatch") == 2
    assert metric(port, "resmeter_events_total") == 6


@pytest.mark.parametrize(
    ("value", "headers", "packing"),
    [
        (random.Random(1).randbytes(1_048_300), [], "none"),  # the most that the topic accepts
        (bytes(40_000_000), [], "zstd"),  # far more than that once it is unpacked
        (b"{}", [("ce_" + "x" * 900_000, b"\xff"), ("ce_specversion", b"1.0")], "none"),
    ],
    ids=["as large as Kafka takes", "packed", "header"],
)
def test_a_record_too_large_for_a_dead_letter_does_not_stop_the_worker(
    run: Run, value: bytes, headers: list[tuple[str, str | bytes | None]], packing: str
) -> None:
    producer = Producer(
        {
            "bootstrap.servers": run.servers,
            "compression.type": packing,
            "message.max.bytes": 100_000_000,
            "partitioner": "murmur2_random",
        }
    )
    producer.produce(run.env["RESMETER_TOPICS__EVENTS"], value, KEY, timestamp=AT, headers=headers)
    assert producer.flush(30) == 0
    run.produce(resolved("c1"))
    worker = run.start("worker")

    run.until_decided(worker, 4)

    (letter,) = run.messages("DEAD_LETTERS")
    assert letter.key == KEY
    assert value.startswith(letter.value or b"nothing")
    assert (letter.headers["resmeter-cut"] or b"").startswith((b"value=", b"headers="))
    assert net(run.usage_records().values()) == {("acme", "c1"): {"resolution": 1}}


def test_a_conversation_accepts_10_000_events_and_others_are_not_affected(run: Run) -> None:
    long = [(KEY, event(f"m{n}", at=AT + n, intent="help_request"), AT + n) for n in range(10_001)]
    run.produce([*long, *resolved("c2")])
    worker = run.start("worker")

    run.until_decided(worker, len(long) + 3)

    (letter,) = run.messages("DEAD_LETTERS")
    assert letter.headers["resmeter-reason"] == b"conversation_too_long"
    assert letter.value == long[-1][1]
    assert net(run.usage_records().values()) == {("acme", "c2"): {"resolution": 1}}
    assert metric(run.port(worker), "resmeter_rejected_total", reason="conversation_too_long") == 1


def test_repeated_events_change_nothing_and_are_counted(run: Run) -> None:
    run.produce(resolved("c1") * 3)
    worker = run.start("worker")

    run.until_decided(worker, 9)

    assert len(run.messages("RECORDS")) == 1
    assert metric(run.port(worker), "resmeter_duplicates_total") == 6


def test_produce_rejects_invalid_lines_before_it_sends_them(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    good = [value for _, value, _ in resolved("c1") if value is not None]
    file.write_bytes(b"\n".join([good[0], b"{oops", *good[1:], event("d1", intent="bliss")]))

    result = run.resmeter("produce", str(file))

    assert result.returncode == 3
    assert "3 events sent and acknowledged, 2 rejected" in result.stderr
    problems = lines_named(result.stderr)
    assert [(entry["line"], entry["reason"]) for entry in problems] == [
        (2, "malformed_json"),
        (5, "invalid_data"),
    ]
    assert len(run.messages("EVENTS")) == 3


def test_produce_rejects_events_from_the_future_and_sends_the_rest(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    in_a_century = AT + 100 * 365 * 86_400_000
    file.write_bytes(event("m1") + b"\n" + event("m2", at=in_a_century) + b"\n" + event("m3"))

    result = run.resmeter("produce", str(file))

    assert result.returncode == 3
    (problem,) = lines_named(result.stderr)
    assert (problem["line"], problem["reason"]) == (2, "future_time")
    assert "2 events sent and acknowledged, 1 rejected" in result.stderr
    assert len(run.messages("EVENTS")) == 2


def test_produce_sends_the_lines_before_a_missing_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(event("m1") + b"\n" + event("m2"))

    result = run.resmeter("produce", str(file), str(tmp_path / "nothing.ndjson"))

    assert result.returncode != 0
    assert "2 events sent and acknowledged before the command stopped" in result.stderr
    assert "nothing.ndjson" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(run.messages("EVENTS")) == 2


def test_produce_unchecked_sends_lines_as_they_are(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"{oops\n")

    result = run.resmeter("produce", str(file), "--unchecked")

    assert result.returncode == 0
    (message,) = run.messages("EVENTS")
    assert message.value == b"{oops"


def test_produce_unchecked_sends_an_event_from_the_future_with_the_others(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    in_a_century = AT + 100 * 365 * 86_400_000
    large = b'{"tenantid":"acme","subject":"c1","data":"' + b"x" * 1_100_000 + b'"}'
    file.write_bytes(b"\n".join([event("m1"), event("m2", at=in_a_century), large, event("m3")]))

    result = run.resmeter("produce", str(file), "--unchecked")

    assert result.returncode == 3
    (problem,) = (orjson.loads(line) for line in result.stderr.splitlines() if line.startswith("{"))
    assert (problem["line"], problem["reason"]) == (3, "too_large")
    assert "3 events sent and acknowledged, 1 rejected" in result.stderr
    assert len(run.messages("EVENTS")) == 3
    run.until_decided(run.start("worker"), 3)
    (letter,) = run.messages("DEAD_LETTERS")
    assert letter.headers["resmeter-reason"] == b"future_time"


def test_a_record_ahead_of_its_time_holds_up_what_follows_in_its_partition_alone(run: Run) -> None:
    _configure(run, "message.timestamp.after.max.ms", "999999999999")
    now_ms = int(time.time() * 1000)
    key, value, _ = resolved("c1")[0]
    later = event("m9", at=now_ms, intent="help_request")
    run.produce(resolved("c1"))
    run.produce([(key, later, now_ms + 86_400_000), (key, value, AT)])
    run.produce([message for n in range(2, 12) for message in resolved(f"c{n}")])

    places = {message.key: message.partition for message in run.messages("EVENTS")}
    others = {key for key, partition in places.items() if partition != places[KEY]}
    decided = {f"{key.decode()}:1" for key in (KEY, *others) if key is not None}

    port = run.port(run.start("worker"))

    wait_until(lambda: run.usage_records().keys() == decided, "what nothing holds up is decided")
    wait_until(lambda: metric(port, "resmeter_ahead_seconds") > 80_000, "the worker waits")
    assert run.usage_records().keys() == decided
    status, ready = readiness(port)
    assert status == 200
    (warning,) = ready["warnings"]
    assert "stands still at offset" in warning
    assert "ahead of the broker's clock" in warning


def test_produce_says_what_to_do_if_the_topic_rejects_old_timestamps(
    run: Run, tmp_path: Path
) -> None:
    _configure(run, "message.timestamp.before.max.ms", "600000")
    (tmp_path / "events.ndjson").write_bytes(event("m1"))

    result = run.resmeter("produce", str(tmp_path / "events.ndjson"))

    assert result.returncode == 1
    assert "use --timestamps now" in result.stderr
    run.done("produce", str(tmp_path / "events.ndjson"), "--timestamps", "now")


def test_every_command_names_an_unreachable_broker(run: Run) -> None:
    run.done("ledger", "upgrade")
    commands = [("worker",), ("sink",), ("topics", "create"), ("produce", "-")]
    with socket.socket() as unused, ThreadPoolExecutor() as pool:
        unused.bind(("127.0.0.1", 0))  # bound, but nothing listens on it
        address = f"127.0.0.1:{unused.getsockname()[1]}"

        def tried(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
            return run.resmeter(*command, RESMETER_KAFKA__BOOTSTRAP_SERVERS=address)

        results = list(pool.map(tried, commands))

    for result in results:
        assert result.returncode == 1
        assert address in result.stderr
        assert "RESMETER_KAFKA__BOOTSTRAP_SERVERS" in result.stderr
        assert "Traceback" not in result.stderr


def test_check_lists_all_problems_at_once(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "bad.toml"
    policy.write_text(
        'base = "fin-2026"\nname = "bad"\nversion = 0\nsilence = "sometimes"\nwindow = "soon"\n'
    )
    tenants = tmp_path / "tenants.toml"
    tenants.write_text('policy_files = ["bad.toml"]\n[tenants.acme]\nstripe_customer = "acme"\n')

    result = run.resmeter(
        "check",
        RESMETER_CONFIG=str(tenants),
        RESMETER_SINK__HTTP_PORT="many",
        RESMETER_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1",
    )

    assert result.returncode == 2
    for text in (
        "RESMETER_SINK__HTTP_PORT",
        "version",
        "silence",
        "window",
        "tenants.acme.stripe_customer",
        "no Kafka broker responds at 127.0.0.1:1",
        "resmeter ledger upgrade",
        "cannot reach Stripe",
    ):
        assert text in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_check_reports_no_problem_if_there_is_none(run: Run) -> None:
    tenants = run.folder / "resmeter.toml"
    tenants.write_text('[tenants.acme]\nstripe_customer = "cus_acme"\n')
    emulator = Emulator()
    emulator.state.prepare(["cus_acme"], load_tenants(tenants).event_names, 0)
    run.done("ledger", "upgrade")
    run.begin_catalog(tenants)
    with running(emulator) as base_url:
        result = run.resmeter("check", RESMETER_STRIPE__BASE_URL=base_url)
        tenants.write_text('[tenants.acme]\nstripe_customer = "cus_acme2"\n')
        edited = run.resmeter("check", RESMETER_STRIPE__BASE_URL=base_url)

    assert result.returncode == 0, result.stderr
    assert result.stderr.count("ok ") == 6
    assert "up to entry 1" in result.stderr
    assert "differs from it" not in result.stderr
    assert f"`resmeter catalog plan {tenants}`" in edited.stderr


def _configure(run: Run, key: str, value: str) -> None:
    change = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(
        ConfigResource.Type.TOPIC, run.env["RESMETER_TOPICS__EVENTS"], incremental_configs=[change]
    )
    admin = AdminClient({"bootstrap.servers": run.servers})
    for future in admin.incremental_alter_configs([topic]).values():
        future.result()
