"""What a row stands on: a log, processes that a supervisor restarts, a ledger, Stripe's stand-in."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.catalog.tenants import load_tenants
from pipeline.dev.broker import LocalKafka, free_port
from pipeline.dev.emulator.server import Clock, Emulator
from pipeline.dev.emulator.server import running as running_emulator
from pipeline.dev.process import Process
from tests.kafka.run import Run
from tests.proof.auditor import Truth, Verdict, connected, judge, read_truth
from tests.proof.load import Sent
from tests.support.environment import clean_environment

_AFTER_THE_LOAD = 1_778_600_000.0  # seconds since the epoch: some days later
_LOOK_SECONDS = 0.1
_DYING_SECONDS_MAX = 60.0


class Broker(LocalKafka):
    """A broker with a second listener: who comes to that one is sent through a relay."""

    def __init__(self, data: Path) -> None:
        port, self.behind, self.relayed = free_port(), free_port(), free_port()
        super().__init__(
            data,
            port,
            more_listeners={"RELAYED": self.behind},
            properties={
                "listener.security.protocol.map": (
                    "PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT"
                ),
                "advertised.listeners": (
                    f"PLAINTEXT://127.0.0.1:{port},RELAYED://127.0.0.1:{self.relayed}"
                ),
            },
        )


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """Run the broker of a matrix for as long as the context is open."""
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Loaded(NamedTuple):
    """A log, what it decides, and what an undisturbed run made of it."""

    topic: str
    truth: Truth
    undisturbed: dict[str, bytes]
    tenants: frozenset[str]


class Row(NamedTuple):
    """What a row came to."""

    name: str
    about: str
    events: int
    faults: int
    verdict: Verdict
    recovery_seconds: float
    seconds: float


def loaded(kafka: LocalKafka, folder: Path, sent: list[Sent]) -> Loaded:
    """Write a load to a topic of its own, and let one worker decide it in peace."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        run = Run(kafka.bootstrap_servers, folder, stack)
        run.done("topics", "create")
        run.produce((record.key, record.value, record.at) for record in sent)
        topic = run.env["RESMETER_TOPICS__EVENTS"]
        truth = read_truth(kafka.bootstrap_servers, topic)
        assert truth.records == len(sent)
        run.until_decided(run.start("worker"), len(sent))
        tenants = frozenset(record.key.split(b":")[0].decode() for record in sent)
        return Loaded(topic, truth, run.usage_records(), tenants)


