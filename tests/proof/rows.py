"""The rows of the matrix. The first line of each docstring is its line in the table."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import psutil
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from pipeline.dev.emulator.state import Fault
from tests.proof.crashing import SINK_POINTS, WORKER_POINTS
from tests.proof.relay import TROUBLES, relaying
from tests.proof.stand import Stand

SLOW = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "300", "RESMETER_WORKER__INFLIGHT_BATCHES_MAX": "1"}


# --- the worker -----------------------------------------------------------------------------------


def worker_killed(stand: Stand) -> None:
    """A worker is killed (SIGKILL) ten times, at any moment, while two others rebalance."""
    stand.keep("sink", "sink")
    for name in ("a", "b", "c"):
        stand.keep(name, "worker", **SLOW)
    chance = random.Random(1)
    for number in range(10):
        stand.pause(chance.uniform(0.5, 4.0))
        stand.kill("abc"[number % 3])
    stand.fault_is_over()


def worker_points(stand: Stand, times: int = 10) -> None:
    """A worker is killed at each named point of its batch cycle, ten times each, while two others rebalance."""
    stand.keep("sink", "sink")
    chance = random.Random(2)
    others = ("b", "c")
    # All leave enough of the log for those that die later.
    small = {**SLOW, "RESMETER_WORKER__BATCH_EVENTS_MAX": "50"}
    for name in others:
        stand.keep(name, "worker", dies="slow 1", **small)
    for number in range(times * len(WORKER_POINTS)):
        point = WORKER_POINTS[number % len(WORKER_POINTS)]
        nth = chance.randint(1, 2 if "commit" in point else 6)
        stand.dies_at(point, nth, "worker", **small)
        other = others[number % 2]
        stand.let_go(other)
        stand.keep(other, "worker", dies="slow 1", **small)
    _all_died(stand, WORKER_POINTS, times)
    for name in others:
        stand.let_go(name)
    stand.fault_is_over()


def _all_died(stand: Stand, points: tuple[str, ...], times: int) -> None:
    """Say so where the log ended too soon for a row to do what it says."""
    missing = [f"{point} {stand.deaths[point]}" for point in points if stand.deaths[point] < times]
    assert not missing, f"of {times} deaths at each point there were: {', '.join(missing)}"


def processes(stand: Stand) -> None:
    """A worker of three processes loses one of them (SIGKILL), ten times: it ends as a whole and starts again."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", RESMETER_WORKER__PROCESSES="3", **SLOW)
    chance = random.Random(6)
    for _ in range(10):
        worker = stand.process("worker")
        first = psutil.Process(worker.pid)
        stand.until(lambda first=first: len(first.children()) == 3, "its processes are there")  # type: ignore[misc]
        stand.pause(chance.uniform(0.5, 4.0))
        children = first.children()
        chance.choice(children).kill()
        stand.faults += 1
        stand.until(lambda worker=worker: worker.status is not None, "the worker has ended")  # type: ignore[misc]
        assert worker.status == 1, f"it ended with {worker.status}"
        assert not any(map(psutil.pid_exists, (child.pid for child in children)))
        stand.supervise()
    stand.fault_is_over()


def zombie(stand: Stand) -> None:
    """A worker is stopped (SIGSTOP) for longer than its session, and goes on with a new owner at work."""
    stand.keep("sink", "sink")
    stand.keep("zombie", "worker", **SLOW)
    stand.until_share_decided(0.1)
    for _ in range(3):
        stand.stop("zombie")
        stand.keep("heir", "worker", **SLOW)
        before = stand.run.committed()
        stand.until(
            lambda before=before: stand.run.committed() > before or stand.is_done(),  # type: ignore[misc]
            "the heir decides",
        )
        stand.go_on("zombie")
        stand.pause(3)
        stand.let_go("heir")
    stand.fault_is_over()


def rolling_restart(stand: Stand) -> None:
    """Three workers are restarted in order (SIGTERM), one after the other, twice."""
    stand.keep("sink", "sink")
    for name in ("a", "b", "c"):
        stand.keep(name, "worker", **SLOW)
    for name in ("a", "b", "c") * 2:
        stand.pause(2)
        stand.let_go(name)
        stand.keep(name, "worker", **SLOW)
        stand.faults += 1
    stand.fault_is_over()


def scale(stand: Stand) -> None:
    """From one worker to three and back to one."""
    stand.keep("sink", "sink")
    stand.keep("a", "worker", **SLOW)
    stand.until_share_decided(0.05)
    for name in ("b", "c"):
        stand.keep(name, "worker", **SLOW)
        stand.faults += 1
        stand.pause(3)
    for name in ("a", "b"):
        stand.let_go(name)
        stand.faults += 1
        stand.pause(2)
    stand.fault_is_over()


