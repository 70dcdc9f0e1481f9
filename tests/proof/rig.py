"""The rig of a row: a log, processes that restart when they end, a ledger, a Stripe emulator."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.catalog.tenants import load_tenants
from pipeline.config import KafkaSettings
from pipeline.dev.broker import LocalKafka, free_port
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator
from pipeline.dev.emulator.server import running as running_emulator
from pipeline.dev.load import EventRecord
from pipeline.dev.process import Process
from pipeline.kafka.positions import Positions
from tests.kafka.compaction import SOON
from tests.kafka.run import PARTITIONS, Run
from tests.proof.auditor import Truth, Verdict, connected, judge, read_truth
from tests.proof.load import Disorder
from tests.support.batches import Sent, produce_batch
from tests.support.environment import clean_environment

_AFTER_THE_LOAD = 1_778_600_000.0  # seconds since the epoch: some days later
_PROBE_SECONDS = 0.1
_CRASH_SECONDS_MAX = 60.0


class Broker(LocalKafka):
    """A broker with a second listener, which advertises the port of a relay to its clients."""

    def __init__(self, data: Path) -> None:
        port, self.behind_port, self.relay_port = free_port(), free_port(), free_port()
        super().__init__(
            data,
            port,
            more_listeners={"RELAYED": self.behind_port},
            properties={
                **SOON,
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT"
                ),
                "advertised.listeners": (
                    f"PLAINTEXT://127.0.0.1:{port},RELAYED://127.0.0.1:{self.relay_port}"
                ),
            },
        )


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """Run the matrix's broker for as long as the context is open."""
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


Message = tuple[bytes, bytes, int]  # key, value, timestamp in ms


class Loaded(NamedTuple):
    """A log, the units that follow from it, and the usage records of an undisturbed run."""

    topic: str
    truth: Truth
    undisturbed: dict[str, bytes]  # usage records by id
    tenants: frozenset[str]
    damaged: range = range(0)  # offsets of partition 0 that the broker's disk will change
    rest: Sequence[Message] = ()  # what the row itself writes to the topic


DAMAGED = b"DAMAGED" * 9  # the value of the records that the broker's disk will change


def loaded(
    kafka: LocalKafka, folder: Path, records: Sequence[EventRecord], disorder: Disorder
) -> Loaded:
    """Write a load to a new topic, and let one worker decide it without a fault."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        run = Run(kafka.bootstrap_servers, folder, stack)
        run.done("topics", "create")
        topic, damaged = run.env["RESMETER_TOPICS__EVENTS"], range(0)
        messages = [(record.key, record.value, record.timestamp_ms) for record in records]
        middle = len(messages) // 2
        run.produce(messages[:middle])
        if disorder.damage:
            damaged = _produce_damaged(run.servers, topic, messages[middle][2])
        run.produce(messages[middle:])
        truth = read_truth(run.servers, topic)
        assert truth.records == len(messages) + len(damaged)
        run.until_decided(run.start("worker"), truth.records)
        tenants = frozenset(record.key.split(b":")[0].decode() for record in records)
        loaded = Loaded(topic, truth, run.usage_records(), tenants, damaged)
        if disorder.transactions:
            begun = Run(kafka.bootstrap_servers, folder, stack)
            begun.done("topics", "create")
            begun.produce(messages[:middle])
            topic = begun.env["RESMETER_TOPICS__EVENTS"]
            loaded = loaded._replace(topic=topic, rest=messages[middle:])
        return loaded


def _produce_damaged(servers: str, topic: str, timestamp: int) -> range:
    """Write a batch whose bytes the broker's disk will change; return its offsets in partition 0."""
    first = _ends(servers, topic)[0]
    produce_batch(servers, topic, 0, [Sent(None, DAMAGED)] * 5, timestamp)
    return range(first, first + 5)


def _ends(servers: str, topic: str) -> dict[int, int]:
    return asyncio.run(
        Positions(KafkaSettings(bootstrap_servers=servers)).ends(topic, range(PARTITIONS))
    )


class _Supervised(NamedTuple):
    """A process that is restarted when it ends, and the arguments of its start."""

    command: str
    mode: str
    disk: str
    env: dict[str, str]
    process: Process


