"""This file runs the demo: starts everything, sends the events, waits, and ends everything."""

import contextlib
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

from pipeline.config import Settings
from pipeline.dev.broker import KAFKA_VERSION, running_kafka
from pipeline.dev.process import Process, run
from pipeline.events.times import format_time
from pipeline.kafka.options import librdkafka_options
from pipeline.ledger import open_ledger, records, reports
from pipeline.replay.decide import Histories

DATA = "airline_support.events.ndjson"
API_KEY = "sk_test_demo"
_START_SECONDS_MAX = 60.0
_WORK_SECONDS_MAX = 120.0
_CUSTOMERS = {  # tenant → Stripe customer
    "aurora": "cus_demo_aurora",
    "bluejay": "cus_demo_bluejay",
    "contoso-travel": "cus_demo_contoso",
    "fly-kite": "cus_demo_fly_kite",
    "northwind-air": "cus_demo_northwind",
}
_A_DAY_MS = 86_400_000

Tell = Callable[[str], contextlib.AbstractContextManager[None]]


class Demo(msgspec.Struct, frozen=True):
    """What runs, and where it can be seen."""

    folder: Path
    data: Path
    env: dict[str, str]
    broker: str  # where it is, in words
    worker_url: str
    sink_url: str
    emulator_url: str


@contextlib.contextmanager
def running_demo(settings: Settings, step: Tell) -> Iterator[Demo]:
    """Run the whole pipeline until nothing is pending, and for as long as the context is open.

    Args:
        settings: where they name a broker, that one is used.
        step: shows one step; it is entered before the step and left after it.

    Raises:
        UnavailableError: something did not come up, or ended; with the end of its log.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminable())
        folder = Path(tempfile.mkdtemp(prefix="resmeter-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        data = stack.enter_context(resources.as_file(resources.files(__package__) / "data" / DATA))
        ids = uuid.uuid4().hex[:8]
        servers, broker = _broker(settings, folder, step, stack)
        with step("an emulator of Stripe's billing API, with five customers and their meters"):
            config = folder / "resmeter.toml"
            config.write_text(_tenant_file())
            emulator = Process(
                "emulator",
                ["emulator", "--port", "0", "--clock", _clock(data), "--tenants", str(config)],
                {},
                folder / "emulator.log",
            )
            stack.callback(emulator.stop)
            emulator_url = emulator.find(r"ready at (http://\S+)", _START_SECONDS_MAX)
        env = _environment(servers, ids, folder, config, emulator_url)
        with step("topics and the ledger's tables"):
            stack.callback(_delete_topics, settings, servers, env)
            run(["topics", "create"], env)
            run(["ledger", "upgrade"], env)
        with step("worker and sink, as the processes they are in production"):
            worker = Process("worker", ["worker"], env, folder / "worker.log")
            stack.callback(worker.stop)
            sink = Process("sink", ["sink"], env, folder / "sink.log")
            stack.callback(sink.stop)
            ports = [
                process.find(r'"http_port": (\d+)', _START_SECONDS_MAX)
                for process in (worker, sink)
            ]
        worker_url, sink_url = (f"http://127.0.0.1:{port}" for port in ports)
        events = sum(1 for line in data.open("rb") if line.strip())
        with step(f"{events:,} events of 200 conversations, produced to {env[_EVENTS]}"):
            run(["produce", str(data)], env)
        with step("the worker decides: every window has ended, every record is out"):
            worker.wait_until(
                lambda: _is_decided(worker_url, events), _WORK_SECONDS_MAX, "all is decided"
            )
        with step("the sink bills: every unit is in the ledger and at Stripe"):
            sink.wait_until(
                lambda: _is_billed(servers, env, settings), _WORK_SECONDS_MAX, "nothing is pending"
            )
        yield Demo(folder, data, env, broker, worker_url, sink_url, emulator_url)


_EVENTS = "RESMETER_TOPICS__EVENTS"
_RECORDS = "RESMETER_TOPICS__RECORDS"
_LEDGER = "RESMETER_LEDGER__URL"


def histories(data: Path) -> Histories:
    """Return the demo's conversations, read from its file alone."""
    found = Histories()
    for line in data.read_bytes().splitlines():
        found.add(line)
    return found