def changelog_deleted(stand: Stand) -> None:
    """The changelog topic is deleted: the worker refuses to start; the states are built from the events."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", **SLOW)
    stand.until_share_decided(0.3)
    stand.let_go("worker")
    admin = AdminClient({"bootstrap.servers": stand.run.servers})
    changelog = stand.run.env["RESMETER_TOPICS__CHANGELOG"]
    for future in admin.delete_topics([changelog]).values():
        future.result()
    stand.faults += 1
    stand.until(
        lambda: changelog not in admin.list_topics(timeout=10).topics, "the changelog is gone"
    )
    stand.run.done("topics", "create")
    refused = stand.run.resmeter("worker")
    if refused.returncode != 2:
        raise AssertionError(f"a worker without its states ended with {refused.returncode}")
    # What its message says: the group begins again, and what is written again is known.
    stand.run.env["RESMETER_WORKER__GROUP"] += "-anew"
    stand.fault_is_over()


def generations(stand: Stand) -> None:
    """A rebalance comes in the middle of a fetch, again and again: what was fetched is dropped."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", dies="generation 40", RESMETER_WORKER__BATCH_EVENTS_MAX="300")
    stand.until_share_decided(0.7)
    stand.faults += 1
    stand.fault_is_over()


def clock_steps(stand: Stand) -> None:
    """The clock of worker and sink steps by an hour, there and back, every two seconds."""
    for command in ("worker", "sink"):
        stand.keep(command, command, dies="clock 2", **SLOW)
    stand.pause(20)
    stand.faults += 10
    for command in ("worker", "sink"):
        stand.let_go(command)
    stand.fault_is_over()


# --- the broker -----------------------------------------------------------------------------------


def broker_killed(stand: Stand) -> None:
    """The broker is killed (SIGKILL) and restarted, three times."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", **SLOW)
    for _ in range(3):
        stand.pause(3)
        stand.kafka.kill()
        stand.faults += 1
        stand.pause(1)
        stand.kafka.start()
    stand.fault_is_over()


def broker_frozen(stand: Stand) -> None:
    """The broker is frozen (SIGSTOP) for 20 seconds."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", **SLOW)
    stand.until_share_decided(0.1)
    stand.kafka.freeze()
    stand.faults += 1
    time.sleep(20)
    stand.kafka.thaw()
    stand.fault_is_over()


def produce_refused(stand: Stand) -> None:
    """The broker refuses what is produced: NOT_ENOUGH_REPLICAS, then MESSAGE_TOO_LARGE."""
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", **SLOW)
    stand.until_share_decided(0.05)
    topics = [stand.run.env[f"RESMETER_TOPICS__{name}"] for name in ("RECORDS", "CHANGELOG")]
    for topic in topics:
        for name, wrong, right in (
            ("min.insync.replicas", "2", "1"),
            ("max.message.bytes", "100", "1048588"),
        ):
            _configure(stand, topic, name, wrong)
            stand.faults += 1
            stand.pause(4)
            _configure(stand, topic, name, right)
    stand.fault_is_over()


def produce_errors(stand: Stand) -> None:
    """One produce in five is answered with an error, before or after its effect, or by a line that is cut."""
    stand.keep("sink", "sink")
    with relaying(stand.kafka.relayed, stand.kafka.behind, every=5) as relay:
        relayed = {"RESMETER_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{stand.kafka.relayed}"}
        stand.keep("worker", "worker", **SLOW, **relayed)
        stand.until(
            lambda: relay.troubles >= 20 * len(TROUBLES) or stand.is_done(), "there is trouble"
        )
        relay.on = False
        stand.let_go("worker")
        stand.faults += relay.troubles
    stand.fault_is_over()


def _configure(stand: Stand, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": stand.run.servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


# --- the sink and the ledger ----------------------------------------------------------------------


def sink_killed(stand: Stand) -> None:
    """The sink is killed (SIGKILL) ten times, at any moment."""
    stand.keep("worker", "worker", **SLOW)
    stand.keep("sink", "sink")
    chance = random.Random(3)
    for _ in range(10):
        stand.pause(chance.uniform(0.8, 3.0))
        stand.kill("sink")
    stand.fault_is_over()


def sink_points(stand: Stand, times: int = 10) -> None:
    """The sink is killed at each named point of its cycle, ten times each."""
    # Slow, so that there is something to store and to deliver for as long as the row lasts.
    stand.keep("worker", "worker", dies="slow 1", **SLOW)
    chance = random.Random(4)
    for _ in range(times):
        for point in SINK_POINTS:
            stand.dies_at(point, chance.randint(1, 3), "sink")
    _all_died(stand, SINK_POINTS, times)
    stand.let_go("worker")
    stand.fault_is_over()


def two_sinks(stand: Stand) -> None:
    """Two sinks at once, one of them restarted on the way."""
    stand.keep("worker", "worker", **SLOW)
    for name in ("one", "two"):
        stand.keep(name, "sink")
    stand.until_share_decided(0.3)
    stand.kill("one")
    stand.fault_is_over()


def disk_full(stand: Stand) -> None:
    """The disk under the ledger is full for ten seconds."""
    stand.keep("worker", "worker", **SLOW)
    stand.keep("sink", "sink")
    stand.until_share_decided(0.2)
    ballast = stand.folder / "small" / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65_536)
    stand.faults += 1
    stand.pause(10)
    ballast.unlink()
    stand.fault_is_over()


