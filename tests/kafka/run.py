"""Run the pipeline's processes for one test, with separate topics, groups and ledger."""

import contextlib
import os
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pipeline.config import KafkaSettings, Settings
from pipeline.dev import process as processes
from pipeline.dev.process import Process
from pipeline.errors import UnavailableError
from pipeline.kafka.reader import headers_of
from pipeline.settings import TopicSettings
from pipeline.usage.record import UsageRecord, decode_record
from tests.support.command import resmeter
from tests.support.environment import clean_environment

PARTITIONS = 4
SECONDS_MAX = 90.0
_HEADERS: list[tuple[str, str | bytes | None]] = [("content-type", b"application/cloudevents+json")]


class Message(NamedTuple):
    """A record that a test has read from a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes | None]


class Run:
    """The topics, groups, ledger and processes of one test."""

    def __init__(
        self, servers: str, folder: Path, stack: contextlib.ExitStack, events: str | None = None
    ) -> None:
        ids = uuid.uuid4().hex[:10]
        self.servers = servers
        self.folder = folder
        self._stack = stack
        self._started = 0
        self.env = {
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS": servers,
            "RESMETER_TOPICS__EVENTS": events or f"test-{ids}.events",
            "RESMETER_TOPICS__CHANGELOG": f"test-{ids}.changelog",
            "RESMETER_TOPICS__RECORDS": f"test-{ids}.records",
            "RESMETER_TOPICS__DEAD_LETTERS": f"test-{ids}.dlq",
            "RESMETER_TOPICS__CATALOG": f"test-{ids}.catalog",
            "RESMETER_TOPICS__JOURNAL": f"test-{ids}.journal",
            "RESMETER_TOPICS__PARTITIONS": str(PARTITIONS),
            "RESMETER_TOPICS__RECORDS_PARTITIONS": "2",
            "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
            "RESMETER_WORKER__GROUP": f"test-{ids}",
            "RESMETER_WORKER__HTTP_PORT": "0",
            "RESMETER_WORKER__SETTLE_QUIET_SECONDS": "1",
            "RESMETER_WORKER__SETTLE_INTERVAL_SECONDS": "0.2",
            "RESMETER_WORKER__SESSION_TIMEOUT_SECONDS": session_seconds(),
            "RESMETER_WORKER__COMMIT_INTERVAL_SECONDS": "0.2",
            "RESMETER_LEDGER__URL": f"sqlite:///{folder}/ledger.sqlite",
            "RESMETER_SINK__GROUP": f"test-{ids}-sink",
            "RESMETER_SINK__HTTP_PORT": "0",
            "RESMETER_SINK__SESSION_TIMEOUT_SECONDS": session_seconds(),
            "RESMETER_SINK__FLUSH_INTERVAL_SECONDS": "0.2",
            "RESMETER_STRIPE__API_KEY": "sk_test_tests",
            "RESMETER_STRIPE__BASE_URL": "http://127.0.0.1:1",  # where nothing listens
            "RESMETER_LOG__FORMAT": "json",
        }

    # --- commands and processes -------------------------------------------------------------------

    def resmeter(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; any exit status is accepted."""
        return processes.run(arguments, self._complete(env), seconds_max=SECONDS_MAX)

    def done(self, *arguments: str, **env: str) -> str:
        """Run a command that must succeed, in this process; return what it printed."""
        result = resmeter(*arguments, env=self._complete(env))
        assert result.returncode == 0, result.stderr.decode()
        return result.stdout.decode()

    def settings(self) -> Settings:
        """Return the settings that this run's processes have."""
        topics = TopicSettings(catalog=self.env["RESMETER_TOPICS__CATALOG"])
        return Settings(kafka=KafkaSettings(bootstrap_servers=self.servers), topics=topics)

    def begin_catalog(self, file: Path, name: str = "") -> None:
        """Begin a catalog with a tenant file, and use it from now on.

        What begins a catalog is in force at once; a change of a catalog would wait for its date.
        """
        name = name or f"{self.env['RESMETER_TOPICS__CATALOG']}-{file.stem}"
        self.env |= {"RESMETER_CONFIG": str(file), "RESMETER_TOPICS__CATALOG": name}
        self.done("topics", "create")

    def start(self, name: str, *, mode: str = "", **env: str) -> Process:
        """Start `worker` or `sink` in the background, and stop it at the end of the test.

        `mode` is a point or a mode of `tests.proof.crashing` and its number.
        """
        self._started += 1
        log = self.folder / f"{name}-{self._started}.log"
        process = Process(
            name,
            [*mode.rsplit(" ", 1), name] if mode else [name],
            self._complete(env),
            log,
            module="tests.proof.crashing" if mode else "pipeline",
        )
        self._stack.callback(process.stop)
        return process

    def _complete(self, env: Mapping[str, str]) -> dict[str, str]:
        return {**clean_environment(), **self.env, **env}

    def port(self, process: Process) -> int:
        return int(process.find(r'"http_port": (\d+)', SECONDS_MAX))

    # --- input ------------------------------------------------------------------------------------

    def produce(
        self, messages: Iterable[tuple[bytes | None, bytes | None, int]], **options: Any
    ) -> None:
        """Produce (key, value, timestamp in ms) to the events topic; wait for acknowledgements."""
        producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "message.max.bytes": 2_000_000,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for key, value, timestamp in messages:
            arguments = {"headers": _HEADERS, **options}
            producer.produce(
                self.env["RESMETER_TOPICS__EVENTS"],
                value,
                key,
                timestamp=timestamp,
                **arguments,
            )
            producer.poll(0)
        assert producer.flush(SECONDS_MAX) == 0

    # --- output -----------------------------------------------------------------------------------

    def messages(self, topic: str) -> list[Message]:
        """Return all messages of a topic (`EVENTS`, `RECORDS`, ...), by partition and offset."""
        name = self.env[f"RESMETER_TOPICS__{topic}"]
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "test-reader",
                "isolation.level": "read_uncommitted",
            }
        )
        result: list[Message] = []
        try:
            numbers = consumer.list_topics(name, timeout=10).topics[name].partitions
            ends: dict[int, int] = {}  # by partition, until the partition is read to its end
            starts = []
            for number in numbers:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=10)
                if high > low:
                    ends[number] = high
                    starts.append(TopicPartition(name, number, low))
            consumer.assign(starts)
            while ends:
                for message in consumer.consume(10_000, timeout=0.2):
                    assert message.error() is None
                    number, offset = message.partition(), message.offset()
                    assert number is not None
                    assert offset is not None
                    if number not in ends:
                        continue  # it was written meanwhile
                    key: Any = message.key()
                    value = message.value()
                    result.append(Message(number, offset, key, value, dict(headers_of(message))))
                    if offset + 1 >= ends[number]:
                        del ends[number]
        finally:
            consumer.close()
        return sorted(result, key=lambda message: (message.partition, message.offset))

    def usage_records(self) -> dict[str, bytes]:
        """Return the usage records by id. The test fails if an id has two contents."""
        usage_records: dict[str, bytes] = {}
        for message in self.messages("RECORDS"):
            assert message.value is not None
            record_id = decode_record(message.value).id
            assert usage_records.setdefault(record_id, message.value) == message.value
        return usage_records

    @contextlib.contextmanager
    def ledger(self) -> Iterator[sqlite3.Connection]:
        """Open the ledger's database; commit and close at the end."""
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.sqlite")) as ledger, ledger:
            yield ledger

    # --- waiting ----------------------------------------------------------------------------------

    def until_decided(self, process: Process, count: int) -> None:
        """Wait until `count` events are committed, and one worker has all partitions and no open work."""
        port = self.port(process)
        try:
            process.wait_until(
                lambda: (
                    self.committed() >= count
                    and _partitions_held(port) == PARTITIONS
                    and readiness(port)[0] == 200
                    and _open_work(port) == 0
                ),
                SECONDS_MAX,
                f"{count} events are decided",
            )
        except UnavailableError as error:
            raise AssertionError(
                f"{self.committed()} of {count} are committed; ready: {readiness(port)}; "
                f"{_partitions_held(port)} partitions held, {_open_work(port)} open; {error}"
            ) from error

    def committed(self) -> int:
        """Return how many events the worker's group has committed."""
        group, topic = self.env["RESMETER_WORKER__GROUP"], self.env["RESMETER_TOPICS__EVENTS"]
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group})
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        try:
            committed = consumer.committed(partitions, timeout=10)
            return sum(max(0, partition.offset) for partition in committed)
        except KafkaException as error:
            # A new broker has no group coordinator for a moment.
            if error.args[0].code() in {KafkaError.NOT_COORDINATOR, KafkaError._WAIT_COORD}:
                return 0
            raise
        finally:
            consumer.close()


