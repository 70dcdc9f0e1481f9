"""Starting a broker from Python packages checks its cluster id, its jars and its data folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.dev.broker import KAFKA_VERSION, cluster_id, known_digests
from pipeline.dev.folder import FolderInUse
from pipeline.errors import UnavailableError
from tests.support.command import resmeter


def test_a_cluster_id_never_looks_like_an_option() -> None:
    for _ in range(2_000):  # one draw in 64 would begin with "-"
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", cluster_id())


def test_a_jar_with_a_wrong_digest_is_reported_and_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "resmeter" / f"kafka-{KAFKA_VERSION}"
    folder.mkdir(parents=True)
    for name in known_digests():
        (folder / name).write_bytes(b"something else")

    result = resmeter("kafka", "--fetch", env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)})

    assert result.returncode == 1
    assert f"{folder}/{next(iter(known_digests()))} is not the expected file" in (
        result.stderr.decode()
    )


def test_a_data_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "kafka"

    result = resmeter("kafka", "--port", "0", "--data-dir", str(folder), env=dict(os.environ))

    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1] == (
        f"error: Kafka's data folder {folder} cannot be created: Not a directory; "
        "choose another --data-dir"
    )


def test_a_folder_in_use_is_reported_with_the_process_that_uses_it(tmp_path: Path) -> None:
    taken = FolderInUse(tmp_path)
    taken.say("process 123, a broker at 127.0.0.1:9092")
    (tmp_path / "server.properties").write_text("of the running broker")

    result = resmeter("kafka", "--port", "0", "--data-dir", str(tmp_path), env=dict(os.environ))

    assert result.returncode == 1
    assert result.stderr.decode().splitlines()[-1] == (
        f"error: Kafka's data folder {tmp_path} is in use by process 123, a broker at "
        "127.0.0.1:9092: connect to that broker, or stop it, or choose another --data-dir"
    )
    assert (tmp_path / "server.properties").read_text() == "of the running broker"
    taken.release()


def test_a_folder_stays_in_use_while_a_child_runs(tmp_path: Path) -> None:
    taken = FolderInUse(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(taken.descriptor,)
    )
    taken.release()

    with pytest.raises(UnavailableError, match=f"process {os.getpid()}: connect"):
        FolderInUse(tmp_path)

    child.communicate(b"\n")
    FolderInUse(tmp_path).release()