def sums_at_stripe(demo: Demo) -> dict[str, int]:
    """Return the units that the emulator counted, by tenant."""
    with urllib.request.urlopen(f"{demo.emulator_url}/_emulator/sums", timeout=10) as answer:
        content = orjson.loads(answer.read())
    counted = {entry["customer"]: int(entry["sum"]) for entry in content["sums"]}
    return {tenant_id: counted.get(customer, 0) for tenant_id, customer in _CUSTOMERS.items()}


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that nothing is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _broker(
    settings: Settings, folder: Path, step: Tell, stack: contextlib.ExitStack
) -> tuple[str, str]:
    if "bootstrap_servers" in settings.kafka.model_fields_set:
        servers = settings.kafka.bootstrap_servers
        with step(f"the Kafka that RESMETER_KAFKA__BOOTSTRAP_SERVERS names: {servers}"):
            return servers, f"Kafka at {servers}"
    with step(f"a real Kafka {KAFKA_VERSION} out of wheels, as none is named"):
        servers = stack.enter_context(running_kafka(folder / "kafka")).bootstrap_servers
    return servers, f"Kafka {KAFKA_VERSION} at {servers}, started here"


def _tenant_file() -> str:
    tenants = (
        f'[tenants.{tenant_id}]\nstripe_customer = "{customer}"\n'
        for tenant_id, customer in _CUSTOMERS.items()
    )
    return "\n".join(['policy = "fin-2026"\n', *tenants])


def _clock(data: Path) -> str:
    """Return a time for the emulator at which all of the data's usage has occurred.

    Stripe takes timestamps of the last 35 days; the data are of a past month.
    """
    newest = max(event.at for _, _, history in histories(data) for event in history)
    return format_time(newest + 3 * _A_DAY_MS)


def _environment(
    servers: str, ids: str, folder: Path, config: Path, emulator_url: str
) -> dict[str, str]:
    return {
        "RESMETER_CONFIG": str(config),
        "RESMETER_KAFKA__BOOTSTRAP_SERVERS": servers,
        _EVENTS: f"demo-{ids}.conversation.events",
        "RESMETER_TOPICS__CHANGELOG": f"demo-{ids}.conversations-changelog",
        _RECORDS: f"demo-{ids}.usage.records",
        "RESMETER_TOPICS__DEAD_LETTERS": f"demo-{ids}.conversation.events.dlq",
        # The events bring their own times: it is history that is loaded.
        "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
        "RESMETER_WORKER__GROUP": f"demo-{ids}",
        "RESMETER_WORKER__HTTP_PORT": "0",
        "RESMETER_WORKER__SETTLE_QUIET_SECONDS": "2",
        _LEDGER: f"sqlite:///{folder}/ledger.sqlite",
        "RESMETER_SINK__GROUP": f"demo-{ids}-sink",
        "RESMETER_SINK__HTTP_PORT": "0",
        "RESMETER_SINK__FLUSH_INTERVAL_SECONDS": "1",
        "RESMETER_STRIPE__API_KEY": API_KEY,
        "RESMETER_STRIPE__BASE_URL": emulator_url,
        "RESMETER_LOG__FORMAT": "json",
        "RESMETER_LOG__LEVEL": "info",
    }


def _is_decided(worker_url: str, events: int) -> bool:
    with urllib.request.urlopen(f"{worker_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    taken = total("resmeter_events_total") + total("resmeter_rejected_total")
    left = total("resmeter_open_conversations") + total("resmeter_unacknowledged_batches")
    return taken >= events and left == 0


def _is_billed(servers: str, env: dict[str, str], settings: Settings) -> bool:
    ledger = open_ledger(env[_LEDGER])
    try:
        stored = sum(records.offsets(ledger, env[_RECORDS]).values())
        sums = reports.usage(ledger)
    finally:
        ledger.close()
    pending = sum(found.quantity - found.delivered for found in sums)
    return not pending and stored > 0 and stored == _end(servers, env[_RECORDS], settings)


def _end(servers: str, topic: str, settings: Settings) -> int:
    """Return how many records a topic holds, over all partitions."""
    options = {**librdkafka_options(settings.kafka), "bootstrap.servers": servers}
    consumer = Consumer({**options, "group.id": "resmeter-demo-look"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
            for number in partitions
        )
    finally:
        consumer.close()


def _delete_topics(settings: Settings, servers: str, env: dict[str, str]) -> None:
    """Remove the run's topics; a broker of our own is thrown away as it is."""
    if "bootstrap_servers" not in settings.kafka.model_fields_set:
        return
    options = {**librdkafka_options(settings.kafka), "bootstrap.servers": servers}
    names = [
        value
        for name, value in env.items()
        if name.startswith("RESMETER_TOPICS__") and value.startswith("demo-")
    ]
    client = AdminClient(options)  # it must outlive the call
    for future in client.delete_topics(names, operation_timeout=10).values():
        with contextlib.suppress(KafkaException):  # one that was not made yet
            future.result()