def lines_named(stderr: str) -> list[dict[str, Any]]:
    """Return what a command printed about lines of its input; other objects are its log."""
    objects = [orjson.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return [each for each in objects if "line" in each]


def net(values: Iterable[bytes]) -> dict[tuple[str, str], dict[str, int]]:
    """Add up usage records: (tenant, conversation) → outcome → units, without zeros."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for value in values:
        record: UsageRecord = decode_record(value)
        units = sums.setdefault((record.tenant_id, record.conversation), {})
        units[record.outcome] = units.get(record.outcome, 0) + record.quantity
    without_zeros = {
        key: {outcome: number for outcome, number in units.items() if number}
        for key, units in sums.items()
    }
    return {key: units for key, units in without_zeros.items() if units}


def decided(lines: bytes) -> dict[tuple[str, str], dict[str, int]]:
    """Return the output of `resmeter decide` in the form of `net`."""
    decisions = map(orjson.loads, lines.splitlines())
    return {(d["tenantid"], d["conversation"]): d["net"] for d in decisions if d["net"]}


def metric(port: int, name: str, **labels: str) -> float:
    """Return the sum of all samples of a series that have these labels."""
    return sum(
        sample.value
        for sample in _samples(port)
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _samples(port: int) -> list[Sample]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples]


def _partitions_held(port: int) -> int:
    return sum(sample.name == "resmeter_lag_records" for sample in _samples(port))


def _open_work(port: int) -> float:
    return metric(port, "resmeter_open_conversations") + metric(
        port, "resmeter_unacknowledged_batches"
    )


def readiness(port: int) -> tuple[int, dict[str, Any]]:
    """Return status and content of `/health/ready`."""
    url = f"http://127.0.0.1:{port}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, orjson.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, orjson.loads(error.read())


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Wait until a condition is true; fail after `SECONDS_MAX`."""
    deadline = time.monotonic() + SECONDS_MAX
    while not is_true():
        assert time.monotonic() < deadline, f"waited {SECONDS_MAX:.0f} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def running(servers: str, folder: Path, events: str | None = None) -> Iterator[Run]:
    """Yield a run whose topics exist; its processes end with the context.

    `events` is the name of an existing events topic that several runs share.
    """
    with without_topics(servers, folder, events) as run:
        run.done("topics", "create")
        yield run


@contextlib.contextmanager
def without_topics(servers: str, folder: Path, events: str | None = None) -> Iterator[Run]:
    """Yield a run whose topics do not exist yet."""
    with contextlib.ExitStack() as stack:
        yield Run(servers, folder, stack, events)


def session_seconds() -> str:
    """Return the session timeout of the processes, in seconds. By default brokers allow 6 or more."""
    return os.environ.get("RESMETER_TEST_SESSION_SECONDS", "6")