class Stand:
    """One row under way. Processes that end are started again, as a platform would."""

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
        self.deaths: Counter[str] = Counter()  # by the point at which a process killed itself
        self.postgres: Any = None  # pgserver's handle, where the ledger is there
        self._seconds_max = seconds_max
        self._stack = stack
        self._started = 0
        self._kept: dict[str, tuple[str, str, str, dict[str, str], Process]] = {}
        self._fault_ended = time.monotonic()
        self.emulator = Emulator(clock=Clock(_AFTER_THE_LOAD))
        file = folder / "resmeter.toml"
        file.write_text(
            "".join(
                f'[tenants."{name}"]\nstripe_customer = "{_customer(name)}"\n'
                for name in sorted(load.tenants)
            )
        )
        found = load_tenants(file)
        self.emulator.state.prepare(found.customers.values(), found.event_names, 0)
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
            # A load has its share of garbage, and a fault may gather it.
            "RESMETER_WORKER__DEAD_LETTER_SHARE_MAX": "1",
        }
        self.run.done("topics", "create")
        self.run.done("ledger", "upgrade")

    # --- processes --------------------------------------------------------------------------------

    def keep(
        self, name: str, command: str, *, dies: str = "", disk: str = "", **env: str
    ) -> Process:
        """Start `worker` or `sink` under a name, and start it again whenever it has ended.

        `dies` is a point and a number of `crashing`; on `disk` lie its log and its other files.
        """
        self._started += 1
        log = Path(disk or self.folder) / f"{command}-{self._started}.log"
        if disk:
            env["TMPDIR"] = disk
        point, _, number = dies.rpartition(" ")
        process = Process(
            name,
            [point, number, command] if dies else [command],
            {**clean_environment(), **self.run.env, **env},
            log,
            module="tests.proof.crashing" if dies else "pipeline",
        )
        self._stack.callback(process.kill)
        self._kept[name] = (command, dies, disk, env, process)
        return process

    def let_go(self, name: str) -> None:
        """End a process in order, for good."""
        self._kept.pop(name)[4].stop()

    def process(self, name: str) -> Process:
        return self._kept[name][4]

    def kill(self, name: str) -> None:
        """End a process as a power cut does; the supervisor starts it again."""
        self.process(name).kill()
        self.faults += 1
        self.supervise()

    def stop(self, name: str) -> None:
        """Stop a process in its tracks."""
        os.kill(self.process(name).pid, signal.SIGSTOP)
        self.faults += 1

    def go_on(self, name: str) -> None:
        os.kill(self.process(name).pid, signal.SIGCONT)

    def supervise(self) -> int:
        """Start again whatever has ended; return how many those were."""
        ended = 0
        for name, (command, dies, disk, env, process) in list(self._kept.items()):
            if process.status is not None:
                self.keep(name, command, dies=dies, disk=disk, **env)
                ended += 1
        return ended

    def dies_at(self, point: str, number: int, command: str, **env: str) -> None:
        """Run a process that kills itself at a point, and wait until it has."""
        name = f"{command} that dies"
        process = self.keep(name, command, dies=f"{point} {number}", **env)
        del self._kept[name]  # it is not to come again
        deadline = time.monotonic() + _DYING_SECONDS_MAX
        # Where nothing is left to do, it never comes to its point.
        while process.status is None and time.monotonic() < deadline and not self.is_done():
            self.supervise()
            time.sleep(_LOOK_SECONDS)
        if process.status == -signal.SIGKILL:
            self.faults += 1
            self.deaths[point] += 1
        process.kill()

    # --- waiting ----------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let a fault last, or a process work on; it is no wait for something to come true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.supervise()
            time.sleep(_LOOK_SECONDS)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._seconds_max
        while not holds():
            self.supervise()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {self._seconds_max:.0f} s: {what}")
            time.sleep(_LOOK_SECONDS)

    def until_share_decided(self, share: float) -> None:
        wanted = int(self.load.truth.records * share)
        self.until(lambda: self.run.committed() >= wanted, f"{share:.0%} is decided")

    def fault_is_over(self) -> None:
        self._fault_ended = time.monotonic()

    def is_done(self) -> bool:
        """Say whether everything is decided, stored and delivered."""
        if self.run.committed() < self.load.truth.records:
            return False
        try:
            with connected(self.run.env["RESMETER_LEDGER__URL"]) as execute:
                [(stored,)] = execute("SELECT count(*) FROM usage_record")
                [(open_,)] = execute(
                    "SELECT count(*) FROM meter_event WHERE state IN ('planned', 'sent')"
                )
                pending = execute(
                    "SELECT tenantid, outcome FROM pending_record GROUP BY tenantid, outcome "
                    "HAVING sum(quantity) > 0"
                )
        except Exception:
            return False
        return stored >= len(self.load.undisturbed) and open_ == 0 and not pending

    def finish(self) -> float:
        """Let a worker and a sink work to the end; return seconds since the fault was over."""
        for command in ("worker", "sink"):
            if not any(kept[0] == command for kept in self._kept.values()):
                self.keep(f"last {command}", command)
        self.until(self.is_done, "everything is decided, stored and delivered")
        return time.monotonic() - self._fault_ended

    def verdict(self) -> Verdict:
        """Judge what is there now, once all processes have ended in order."""
        for name in list(self._kept):
            self.let_go(name)
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
def stand(
    kafka: Broker, load: Loaded, folder: Path, ledger_url: str | None, seconds_max: float
) -> Iterator[Stand]:
    """Set the scene of one row; everything in it ends with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = ledger_url or f"sqlite:///{folder}/ledger.sqlite"
        yield Stand(kafka, load, folder, stack, url, seconds_max=seconds_max)


def _customer(tenant_id: str) -> str:
    return f"cus_{tenant_id.replace('-', '_').replace('.', '_')}"
