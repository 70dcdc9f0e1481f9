"""Run the demo: start everything, send the events, wait until all is billed, close the month, stop."""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from types import FrameType

import msgspec
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.billing.periods import Calendar
from pipeline.config import Settings
from pipeline.dev.broker import KAFKA_VERSION, running_kafka
from pipeline.dev.process import Process, run, run_or_raise, running
from pipeline.events.times import format_time
from pipeline.kafka.options import librdkafka_options
from pipeline.ledger import open_ledger, records, reports
from pipeline.replay.decide import Histories
from pipeline.usage.record import UsageRecord

DATA = "airline_support.events.ndjson"
API_KEY = "sk_test_demo"
_START_SECONDS_MAX = 60.0
_WORK_SECONDS_MAX = 120.0
_PORT = r'"http_port": (\d+)'
_CUSTOMERS = {  # tenant → Stripe customer
    "aurora": "cus_demo_aurora",
    "bluejay": "cus_demo_bluejay",
    "contoso-travel": "cus_demo_contoso",
    "fly-kite": "cus_demo_fly_kite",
    "northwind-air": "cus_demo_northwind",
}
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

_EVENTS = "RESMETER_TOPICS__EVENTS"
_RECORDS = "RESMETER_TOPICS__RECORDS"
_LEDGER = "RESMETER_LEDGER__URL"

Step = Callable[[str], contextlib.AbstractContextManager[None]]


class Demo(msgspec.Struct, frozen=True):
    """A running demo: its files, its settings and its addresses."""

    folder: Path
    data: Path
    env: dict[str, str]  # the settings for a `resmeter` command that uses the demo
    broker: str  # described for people
    worker_url: str
    sink_url: str
    emulator_url: str
    period: str  # the month of the events
    ends: str  # a time after it, for the emulator's clock
    sink: Process


@contextlib.contextmanager
def running_demo(settings: Settings, step: Step) -> Iterator[Demo]:
    """Run the whole pipeline until nothing is pending, and keep it up while the context is open.

    Args:
        settings: the Kafka settings are used if they name a broker; otherwise the demo starts one.
        step: returns a context that shows one step of the demo while the step runs.

    Raises:
        UnavailableError: a process did not start, or ended; the message shows the end of its log.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminable())
        folder = Path(tempfile.mkdtemp(prefix="resmeter-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        data = stack.enter_context(resources.as_file(resources.files(__package__) / "data" / DATA))
        run_id = uuid.uuid4().hex[:8]
        servers, broker = _broker(settings, folder, step, stack)
        with step("emulator of Stripe's billing API, with five customers"):
            config = folder / "resmeter.toml"
            config.write_text(_tenant_file())
            month, ends, newest = _times(data)
            # A second before the month of the events: its first subscriptions have whole periods.
            options = ["--port", "0", "--clock", month, "--tenants", str(config)]
            emulator = stack.enter_context(
                running("emulator", ["emulator", *options], {**os.environ}, folder / "emulator.log")
            )
            emulator_url = emulator.find(r"ready at (http://\S+)", _START_SECONDS_MAX)
        env = _environment(servers, run_id, folder, config, emulator_url)
        whole_env = {**os.environ, **env}
        with step("topics and ledger tables"):
            stack.callback(_delete_topics, settings, servers, env)
            run_or_raise(["topics", "create"], whole_env)
            run_or_raise(["ledger", "upgrade"], whole_env)
        with step("prices and subscriptions at Stripe"):
            run_or_raise(["stripe", "setup", "--subscriptions", "--apply"], whole_env)
            _set_clock(emulator_url, newest)
        with step("worker and sink"):
            worker, sink = (
                stack.enter_context(running(name, [name], whole_env, folder / f"{name}.log"))
                for name in ("worker", "sink")
            )
            worker_url, sink_url = (
                f"http://127.0.0.1:{process.find(_PORT, _START_SECONDS_MAX)}"
                for process in (worker, sink)
            )
        events = sum(1 for line in data.open("rb") if line.strip())
        with step(f"{events:,} events of 200 conversations, sent to {env[_EVENTS]}"):
            run_or_raise(["produce", str(data)], whole_env)
        with step("every conversation is decided"):
            worker.wait_until(
                lambda: _is_decided(worker_url, events),
                _WORK_SECONDS_MAX,
                "every conversation is decided",
            )
        with step("every unit is in the ledger and at Stripe"):
            sink.wait_until(
                lambda: _is_billed(servers, env, settings),
                _WORK_SECONDS_MAX,
                "no usage is pending",
            )
        yield Demo(
            folder, data, env, broker, worker_url, sink_url, emulator_url, newest[:7], ends, sink
        )


def close_month(demo: Demo, charged: UsageRecord, step: Step) -> None:
    """Let a customer's message arrive late, which takes a charge back; then close the month.

    Raises:
        UnavailableError: the sink ended, or something takes too long.
    """
    env = {**os.environ, **demo.env}
    file = demo.folder / "late.ndjson"
    file.write_bytes(_late_message(charged))
    with step(f"a message of {charged.tenant_id} arrives days late, and takes a unit back"):
        run_or_raise(["produce", str(file)], env)
        demo.sink.wait_until(
            lambda: _is_taken_back(demo, charged), _WORK_SECONDS_MAX, "the unit is taken back"
        )
    with step("the month is closed, and its invoices are final"):
        _set_clock(demo.emulator_url, demo.ends)
        demo.sink.wait_until(
            lambda: run(["close", "--period", demo.period], env).returncode == 0,
            _WORK_SECONDS_MAX,
            "the month is closed",
        )


def _late_message(charged: UsageRecord) -> bytes:
    """Return a message in which the customer asks again, from an hour after the answer."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"{charged.conversation}-late",
            "source": "/airline/support",
            "type": "conversation.customer_message",
            "subject": charged.conversation,
            # Silence is charged at the end of its window of a day.
            "time": format_time(charged.occurred_at - _DAY_MS + _HOUR_MS),
            "tenantid": charged.tenant_id,
            "datacontenttype": "application/json",
            "data": {"intent": "help_request"},
        }
    )