def worker_disk_full(stand: Stand) -> None:
    """The disk for the worker's log and its temporary files is full for ten seconds, and at its restart."""
    small = stand.folder / "small"
    stand.keep("sink", "sink")
    stand.keep("worker", "worker", disk=str(small), **SLOW)
    stand.until_share_decided(0.1)
    ballast = small / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65_536)
    stand.faults += 1
    stand.pause(5)
    stand.kill("worker")
    stand.pause(5)
    ballast.unlink()
    stand.fault_is_over()


def postgres_killed(stand: Stand) -> None:
    """PostgreSQL ends as by a crash and restarts, three times; all its connections are cut, ten times."""
    stand.keep("worker", "worker", **SLOW)
    stand.keep("sink", "sink")
    chance = random.Random(6)
    for number in range(13):
        stand.pause(chance.uniform(0.3, 1.5))
        if number % 4 == 1:
            os.kill(stand.postgres.get_pid(), signal.SIGQUIT)  # its immediate shutdown
            stand.until(
                lambda: not (stand.postgres.pgdata / "postmaster.pid").exists(), "it has ended"
            )
            stand.postgres.ensure_postgres_running()
        else:
            stand.postgres.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        stand.faults += 1
    stand.fault_is_over()


# --- Stripe ---------------------------------------------------------------------------------------


def _stripe(kind: str, seconds: float = 0.0) -> Callable[[Stand], None]:
    def row(stand: Stand) -> None:
        stand.keep("worker", "worker", **SLOW)
        stand.emulator.state.faults.append(
            Fault(kind=kind, times=40, every=2, seconds=seconds)  # type: ignore[arg-type]
        )
        stand.keep("sink", "sink")
        stand.until(lambda: not stand.emulator.state.faults, "all faults were met")
        stand.faults += 40
        stand.fault_is_over()

    return row


stripe_500_before = _stripe("500_before")
stripe_500_before.__doc__ = "Stripe answers 500 and has not counted."
stripe_500_after = _stripe("500_after")
stripe_500_after.__doc__ = "Stripe answers 500 and has counted."
stripe_cut = _stripe("cut_after")
stripe_cut.__doc__ = "Stripe counts, and the line is cut before the answer."
stripe_hangs = _stripe("slow", 4.0)
stripe_hangs.__doc__ = "Stripe counts, and answers after the sink has given up waiting."


stripe_409 = _stripe("409")
stripe_409.__doc__ = "Stripe answers 409, as if another call for the customer were under way."


def stripe_429(stand: Stand) -> None:
    """Stripe answers 429 to everything for a minute."""
    stand.keep("worker", "worker", **SLOW)
    stand.emulator.state.faults.append(Fault(kind="429", times=1_000_000))
    stand.keep("sink", "sink")
    stand.pause(60)
    stand.faults += stand.emulator.state.faults[0].seen
    stand.emulator.state.faults.clear()
    stand.fault_is_over()


def nothing(stand: Stand) -> None:
    """Nothing fails; the log alone is what it is."""
    stand.keep("worker", "worker")
    stand.keep("sink", "sink")
    stand.fault_is_over()


# --- all of it ------------------------------------------------------------------------------------


def everything(stand: Stand, seconds: float = 600) -> None:
    """All of it at once for ten minutes: kills, stops, restarts, a broker that dies, Stripe's faults."""
    chance = random.Random(5)
    names = ["a", "b", "c", "one", "two"]
    for name in names:
        stand.keep(name, "worker" if len(name) == 1 else "sink", **SLOW)
    ends = time.monotonic() + seconds
    kinds = ("500_before", "500_after", "cut_before", "cut_after", "slow", "429")
    while time.monotonic() < ends:
        lot, name = chance.random(), chance.choice(names)
        if lot < 0.5:
            stand.kill(name)
        elif lot < 0.65:
            stand.stop(name)
            stand.pause(chance.uniform(1, 6))
            stand.go_on(name)
        elif lot < 0.72:
            stand.kafka.kill()
            stand.faults += 1
            stand.pause(chance.uniform(0, 2))
            stand.kafka.start()
        elif lot < 0.76:
            stand.kafka.freeze()
            stand.faults += 1
            time.sleep(chance.uniform(1, 8))
            stand.kafka.thaw()
        else:
            kind = chance.choice(kinds)
            stand.emulator.state.faults.append(
                Fault(kind=kind, times=10, every=3, seconds=3.0)  # type: ignore[arg-type]
            )
            stand.faults += 10
        stand.pause(chance.uniform(0.5, 3))
    stand.emulator.state.faults.clear()
    stand.fault_is_over()
