"""Faults of the worker: kills, zombies, restarts, scaling, a lost changelog, a clock that steps."""

import random

import psutil
from confluent_kafka.admin import AdminClient

from pipeline.dev.process import Process
from tests.kafka.compaction import compact
from tests.proof.crashing import STOP, WORKER_POINTS
from tests.proof.rig import Rig

# Small batches, one at a time, so that a fault hits the worker in the middle of the log.
SLOW = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "300", "RESMETER_WORKER__INFLIGHT_BATCHES_MAX": "1"}


def worker_killed(rig: Rig) -> None:
    rig.start("sink", "sink")
    for name in ("a", "b", "c"):
        rig.start(name, "worker", **SLOW)
    chance = random.Random(1)
    for number in range(10):
        rig.pause(chance.uniform(0.5, 4.0))
        rig.kill("abc"[number % 3])
    rig.fault_is_over()


def worker_points(rig: Rig, times: int = 10) -> None:
    rig.start("sink", "sink")
    chance = random.Random(2)
    others = ("b", "c")
    # Every worker is slow, so that the log lasts until the last crash.
    small = {**SLOW, "RESMETER_WORKER__BATCH_EVENTS_MAX": "50"}
    for name in others:
        rig.start(name, "worker", mode="slow 1", **small)
    for number in range(times * len(WORKER_POINTS)):
        point = WORKER_POINTS[number % len(WORKER_POINTS)]
        nth = chance.randint(1, 2 if "commit" in point else 6)
        rig.crash_at(point, nth, "worker", **small)
        other = others[number % 2]
        rig.retire(other)
        rig.start(other, "worker", mode="slow 1", **small)
    rig.check_crashes(WORKER_POINTS, times)
    for name in others:
        rig.retire(name)
    rig.fault_is_over()


def processes(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", RESMETER_WORKER__PROCESSES="3", **SLOW)
    chance = random.Random(6)
    for _ in range(10):
        worker = rig.process("worker")
        parent = psutil.Process(worker.pid)
        rig.until(lambda parent=parent: len(parent.children()) == 3, "the worker has 3 processes")  # type: ignore[misc]
        rig.pause(chance.uniform(0.5, 4.0))
        children = parent.children()
        chance.choice(children).kill()
        rig.faults += 1
        rig.until(lambda worker=worker: worker.status is not None, "the worker has ended")  # type: ignore[misc]
        assert worker.status == 1, f"the worker ended with {worker.status}"
        assert not any(map(psutil.pid_exists, (child.pid for child in children)))
        rig.restart_ended()
    rig.fault_is_over()


def zombie(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("zombie", "worker", **SLOW)
    rig.until_share_decided(0.1)
    for _ in range(3):
        rig.freeze("zombie")
        rig.start("new owner", "worker", **SLOW)
        before = rig.run.committed()
        rig.until(
            lambda before=before: rig.run.committed() > before or rig.is_done(),  # type: ignore[misc]
            "the new owner commits",
        )
        rig.resume("zombie")
        rig.pause(3)
        rig.retire("new owner")
    rig.fault_is_over()


def late_states(rig: Rig) -> None:
    rig.start("sink", "sink")
    for nth in (1, 4, 2):
        _write_late(rig, [_stopped(rig, nth)])
    rig.fault_is_over()


def two_zombies(rig: Rig) -> None:
    rig.start("sink", "sink")
    for nth in (1, 4, 2):
        # The second has the partitions of the first, and is stopped too.
        _write_late(rig, [_stopped(rig, nth), _stopped(rig, 3)])
    rig.fault_is_over()


def fence_killed(rig: Rig) -> None:
    rig.start("sink", "sink")
    for nth in (1, 2, 4):
        zombie = _stopped(rig, 2)
        rig.crash_at("after fence", nth, "worker", **SLOW)
        _write_late(rig, [zombie])
    assert rig.crashes["after fence"] == 3, "a worker did not reach its fence"
    rig.fault_is_over()


def _stopped(rig: Rig, nth: int) -> Process:
    """Return a worker that stopped before it wrote the states of its Nth batch."""
    worker = rig.start_once("worker", f"{STOP}before states {nth}", **SLOW)
    state = psutil.Process(worker.pid)
    rig.until(lambda: state.status() == psutil.STATUS_STOPPED, "a worker has stopped")
    rig.faults += 1
    return worker


def _write_late(rig: Rig, zombies: list[Process]) -> None:
    """Let a new owner work, then the zombies; then compact the changelog, without a worker."""
    rig.start("new owner", "worker", **SLOW)
    wanted = min(rig.run.committed() + rig.load.truth.records // 10, rig.load.truth.records)
    rig.until(lambda: rig.run.committed() >= wanted, "the new owner commits")
    for zombie in zombies:
        zombie.resume()
    rig.until(lambda: all(zombie.status == 1 for zombie in zombies), "the zombies have ended")
    rig.retire("new owner")
    compact(rig.run)


def rolling_restart(rig: Rig) -> None:
    rig.start("sink", "sink")
    for name in ("a", "b", "c"):
        rig.start(name, "worker", **SLOW)
    for name in ("a", "b", "c") * 2:
        rig.pause(2)
        rig.retire(name)
        rig.start(name, "worker", **SLOW)
        rig.faults += 1
    rig.fault_is_over()


def scale(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("a", "worker", **SLOW)
    rig.until_share_decided(0.05)
    for name in ("b", "c"):
        rig.start(name, "worker", **SLOW)
        rig.faults += 1
        rig.pause(3)
    for name in ("a", "b"):
        rig.retire(name)
        rig.faults += 1
        rig.pause(2)
    rig.fault_is_over()


def changelog_deleted(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", **SLOW)
    rig.until_share_decided(0.3)
    rig.retire("worker")
    admin = AdminClient({"bootstrap.servers": rig.run.servers})
    changelog = rig.run.env["RESMETER_TOPICS__CHANGELOG"]
    for future in admin.delete_topics([changelog]).values():
        future.result()
    rig.faults += 1
    rig.until(
        lambda: changelog not in admin.list_topics(timeout=10).topics, "the changelog is deleted"
    )
    rig.run.done("topics", "create")
    worker = rig.run.resmeter("worker")
    if worker.returncode != 2:
        raise AssertionError(f"a worker without its states ended with {worker.returncode}")
    # Do what the worker's message says: a new group reads all events again. The ledger recognises the
    # usage records that the worker writes a second time.
    rig.run.env["RESMETER_WORKER__GROUP"] += "-rebuilt"
    rig.fault_is_over()


def generations(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", mode="generation 40", RESMETER_WORKER__BATCH_EVENTS_MAX="300")
    rig.until_share_decided(0.7)
    rig.faults += 1
    rig.fault_is_over()


def clock_steps(rig: Rig) -> None:
    for command in ("worker", "sink"):
        rig.start(command, command, mode="clock 2", **SLOW)
    rig.pause(20)
    rig.faults += 10
    for command in ("worker", "sink"):
        rig.retire(command)
    rig.fault_is_over()
