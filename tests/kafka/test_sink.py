"""The sink on a real broker: every usage record enters the ledger once and is billed once."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient

from pipeline.catalog.tenants import load_tenants
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, running
from pipeline.dev.process import Process
from pipeline.events.times import parse_time
from pipeline.ledger import open_ledger, reports
from pipeline.usage.record import encode_record
from tests.kafka.conftest import Load
from tests.kafka.run import Run, decided, metric, net, readiness, wait_until
from tests.support.ledger import record

UNREACHABLE = "http://127.0.0.1:1"
AS_OF = "2030-01-01T00:00:00Z"
SEVERAL_DAYS_LATER = parse_time("2026-05-10T00:00:00Z") / 1000


@pytest.fixture
def stripe(loaded_run: Run) -> Iterator[Emulator]:
    """An emulator with a customer for every tenant of the load, and a catalog with all of them."""
    emulator = Emulator(clock=Clock(SEVERAL_DAYS_LATER))
    tenants = [f"tenant-{number:04d}" for number in range(200)]
    file = loaded_run.folder / "resmeter.toml"
    file.write_text(
        "".join(
            f'[tenants.{tenant_id}]\nstripe_customer = "cus_{tenant_id.replace("-", "_")}"\n'
            for tenant_id in tenants
        )
    )
    catalog = load_tenants(file)
    emulator.state.prepare(catalog.customers.values(), catalog.event_names, 0)
    with running(emulator) as base_url:
        loaded_run.begin_catalog(file)
        loaded_run.env |= {
            "RESMETER_STRIPE__BASE_URL": base_url,
            "RESMETER_SINK__DELIVERIES_CONCURRENT_MAX": "64",
            "RESMETER_SINK__CALL_TIMEOUT_SECONDS": "2",
        }
        yield emulator


def test_killed_workers_and_sinks_bill_exactly_what_decide_says(
    load: Load, loaded_run: Run, stripe: Emulator
) -> None:
    run = loaded_run
    run.done("ledger", "upgrade")
    slow = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "300", "RESMETER_SINK__BATCH_RECORDS_MAX": "50"}
    for kill in range(1, 4):
        worker, sink = run.start("worker", **slow), run.start("sink", **slow)
        until = load.size * kill // 5
        wait_until(lambda until=until: run.committed() > until, "the worker is in the middle")  # type: ignore[misc]
        before = _stored(run)
        wait_until(lambda before=before: _stored(run) > before, "the sink is in the middle")  # type: ignore[misc]
        sink.kill()
        worker.kill()
    worker, sink = run.start("worker"), run.start("sink")
    run.until_decided(worker, load.size)
    _until_billed(run, sink, len(load.records))

    expected = decided(run.done("decide", load.file, "--as-of", AS_OF).encode())
    assert net(run.usage_records().values()) == expected
    assert _in_ledger(run) == expected
    assert run.usage_records() == load.records
    assert _at_stripe(stripe) == _units(expected)
    audit = run.resmeter("audit", "--stripe", "--stripe-lag", "0")
    assert "nothing differs" in audit.stderr, audit.stdout

    stripe.state.meter_events.create(_unit_of_nobody(stripe), stripe.clock.now())
    audit = run.resmeter("audit", "--stripe", "--stripe-lag", "0", "--json")
    assert audit.returncode == 3
    (finding,) = (
        line for line in map(orjson.loads, audit.stdout.splitlines()) if "finding" in line
    )
    assert (finding["finding"], finding["tenantid"]) == ("at_stripe", "tenant-0001")


def test_a_sink_with_a_wrong_key_still_stores_records_and_reports_that_it_is_halted(
    load: Load, loaded_run: Run, stripe: Emulator
) -> None:
    run = loaded_run
    run.done("ledger", "upgrade")
    worker = run.start("worker")
    sink = run.start("sink", RESMETER_STRIPE__API_KEY="sk_live_wrong")
    port = run.port(sink)

    run.until_decided(worker, load.size)
    wait_until(lambda: metric(port, "resmeter_deliveries_halted") == 1, "the sink is halted")
    wait_until(lambda: _stored(run) == len(load.records), "the ledger has all records")

    status, content = readiness(port)
    assert status == 503
    assert any("Stripe answered 401" in reason for reason in content["reasons"])
    assert _at_stripe(stripe) == {}
    sink.stop()
    right = run.start("sink")
    _until_billed(run, right, len(load.records))
    assert sum(_at_stripe(stripe).values()) == len(_net_units(load))


def test_a_tenant_is_billed_once_it_gets_a_customer(
    load: Load, loaded_run: Run, stripe: Emulator
) -> None:
    run = loaded_run
    run.done("ledger", "upgrade")
    file = run.env["RESMETER_CONFIG"]
    empty = run.folder / "empty.toml"
    empty.write_text("")
    run.begin_catalog(empty)
    worker, sink = run.start("worker"), run.start("sink")
    port = run.port(sink)
    run.until_decided(worker, load.size)
    wait_until(lambda: _stored(run) == len(load.records), "the ledger has all records")
    units = len(_net_units(load))
    wait_until(lambda: metric(port, "resmeter_parked_units") == units, "the units are parked")
    assert _at_stripe(stripe) == {}
    run.done("catalog", "apply", file, "--reason", "customers")
    _until_billed(run, sink, len(load.records))
    assert sum(_at_stripe(stripe).values()) == units
    lines = [line for line in sink.log().splitlines() if '"usage_parked"' in line]
    units_logged = [orjson.loads(line)["units"] for line in lines]
    assert all(one != next_ for one, next_ in pairwise(units_logged))  # not at each flush
    assert sum(units_logged[-1].values()) == units


@pytest.mark.parametrize("copied", [True, False], ids=["a backup", "an empty ledger"])
def test_a_sink_on_an_older_ledger_learns_what_was_sent_and_sends_none_of_it_again(
    load: Load, loaded_run: Run, stripe: Emulator, copied: bool
) -> None:
    run = loaded_run
    run.done("ledger", "upgrade")
    older = {"RESMETER_LEDGER__URL": f"sqlite:///{run.folder}/older.sqlite"}
    if copied:
        backup = run.folder / "ledger.sqlite"
        (run.folder / "older.sqlite").write_bytes(backup.read_bytes())
    else:
        run.resmeter("ledger", "upgrade", **older)
    worker, sink = run.start("worker"), run.start("sink")
    run.until_decided(worker, load.size)
    _until_billed(run, sink, len(load.records))
    billed = _at_stripe(stripe)
    sink.stop()

    run.env |= older
    sink = run.start("sink")
    _until_billed(run, sink, len(load.records))
    wait_until(lambda: metric(run.port(sink), "resmeter_journal_adopted_total") > 0, "it adopts")

    assert _at_stripe(stripe) == billed
    audit = run.resmeter("audit", "--stripe", "--stripe-lag", "0")
    assert "nothing differs" in audit.stderr, audit.stdout


@pytest.mark.parametrize("has_id", [True, False])
def test_a_topic_of_usage_records_that_was_made_again_is_read_from_its_beginning(
    run: Run, *, has_id: bool
) -> None:
    """It has more records than the ledger's offset says, so no offset looks wrong.

    Without an id, as if the same topic had lost its end and got other records.
    """
    run.done("ledger", "upgrade")
    topic = run.env["RESMETER_TOPICS__RECORDS"]
    writer = Run(run.servers, run.folder, run._stack)
    writer.env = run.env | {"RESMETER_TOPICS__EVENTS": topic}

    def write(*numbers: int) -> None:
        writer.produce([(b"acme", encode_record(record(f"c{n}")), 0) for n in numbers])

    env = {"RESMETER_STRIPE__API_KEY": "sk_test_1", "RESMETER_STRIPE__BASE_URL": UNREACHABLE}
    write(1, 2)
    sink = run.start("sink", **env)
    sink.wait_until(lambda: _stored(run) == 2, 60, "the ledger has both")
    sink.stop()
    admin = AdminClient({"bootstrap.servers": run.servers})
    admin.delete_topics([topic])[topic].result(30)
    wait_until(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic is gone")
    run.done("topics", "create")
    write(3, 4, 5, 6)
    if not has_id:
        with run.ledger() as ledger:
            ledger.execute("DELETE FROM consumed_topic WHERE topic = ?", [topic])

    sink = run.start("sink", **env)

    sink.wait_until(lambda: _stored(run) == 6, 60, "no record is skipped")
    port = run.port(sink)
    assert metric(port, "resmeter_usage_records_missing_total") == 1
    assert ("usage_topic_is_another" if has_id else "usage_records_replaced") in sink.log()


def test_an_unreadable_message_is_quarantined_and_does_not_block_the_rest(
    load: Load, loaded_run: Run, stripe: Emulator
) -> None:
    run = loaded_run
    run.done("ledger", "upgrade")
    misdirected = run.env | {"RESMETER_TOPICS__EVENTS": run.env["RESMETER_TOPICS__RECORDS"]}
    intruder = Run(run.servers, run.folder, run._stack)
    intruder.env = misdirected
    intruder.produce([(b"acme", b"\x00 not a usage record", 0), (b"acme", None, 0)])
    worker, sink = run.start("worker"), run.start("sink")
    port = run.port(sink)

    run.until_decided(worker, load.size)
    _until_billed(run, sink, len(load.records))

    assert metric(port, "resmeter_usage_records_refused_total", reason="unreadable") == 2
    assert sum(_at_stripe(stripe).values()) == len(_net_units(load))


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", 1, "cannot be used"),
        ("sqlite:////nowhere/at/all/ledger.sqlite", 2, "run `resmeter ledger upgrade`"),
        ("mysql://x/y", 2, "is not supported"),
    ],
)
def test_an_unusable_ledger_is_named_with_the_reason(
    run: Run, url: str, status: int, message: str
) -> None:
    result = run.resmeter("sink", RESMETER_LEDGER__URL=url)

    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_sink_without_its_topic_says_which_command_to_run(run: Run) -> None:
    run.done("ledger", "upgrade")

    result = run.resmeter("sink", RESMETER_TOPICS__RECORDS="not.there")

    assert result.returncode == 2
    assert "has no topic not.there: run `resmeter topics create`" in result.stderr


def _stored(run: Run) -> int:
    path = Path(run.env["RESMETER_LEDGER__URL"].removeprefix("sqlite:///"))
    ledger = open_ledger(f"sqlite:///{path}")
    try:
        with ledger.reading() as connection:
            return int(
                connection.exec_driver_sql("SELECT count(*) FROM usage_record").scalar() or 0
            )
    finally:
        ledger.close()


def _until_billed(run: Run, sink: Process, records: int) -> None:
    def is_billed() -> bool:
        if _stored(run) < records:
            return False
        ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
        try:
            return all(usage.quantity == usage.delivered for usage in reports.usage(ledger))
        finally:
            ledger.close()

    sink.wait_until(is_billed, 90, "everything is billed")


def _in_ledger(run: Run) -> object:
    """Return the net units of every conversation in the ledger, without zeros."""
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
    units: dict[tuple[str, str], dict[str, int]] = {}
    try:
        with ledger.reading() as connection:
            rows = connection.exec_driver_sql(
                "SELECT tenantid, conversation, outcome, sum(quantity) FROM usage_record "
                "GROUP BY tenantid, conversation, outcome HAVING sum(quantity) <> 0"
            )
            for tenant_id, conversation, outcome, quantity in rows:
                units.setdefault((tenant_id, conversation), {})[outcome] = quantity
    finally:
        ledger.close()
    return units


def _units(expected: dict[tuple[str, str], dict[str, int]]) -> dict[str, int]:
    units: dict[str, int] = {}
    for (tenant_id, _), outcomes in expected.items():
        customer = f"cus_{tenant_id.replace('-', '_')}"
        units[customer] = units.get(customer, 0) + sum(outcomes.values())
    return units


def _unit_of_nobody(emulator: Emulator) -> dict[str, Any]:
    """Return a meter event that is not in the ledger, as another program might send it."""
    return {
        "event_name": "resmeter_resolution",
        "identifier": "not-ours",
        "payload": {"stripe_customer_id": "cus_tenant_0001", "value": "1"},
        "timestamp": str(int(emulator.clock.now()) - 86_400),
    }


def _net_units(load: Load) -> list[str]:
    return [outcome for outcomes in net(load.records.values()).values() for outcome in outcomes]


def _at_stripe(emulator: Emulator) -> dict[str, int]:
    units: dict[str, int] = {}
    for entry in emulator.state.sums()["sums"]:
        units[entry["customer"]] = units.get(entry["customer"], 0) + entry["sum"]
    return units
