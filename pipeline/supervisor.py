"""Run one worker as several processes behind one port; if one process ends, all end.

A Python process uses one core. On one host, several processes use more cores, and Docker Compose
sees one service with one port and one readiness check. On Kubernetes, run replicas with one process
each instead.

Each process is a complete worker: a member of the consumer group with its share of the partitions.
The processes share no memory. The supervisor starts them and processes no events itself. It serves
their metrics and health as one, and stops all of them on SIGTERM or SIGINT.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import aiohttp
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import WorkerSettings
from pipeline.errors import UnavailableError
from pipeline.http import listen, serving
from pipeline.logs import get_logger
from pipeline.metrics import ProcessesMetrics

_RESPONSE_SECONDS_MAX = 2.0  # shorter than the timeout of a scrape or a health check
_STOP_SECONDS_MORE = 5.0  # in addition to `stop_seconds_max`, the limit of each process
_REAP_SECONDS = 0.05
_START = b"+"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FAILED, _MISUSED = 1, 2
_T = TypeVar("_T")


class ChildContext(NamedTuple):
    """What a process gets from its supervisor."""

    number: int  # from 0
    listening: socket.socket  # for its own metrics and health, on loopback
    parent: int  # a pipe to read from; its end means that the supervisor stops or has died

    def stop_with_parent(self, stop: Callable[[], object]) -> None:
        """Call `stop` in the running event loop when the supervisor's pipe ends.

        This unblocks SIGTERM and SIGINT, so call it after the loop handles both.
        """
        loop = asyncio.get_running_loop()

        def on_parent_ended() -> None:
            loop.remove_reader(self.parent)
            stop()

        loop.add_reader(self.parent, on_parent_ended)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class _Child(NamedTuple):
    number: int
    pid: int
    port: int
    pipe: int  # to write to; closing it makes the process stop


def run_processes(
    worker: WorkerSettings, check: Callable[[], None], start: Callable[[ChildContext], int]
) -> int:
    """Run the processes; return the exit status, in the supervisor and in each process.

    Args:
        worker: the number of processes, and the address of the metrics and health of all.
        check: called once, before the processes start their work; an exception ends all of them.
        start: called in each process; does its work and returns its exit status.
    """
    listening = listen(worker.http_host, worker.http_port)
    supervisor = _Supervisor(worker)
    # Fork while there is only one thread: Kafka's clients start more, and a fork copies only one.
    context = supervisor.fork()
    if context is not None:
        listening.close()
        return start(context) if os.read(context.parent, 1) == _START else 0
    try:
        check()
        supervisor.start()
        return asyncio.run(supervisor.supervise(listening))
    finally:
        supervisor.end()


class _Supervisor:
    """The process that starts the others, serves their metrics and health, and ends them."""

    def __init__(self, worker: WorkerSettings) -> None:
        self._stop_seconds_max = worker.stop_seconds_max + _STOP_SECONDS_MORE
        self._number = worker.processes
        self._children: list[_Child] = []
        self._running: dict[int, _Child] = {}  # by process id
        self._stopping = False
        self._status = 0
        self._log = get_logger("worker")

    def fork(self) -> ChildContext | None:
        """Fork the processes. Return None in the supervisor, and in each process its context.

        Raises:
            UnavailableError: the system allows no more processes.
        """
        # Block the signals until a process can handle them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(self._number):
                own = socket.socket()
                own.bind(("127.0.0.1", 0))
                child_end, parent_end = os.pipe()
                pid = os.fork()
                if pid == 0:
                    for fd in (parent_end, *(child.pipe for child in self._children)):
                        os.close(fd)
                    return ChildContext(number, own, child_end)
                child = _Child(number, pid, own.getsockname()[1], parent_end)
                self._children.append(child)
                self._running[pid] = child
                own.close()
                os.close(child_end)
        except OSError as error:
            forked = len(self._children)
            self.end()
            raise UnavailableError(
                f"process {forked + 1} of {self._number} cannot be started: {error.strerror}; "
                "lower RESMETER_WORKER__PROCESSES"
            ) from error
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return None

    def start(self) -> None:
        """Make the processes start their work."""
        for child in self._children:
            try:
                os.write(child.pipe, _START)
            except BrokenPipeError:  # the process was killed meanwhile; `supervise` handles that
                return

    async def supervise(self, listening: socket.socket) -> int:
        """Run until SIGTERM, SIGINT or the end of a process; return the exit status."""
        stop, ended = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            self._stopping = True
            stop.set()

        def on_child_ended() -> None:
            if self._reap():
                stop.set()
            if not self._running:
                ended.set()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGCHLD, on_child_ended)
        on_child_ended()  # for processes that ended before the handler was installed
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_RESPONSE_SECONDS_MAX)
        ) as http:
            probe = SiblingProbe(http, self._children)
            async with serving(
                listening, probe.metrics, probe.problems, probe.is_live, probe.warnings
            ) as port:
                self._log.info("worker_started", processes=self._number, http_port=port)
                await stop.wait()
                self._stopping = True
                for pid in self._running:
                    os.kill(pid, signal.SIGTERM)
                try:
                    await asyncio.wait_for(ended.wait(), self._stop_seconds_max)
                except TimeoutError:
                    self._kill()
        self._log.info("worker_stopped", status=self._status)
        return self._status

    def end(self) -> None:
        """Stop the processes that still run, and kill those that do not stop in time."""
        self._stopping = True
        for child in self._children:
            os.close(child.pipe)
        deadline = time.monotonic() + self._stop_seconds_max
        while self._running:
            self._reap()
            if self._running and time.monotonic() > deadline:
                self._kill()
            time.sleep(_REAP_SECONDS if self._running else 0)

    def _reap(self) -> bool:
        """Collect and log the processes that have ended; return whether there were any."""
        any_ended = False
        for pid, child in list(self._running.items()):
            waited, raw = os.waitpid(pid, os.WNOHANG)
            if not waited:
                continue
            any_ended = True
            del self._running[pid]
            status = os.waitstatus_to_exitcode(raw)
            if self._stopping and status in {0, -signal.SIGTERM}:
                continue
            self._log.error(
                "process_ended",
                process=child.number,
                status=status,
                consequence="all processes of the worker end; nothing is lost; start the worker again",
            )
            self._status = self._status or (_MISUSED if status == _MISUSED else _FAILED)
        return any_ended

    def _kill(self) -> None:
        for pid, child in self._running.items():
            self._log.error(
                "process_killed",
                process=child.number,
                after_seconds=self._stop_seconds_max,
                consequence="it did not stop in time; batches in flight are read again",
            )
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._status = self._status or _FAILED
        self._running.clear()


class SiblingProbe:
    """Ask all processes for their metrics, readiness and liveness, over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, children: Sequence[_Child]) -> None:
        self._http = http
        self._children = children
        self._registry = CollectorRegistry()
        self._metrics = ProcessesMetrics(self._registry)

    async def metrics(self) -> bytes:
        """Return the metrics of all processes, and whether each process responded."""
        texts = await self._ask_all("metrics", lambda response: response.text())
        for process, text in texts.items():
            self._metrics.up.labels(process).set(text is not None)
        return merge_metrics({process: text for process, text in texts.items() if text}) + (
            generate_latest(self._registry)
        )

    async def problems(self) -> list[str]:
        """Return why processes are not ready; an empty list means that the worker is ready."""
        answers = await self._ask_all("health/ready", lambda response: response.json())
        return [
            f"process {process}: {reason}"
            for process, answer in answers.items()
            for reason in (["does not respond"] if answer is None else answer["reasons"])
        ]

    async def warnings(self) -> list[str]:
        """Return what an operator should know about each process, although it is ready."""
        answers = await self._ask_all("health/ready", lambda response: response.json())
        return [
            f"process {process}: {warning}"
            for process, answer in answers.items()
            for warning in (answer or {}).get("warnings", [])
        ]

    async def is_live(self) -> bool:
        """Return whether all processes respond; if one hangs, the worker is not live."""
        answers = await self._ask_all("health/live", lambda response: response.json())
        return None not in answers.values()

    async def _ask_all(
        self, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[_T]]
    ) -> dict[int, _T | None]:
        """Return each process's response by its number; None if it does not respond."""

        async def ask(child: _Child) -> _T | None:
            try:
                async with self._http.get(f"http://127.0.0.1:{child.port}/{path}") as response:
                    return None if response.status == 500 else await read(response)
            except (aiohttp.ClientError, TimeoutError):
                return None

        answers = await asyncio.gather(*map(ask, self._children))
        return {child.number: answer for child, answer in zip(self._children, answers, strict=True)}


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge_metrics(texts: Mapping[int, str]) -> bytes:
    """Return the metrics of several processes as one text; add the label `process`."""
    families: dict[str, Metric] = {}
    for process, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {"process": str(process), **sample.labels}
                merged.add_sample(sample.name, labels, sample.value)
    return generate_latest(_Families(families.values()))