class Rig:
    """One running row. While the rig waits, it restarts processes that end, as a supervisor would."""

    def __init__(
        self,
        kafka: Broker,
        load: Loaded,
        folder: Path,
        stack: contextlib.ExitStack,
        ledger_url: str,
        *,
        seconds_max: float,
    ) -> None:
        self.kafka = kafka
        self.load = load
        self.folder = folder
        self.run = Run(kafka.bootstrap_servers, folder, stack, load.topic)
        self.faults = 0
        self.crashes: Counter[str] = Counter()  # by the point of the crash
        self.postgres: Any = None  # the server's handle, if the ledger is in PostgreSQL
        self._seconds_max = seconds_max
        self._stack = stack
        self._started = 0
        self._supervised: dict[str, _Supervised] = {}
        self._fault_ended = time.monotonic()
        self.emulator = Emulator(clock=Clock(_AFTER_THE_LOAD))
        file = folder / "resmeter.toml"
        file.write_text(
            "".join(
                f'[tenants."{name}"]\nstripe_customer = "{_customer(name)}"\n'
                for name in sorted(load.tenants)
            )
        )
        tenants = load_tenants(file)
        self.emulator.state.prepare(tenants.customers.values(), tenants.event_names, 0)
        base_url = stack.enter_context(running_emulator(self.emulator))
        self.run.env |= {
            "RESMETER_CONFIG": str(file),
            "RESMETER_LEDGER__URL": ledger_url,
            "RESMETER_STRIPE__BASE_URL": base_url,
            "RESMETER_SINK__DELIVERIES_CONCURRENT_MAX": "32",
            "RESMETER_SINK__CALL_TIMEOUT_SECONDS": "2",
            "RESMETER_SINK__RETRY_PAUSE_SECONDS_MAX": "1",
            "RESMETER_SINK__BATCH_RECORDS_MAX": "500",
            "RESMETER_WORKER__BATCH_EVENTS_MAX": "2000",
        }
        self.run.done("topics", "create")
        self.run.done("ledger", "upgrade")

    # --- processes --------------------------------------------------------------------------------

    def start(
        self, name: str, command: str, *, mode: str = "", disk: str = "", **env: str
    ) -> Process:
        """Start `worker` or `sink` under a name; the rig restarts the process when it ends.

        `mode` is a point or a mode of `crashing` and its number, such as `slow 1`. `disk` is a
        folder for the log and the temporary files of the process.
        """
        self._started += 1
        log = Path(disk or self.folder) / f"{command}-{self._started}.log"
        if disk:
            env["TMPDIR"] = disk
        point, _, number = mode.rpartition(" ")
        process = Process(
            name,
            [point, number, command] if mode else [command],
            {**clean_environment(), **self.run.env, **env},
            log,
            module="tests.proof.crashing" if mode else "pipeline",
        )
        self._stack.callback(process.kill)
        self._supervised[name] = _Supervised(command, mode, disk, env, process)
        return process

    def retire(self, name: str) -> None:
        """Stop a process gracefully, for good."""
        self._supervised.pop(name).process.stop()

    def process(self, name: str) -> Process:
        return self._supervised[name].process

    def kill(self, name: str) -> None:
        """Kill a process (SIGKILL), and restart it."""
        self.process(name).kill()
        self.faults += 1
        self.restart_ended()

    def freeze(self, name: str) -> None:
        """Freeze a process in the middle of its work (SIGSTOP)."""
        self.process(name).freeze()
        self.faults += 1

    def resume(self, name: str) -> None:
        self.process(name).resume()

    def restart_ended(self) -> None:
        """Restart every process that has ended."""
        for name, (command, mode, disk, env, process) in list(self._supervised.items()):
            if process.status is not None:
                self.start(name, command, mode=mode, disk=disk, **env)

    def start_once(self, command: str, mode: str, **env: str) -> Process:
        """Start a process that is not restarted when it ends."""
        name = f"{command}, {mode}"
        process = self.start(name, command, mode=mode, **env)
        del self._supervised[name]
        return process

    def crash_at(self, point: str, nth: int, command: str, **env: str) -> None:
        """Run a process that kills itself at a point, until it has or no work is left."""
        process = self.start_once(command, f"{point} {nth}", **env)
        deadline = time.monotonic() + _CRASH_SECONDS_MAX
        # If no work is left, the process never reaches its point.
        while process.status is None and time.monotonic() < deadline and not self.is_done():
            self.restart_ended()
            time.sleep(_PROBE_SECONDS)
        if process.status == -signal.SIGKILL:
            self.faults += 1
            self.crashes[point] += 1
        process.kill()

    def check_crashes(self, points: Sequence[str], times: int) -> None:
        """Fail if processes crashed fewer than `times` times at a point before the log ended."""
        rare = [f"{point} {self.crashes[point]}" for point in points if self.crashes[point] < times]
        assert not rare, f"fewer than {times} crashes at a point: {', '.join(rare)}"

    # --- waiting ----------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let a fault last for some time, or let the processes work. No result depends on it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.restart_ended()
            time.sleep(_PROBE_SECONDS)

    def until(self, is_true: Callable[[], bool], what: str) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: the condition was false for too long.
        """
        deadline = time.monotonic() + self._seconds_max
        while not is_true():
            self.restart_ended()
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {self._seconds_max:.0f} s: {what}")
            time.sleep(_PROBE_SECONDS)

    def stored(self) -> int:
        """Return how many usage records the ledger has."""
        with connected(self.run.env["RESMETER_LEDGER__URL"]) as execute:
            [(stored,)] = execute("SELECT count(*) FROM usage_record")
        return int(stored)

    def until_share_decided(self, share: float) -> None:
        wanted = int(self.load.truth.records * share)
        self.until(lambda: self.run.committed() >= wanted, f"{share:.0%} is decided")

    def fault_is_over(self) -> None:
        """Start to measure the time of recovery."""
        self._fault_ended = time.monotonic()

    def is_done(self) -> bool:
        """Return whether everything is decided, stored and delivered."""
        if self.run.committed() < self.load.truth.records:
            return False
        try:
            with connected(self.run.env["RESMETER_LEDGER__URL"]) as execute:
                [(stored,)] = execute("SELECT count(*) FROM usage_record")
                [(open_events,)] = execute(
                    "SELECT count(*) FROM meter_event WHERE state IN ('planned', 'sent')"
                )
                pending = execute(
                    "SELECT tenantid, outcome FROM pending_record GROUP BY tenantid, outcome "
                    "HAVING sum(quantity) > 0"
                )
        except Exception:
            return False  # the database is down because of the fault, or does not exist yet
        return stored >= len(self.load.undisturbed) and open_events == 0 and not pending

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> float:
        """Wait until all work is done; return the seconds since the fault was over.

        If no worker or no sink runs, start one.
        """
        for command in ("worker", "sink"):
            if not any(entry.command == command for entry in self._supervised.values()):
                self.start(f"last {command}", command)
        self.until(self.is_done, "everything is decided, stored and delivered")
        return time.monotonic() - self._fault_ended

    def verdict(self) -> Verdict:
        """Stop all processes gracefully, and audit the result."""
        for name in list(self._supervised):
            self.retire(name)
        written = []
        for message in self.run.messages("RECORDS"):
            assert message.value is not None
            written.append((message.value.split(b'"', 4)[3].decode(), message.value))
        letters = {
            (
                int((message.headers["resmeter-partition"] or b"").decode()),
                int((message.headers["resmeter-offset"] or b"").decode()),
            )
            for message in self.run.messages("DEAD_LETTERS")
        }
        names = {_customer(name): name for name in self.load.tenants}
        at_stripe: dict[str, int] = {}
        for entry in self.emulator.state.sums()["sums"]:
            name = names[entry["customer"]]
            at_stripe[name] = at_stripe.get(name, 0) + entry["sum"]
        return judge(
            self.load.truth,
            self.run.env["RESMETER_LEDGER__URL"],
            self.load.undisturbed,
            written,
            letters,
            at_stripe,
        )


@contextlib.contextmanager
def running_rig(
    kafka: Broker, load: Loaded, folder: Path, ledger_url: str | None, seconds_max: float
) -> Iterator[Rig]:
    """Set up the rig of one row; all its processes end with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = ledger_url or f"sqlite:///{folder}/ledger.sqlite"
        yield Rig(kafka, load, folder, stack, url, seconds_max=seconds_max)


def _customer(tenant_id: str) -> str:
    return f"cus_{tenant_id.replace('-', '_').replace('.', '_')}"
