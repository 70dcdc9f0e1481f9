"""A month that has ended, on a real broker: the sink closes it, and a person does."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, running
from pipeline.kafka.writer import TopicWriter
from pipeline.usage.record import encode_record
from tests.kafka.run import Run, wait_until
from tests.support.bench import record
from tests.support.stripe_account import client_of

TENANT_FILE = '[tenants.acme]\nstripe_customer = "cus_acme"\n'


def test_the_sink_closes_the_month_and_a_person_sees_it_and_closes_another(run: Run) -> None:
    now = datetime.fromtimestamp(time.time(), UTC)
    this_month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month = (this_month - timedelta(days=1)).replace(day=1)
    file = run.folder / "resmeter.toml"
    file.write_text(TENANT_FILE)
    run.env["RESMETER_CLOSE__AFTER_MINUTES"] = "0"
    run.begin_catalog(file)
    run.done("ledger", "upgrade")
    emulator = Emulator(clock=Clock(last_month.timestamp() - 1))
    emulator.backend.prepare(["cus_acme"], [])
    with running(emulator) as base_url:
        run.env["RESMETER_STRIPE__BASE_URL"] = base_url
        run.done("stripe", "setup", "--subscriptions", "--apply")
        emulator.backend.set_clock((this_month - timedelta(hours=1)).timestamp())
        used_ms = int((this_month - timedelta(hours=2)).timestamp() * 1000)
        options = {"bootstrap.servers": run.servers}
        with TopicWriter(options, run.env["RESMETER_TOPICS__RECORDS"]) as writer:
            for name in ("c1", "c2"):
                writer.write(b"acme", encode_record(record(name, at=used_ms)), [])
        sink = run.start("sink", RESMETER_CLOSE__EVERY_SECONDS="0.2")
        v1: Any = client_of(base_url).v1
        wait_until(
            lambda: sum(each["sum"] for each in emulator.state.sums()["sums"]) == 2, "delivered"
        )
        emulator.backend.set_clock((this_month + timedelta(minutes=2)).timestamp())

        def invoice() -> Any:
            return v1.invoices.list({"customer": "cus_acme"}).data[0]

        sink.find('"event": "(invoice_final)"', 60)  # and the journal says so
        sink.stop()
        closed = run.resmeter("close", "--json")
        name = f"{last_month:%Y-%m}"
        statement = orjson.loads(run.done("statement", "acme", "--period", name, "--json"))
        again = run.done("close", "acme", "--period", name)

        assert (statement["state"], statement["total"]) == ("final", "1.98")
        assert (invoice().total, invoice().auto_advance) == (198, True)
        assert "1.98 USD, invoiced" in again
        assert (closed.stdout, closed.returncode) == ("", 0)
