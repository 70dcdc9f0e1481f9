"""Faults of the broker, of PostgreSQL, and of the disk."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from tests.proof.relay import PRODUCE_ERRORS, relaying
from tests.proof.rig import Rig
from tests.proof.worker_faults import SLOW

# --- the broker -----------------------------------------------------------------------------------


def broker_killed(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", **SLOW)
    for _ in range(3):
        rig.pause(3)
        rig.kafka.kill()
        rig.faults += 1
        rig.pause(1)
        rig.kafka.start()
    rig.fault_is_over()


def broker_frozen(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", **SLOW)
    rig.until_share_decided(0.1)
    rig.kafka.freeze()
    rig.faults += 1
    time.sleep(20)  # not `pause`: while the broker is frozen, no process can be restarted
    rig.kafka.resume()
    rig.fault_is_over()


def produce_refused(rig: Rig) -> None:
    rig.start("sink", "sink")
    rig.start("worker", "worker", **SLOW)
    rig.until_share_decided(0.05)
    topics = [rig.run.env[f"RESMETER_TOPICS__{name}"] for name in ("RECORDS", "CHANGELOG")]
    for topic in topics:
        for name, wrong, right in (
            ("min.insync.replicas", "2", "1"),
            ("max.message.bytes", "100", "1048588"),
        ):
            _configure(rig, topic, name, wrong)
            rig.faults += 1
            rig.pause(4)
            _configure(rig, topic, name, right)
    rig.fault_is_over()


def produce_errors(rig: Rig) -> None:
    rig.start("sink", "sink")
    with relaying(rig.kafka.relay_port, rig.kafka.behind_port, every=5) as relay:
        relayed = {"RESMETER_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{rig.kafka.relay_port}"}
        rig.start("worker", "worker", **SLOW, **relayed)
        rig.until(
            lambda: relay.errors >= 20 * len(PRODUCE_ERRORS) or rig.is_done(),
            "every kind of error has happened 20 times",
        )
        relay.on = False
        rig.retire("worker")
        rig.faults += relay.errors
    rig.fault_is_over()


def _configure(rig: Rig, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": rig.run.servers})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


# --- PostgreSQL -----------------------------------------------------------------------------------


def postgres_killed(rig: Rig) -> None:
    rig.start("worker", "worker", **SLOW)
    rig.start("sink", "sink")
    chance = random.Random(6)
    for number in range(13):
        rig.pause(chance.uniform(0.3, 1.5))
        if number % 4 == 1:
            _end_postgres(rig)
            rig.postgres.ensure_postgres_running()
        else:
            rig.postgres.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        rig.faults += 1
    rig.fault_is_over()


def postgres_loses_commits(rig: Rig, times: int = 5) -> None:
    """Fail over to a replica that has not all commits: a crash-consistent copy of some seconds ago."""
    replica = rig.postgres.pgdata.with_name("replica")
    rig.start("worker", "worker", mode="slow 1", **SLOW)
    rig.start("sink", "sink")
    chance = random.Random(8)
    for _ in range(times):
        rig.pause(chance.uniform(1, 3))
        _end_postgres(rig)
        shutil.rmtree(replica, ignore_errors=True)
        subprocess.run(["cp", "-a", rig.postgres.pgdata, replica], check=True)
        rig.postgres.ensure_postgres_running()
        rig.pause(chance.uniform(2, 5))
        _end_postgres(rig)
        shutil.rmtree(rig.postgres.pgdata)
        subprocess.run(["cp", "-a", replica, rig.postgres.pgdata], check=True)
        rig.postgres.ensure_postgres_running()
        rig.faults += 1
    rig.retire("worker")
    rig.fault_is_over()


def _end_postgres(rig: Rig) -> None:
    os.kill(rig.postgres.get_pid(), signal.SIGQUIT)  # PostgreSQL's immediate shutdown
    rig.until(lambda: not (rig.postgres.pgdata / "postmaster.pid").exists(), "PostgreSQL ended")


# --- the disk -------------------------------------------------------------------------------------


def disk_full(rig: Rig) -> None:
    rig.start("worker", "worker", **SLOW)
    rig.start("sink", "sink")
    rig.until_share_decided(0.2)
    with _full(rig.folder / "small"):
        rig.faults += 1
        rig.pause(10)
    rig.fault_is_over()


def worker_disk_full(rig: Rig) -> None:
    small = rig.folder / "small"
    rig.start("sink", "sink")
    rig.start("worker", "worker", disk=str(small), **SLOW)
    rig.until_share_decided(0.1)
    with _full(small):
        rig.faults += 1
        rig.pause(5)
        rig.kill("worker")
        rig.pause(5)
    rig.fault_is_over()


@contextlib.contextmanager
def _full(folder: Path) -> Iterator[None]:
    """Fill a folder's file system; free the space when the context ends."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65_536)
    try:
        yield
    finally:
        ballast.unlink()