def _is_taken_back(demo: Demo, charged: UsageRecord) -> bool:
    ledger = open_ledger(demo.env[_LEDGER])
    try:
        receipts = reports.receipts(ledger, charged.tenant_id, charged.conversation)
    finally:
        ledger.close()
    return sum(receipt.record.quantity for receipt in receipts) == 0


def histories(data: Path) -> Histories:
    """Return the conversations in the demo's file."""
    histories = Histories()
    for line in data.read_bytes().splitlines():
        histories.add(line)
    return histories


def sums_at_stripe(demo: Demo) -> dict[str, int]:
    """Return the units that the emulator counted, by tenant."""
    with urllib.request.urlopen(f"{demo.emulator_url}/_emulator/sums", timeout=10) as response:
        content = orjson.loads(response.read())
    counted = {entry["customer"]: int(entry["sum"]) for entry in content["sums"]}
    return {tenant_id: counted.get(customer, 0) for tenant_id, customer in _CUSTOMERS.items()}


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that the demo removes everything it started."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    earlier_handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)


def _broker(
    settings: Settings, folder: Path, step: Step, stack: contextlib.ExitStack
) -> tuple[str, str]:
    if "bootstrap_servers" in settings.kafka.model_fields_set:
        servers = settings.kafka.bootstrap_servers
        with step(f"Kafka at {servers}, from RESMETER_KAFKA__BOOTSTRAP_SERVERS"):
            return servers, f"Kafka at {servers}"
    with step(f"Kafka {KAFKA_VERSION}, started from Python packages"):
        servers = stack.enter_context(running_kafka(folder / "kafka")).bootstrap_servers
    return servers, f"Kafka {KAFKA_VERSION} at {servers}, started here"


def _tenant_file() -> str:
    tenants = (
        f'[tenants.{tenant_id}]\nstripe_customer = "{customer}"\n'
        for tenant_id, customer in _CUSTOMERS.items()
    )
    return "\n".join(['policy = "fin-2026"\n', *tenants])


def _times(data: Path) -> tuple[str, str, str]:
    """Return the times for the emulator's clock: before the month of the events, after it, and within.

    Stripe accepts only timestamps of the last 35 days, and the demo's events may be older.
    """
    newest = max(event.at for _, _, history in histories(data) for event in history)
    month = Calendar().period_at(newest)
    times = (month.start_ms - 1_000, month.end_ms + 120_000, newest + 3 * _DAY_MS)
    before, after, within = map(format_time, times)
    return before, after, within


def _set_clock(emulator_url: str, now: str) -> None:
    request = urllib.request.Request(
        f"{emulator_url}/_emulator/clock", orjson.dumps({"now": now}), method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10):
        return


