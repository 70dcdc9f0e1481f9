"""Faults of the sink and of Stripe, rows without a fault, and a random mix of faults."""

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from pipeline.dev.emulator.faults import Fault, FaultKind
from tests.proof.crashing import SINK_POINTS
from tests.proof.rig import Rig
from tests.proof.worker_faults import SLOW

# --- the sink -------------------------------------------------------------------------------------


def sink_killed(rig: Rig) -> None:
    rig.start("worker", "worker", **SLOW)
    rig.start("sink", "sink")
    chance = random.Random(3)
    for _ in range(10):
        rig.pause(chance.uniform(0.8, 3.0))
        rig.kill("sink")
    rig.fault_is_over()


def sink_points(rig: Rig, times: int = 10) -> None:
    # The worker is slow, so that the sink has work until the last crash.
    rig.start("worker", "worker", mode="slow 1", **SLOW)
    chance = random.Random(4)
    for _ in range(times):
        for point in SINK_POINTS:
            rig.crash_at(point, chance.randint(1, 3), "sink")
    rig.check_crashes(SINK_POINTS, times)
    rig.retire("worker")
    rig.fault_is_over()


def two_sinks(rig: Rig) -> None:
    rig.start("worker", "worker", **SLOW)
    for name in ("one", "two"):
        rig.start(name, "sink")
    rig.until_share_decided(0.3)
    rig.kill("one")
    rig.fault_is_over()


def two_ledgers(rig: Rig) -> None:
    """Let a second sink bill from a ledger of its own; both of them are killed."""
    other = {
        "RESMETER_LEDGER__URL": f"sqlite:///{rig.folder / 'other.sqlite'}",
        "RESMETER_SINK__GROUP": f"{rig.run.env['RESMETER_SINK__GROUP']}-other",
    }
    rig.run.done("ledger", "upgrade", **other)
    rig.start("worker", "worker", **SLOW)
    rig.start("one", "sink")
    rig.start("two", "sink", **other)
    chance = random.Random(7)
    for number in range(10):
        rig.pause(chance.uniform(0.8, 3.0))
        rig.kill("one" if number % 2 else "two")
    rig.fault_is_over()


def ledger_restored(rig: Rig, times: int = 2) -> None:
    """Kill the sink after each step of a delivery, and put a copy from before in the ledger's place."""
    ledger, copy = rig.folder / "ledger.sqlite", rig.folder / "copy.sqlite"
    rig.start("worker", "worker", mode="slow 1", **SLOW)
    for _ in range(times):
        for point in SINK_POINTS:
            with closing(sqlite3.connect(ledger)) as used, closing(sqlite3.connect(copy)) as target:
                used.backup(target)
            rig.crash_at(point, 1, "sink")
            for file in rig.folder.glob("ledger.sqlite*"):
                file.unlink()
            shutil.copyfile(copy, ledger)
    rig.check_crashes(SINK_POINTS, times)
    rig.retire("worker")
    rig.fault_is_over()


def empty_ledger(rig: Rig) -> None:
    """Give the sink an empty ledger in the middle of its work, three times."""
    rig.start("worker", "worker", mode="slow 1", **SLOW)
    for number in range(3):
        rig.start("sink", "sink")
        rig.until(lambda: rig.stored() > 0, "the ledger has usage records")
        rig.pause(5)
        rig.retire("sink")
        rig.run.env["RESMETER_LEDGER__URL"] = f"sqlite:///{rig.folder / f'empty-{number}.sqlite'}"
        rig.run.done("ledger", "upgrade")
        rig.faults += 1
    rig.retire("worker")
    rig.fault_is_over()


# --- Stripe ---------------------------------------------------------------------------------------


def stripe_fails(kind: FaultKind, seconds: float = 0.0) -> Callable[[Rig], None]:
    """Return a fault: every second call to Stripe fails in this way, 40 times."""

    def fault(rig: Rig) -> None:
        rig.start("worker", "worker", **SLOW)
        faults = rig.emulator.state.faults
        faults.append(Fault(kind=kind, times=40, every=2, seconds=seconds))
        rig.start("sink", "sink")
        rig.until(lambda: not faults, "Stripe has failed 40 times")
        rig.faults += 40
        rig.fault_is_over()

    return fault


def stripe_throttles(rig: Rig) -> None:
    rig.start("worker", "worker", **SLOW)
    faults = rig.emulator.state.faults
    faults.append(Fault(kind="429", times=1_000_000))
    rig.start("sink", "sink")
    rig.pause(60)
    rig.faults += faults[0].seen
    faults.clear()
    rig.fault_is_over()


# --- nothing, and everything ----------------------------------------------------------------------


def nothing(rig: Rig) -> None:
    rig.start("worker", "worker")
    rig.start("sink", "sink")
    rig.fault_is_over()


_STRIPE_KINDS: tuple[FaultKind, ...] = (
    "500_before",
    "500_after",
    "cut_before",
    "cut_after",
    "slow",
    "429",
)


def everything(rig: Rig, seconds: float = 600) -> None:
    chance = random.Random(5)
    names = ["a", "b", "c", "one", "two"]
    for name in names:
        rig.start(name, "worker" if len(name) == 1 else "sink", **SLOW)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        lot, name = chance.random(), chance.choice(names)
        if lot < 0.5:
            rig.kill(name)
        elif lot < 0.65:
            rig.freeze(name)
            rig.pause(chance.uniform(1, 6))
            rig.resume(name)
        elif lot < 0.72:
            rig.kafka.kill()
            rig.faults += 1
            rig.pause(chance.uniform(0, 2))
            rig.kafka.start()
        elif lot < 0.76:
            rig.kafka.freeze()
            rig.faults += 1
            time.sleep(chance.uniform(1, 8))
            rig.kafka.resume()
        else:
            kind = chance.choice(_STRIPE_KINDS)
            rig.emulator.state.faults.append(Fault(kind=kind, times=10, every=3, seconds=3.0))
            rig.faults += 10
        rig.pause(chance.uniform(0.5, 3))
    rig.emulator.state.faults.clear()
    rig.fault_is_over()