class InvoiceLine(msgspec.Struct, frozen=True):
    """A line of an invoice, as Stripe has it."""

    description: str
    amount: int


def invoices_at_stripe(demo: Demo) -> dict[str, list[InvoiceLine]]:
    """Return the lines of the newest final invoice of each tenant, in cents."""
    lines: dict[str, list[InvoiceLine]] = {}
    for tenant_id, customer in _CUSTOMERS.items():
        request = urllib.request.Request(
            f"{demo.emulator_url}/v1/invoices?customer={customer}&limit=1",
            headers={"Authorization": f"Bearer {API_KEY}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            (invoice,) = orjson.loads(response.read())["data"]
        if invoice["status"] != "draft":
            lines[tenant_id] = msgspec.convert(invoice["lines"]["data"], list[InvoiceLine])
    return lines


def _environment(
    servers: str, run_id: str, folder: Path, config: Path, emulator_url: str
) -> dict[str, str]:
    return {
        "RESMETER_CONFIG": str(config),
        "RESMETER_KAFKA__BOOTSTRAP_SERVERS": servers,
        _EVENTS: f"demo-{run_id}.conversation.events",
        "RESMETER_TOPICS__CHANGELOG": f"demo-{run_id}.conversations-changelog",
        _RECORDS: f"demo-{run_id}.usage.records",
        "RESMETER_TOPICS__DEAD_LETTERS": f"demo-{run_id}.conversation.events.dlq",
        "RESMETER_TOPICS__CATALOG": f"demo-{run_id}.catalog",
        "RESMETER_TOPICS__JOURNAL": f"demo-{run_id}.journal",
        # The events happened in the past, so their own times must count as their arrival.
        "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
        "RESMETER_WORKER__GROUP": f"demo-{run_id}",
        "RESMETER_WORKER__HTTP_PORT": "0",
        "RESMETER_WORKER__SETTLE_QUIET_SECONDS": "2",
        _LEDGER: f"sqlite:///{folder}/ledger.sqlite",
        "RESMETER_SINK__GROUP": f"demo-{run_id}-sink",
        "RESMETER_SINK__HTTP_PORT": "0",
        "RESMETER_SINK__FLUSH_INTERVAL_SECONDS": "1",
        "RESMETER_CLOSE__AUTOMATIC": "false",  # the demo closes the month itself
        "RESMETER_STRIPE__API_KEY": API_KEY,
        "RESMETER_STRIPE__BASE_URL": emulator_url,
        "RESMETER_LOG__FORMAT": "json",
        "RESMETER_LOG__LEVEL": "info",
    }


def _is_decided(worker_url: str, events: int) -> bool:
    with urllib.request.urlopen(f"{worker_url}/metrics", timeout=10) as response:
        text = response.read().decode()

    def total(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    read = total("resmeter_events_total") + total("resmeter_rejected_total")
    open_work = total("resmeter_open_conversations") + total("resmeter_unacknowledged_batches")
    return read >= events and open_work == 0


def _is_billed(servers: str, env: dict[str, str], settings: Settings) -> bool:
    ledger = open_ledger(env[_LEDGER])
    try:
        stored = sum(records.offsets(ledger, env[_RECORDS]).values())
        sums = reports.usage(ledger)
    finally:
        ledger.close()
    pending = sum(usage.pending + usage.late for usage in sums)
    return not pending and stored > 0 and stored == _end(servers, env[_RECORDS], settings)


def _end(servers: str, topic: str, settings: Settings) -> int:
    """Return the number of records in a topic, over all partitions."""
    options = {**librdkafka_options(settings.kafka), "bootstrap.servers": servers}
    consumer = Consumer({**options, "group.id": "resmeter-demo-probe"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for number in partitions
        )
    finally:
        consumer.close()


def _delete_topics(settings: Settings, servers: str, env: dict[str, str]) -> None:
    """Delete the demo's topics from a broker that the demo did not start."""
    if "bootstrap_servers" not in settings.kafka.model_fields_set:
        return
    options = {**librdkafka_options(settings.kafka), "bootstrap.servers": servers}
    names = [
        value
        for name, value in env.items()
        if name.startswith("RESMETER_TOPICS__") and value.startswith("demo-")
    ]
    client = AdminClient(options)  # must live until the futures are done
    for future in client.delete_topics(names, operation_timeout=10).values():
        with contextlib.suppress(KafkaException):  # the topic was not created yet
            future.result()
