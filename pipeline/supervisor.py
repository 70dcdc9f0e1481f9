"""This file runs a worker as several processes, with one port and one fate.

Python decides on one core at a time. So each process is a worker of its own, a member of the group
that holds its share of the partitions; nothing is shared between them. The first process, which
starts them, decides nothing: it shows their metrics and health as one, passes on what it is told,
and where one of them ends it ends them all, so that whoever supervises it sees what he would of one.
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

_ANSWER_SECONDS_MAX = 2.0  # less than what a scrape or a probe waits
_STOP_SECONDS_MORE = 5.0  # than a process may take for its own end
_LOOK_SECONDS = 0.05
_GO = b"+"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FAILED, _MISUSED = 1, 2
_T = TypeVar("_T")


class Seat(NamedTuple):
    """What a process gets from the one that started it."""

    number: int  # from 0
    listening: socket.socket  # where it serves its own metrics and health: on loopback
    parent: int  # a pipe: at its end the first process is gone

    def take(self, stop: Callable[[], object]) -> None:
        """Call `stop` in the event loop that runs when the first process is gone.

        To be called once the loop handles signals: until then they wait.
        """
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.parent)
            stop()

        loop.add_reader(self.parent, gone)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class _Started(NamedTuple):
    number: int
    pid: int
    port: int
    pipe: int  # closed: it must end


def run_processes(
    worker: WorkerSettings, check: Callable[[], None], run: Callable[[Seat], int]
) -> int:
    """Run so many processes as the settings say; return the exit status, in each of them.

    Args:
        worker: how many, and where metrics and health of all are served.
        check: what to look at before, once for all; what it raises ends all.
        run: what each process does, until it ends.
    """
    listening = listen(worker.http_host, worker.http_port)
    siblings = _Siblings(worker)
    # At once, while there is one thread: clients of Kafka have more, and a fork takes one along.
    seat = siblings.fork()
    if seat is not None:
        listening.close()
        return run(seat) if os.read(seat.parent, 1) == _GO else 0
    try:
        check()
        siblings.go()
        return asyncio.run(siblings.supervise(listening))
    finally:
        siblings.end()


class _Siblings:
    """The processes, as the first one sees them."""

    def __init__(self, worker: WorkerSettings) -> None:
        self._stop_seconds_max = worker.stop_seconds_max + _STOP_SECONDS_MORE
        self._number = worker.processes
        self._started: list[_Started] = []
        self._running: dict[int, _Started] = {}
        self._stopping = False  # they were told to end
        self._status = 0
        self._log = get_logger("worker")

    def fork(self) -> Seat | None:
        """Start the processes; return in each of them its seat, and None in the first one.

        Raises:
            UnavailableError: the system has no room for so many.
        """
        # A signal that comes before a process can handle it waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(self._number):
                own = socket.socket()
                own.bind(("127.0.0.1", 0))
                its_end, our_end = os.pipe()
                pid = os.fork()
                if pid == 0:
                    for fd in (our_end, *(elder.pipe for elder in self._started)):
                        os.close(fd)
                    return Seat(number, own, its_end)
                started = _Started(number, pid, own.getsockname()[1], our_end)
                self._started.append(started)
                self._running[pid] = started
                own.close()
                os.close(its_end)
        except OSError as error:
            begun = len(self._started)
            self.end()
            raise UnavailableError(
                f"process {begun + 1} of {self._number} cannot be started: {error.strerror}; "
                "RESMETER_WORKER__PROCESSES says how many"
            ) from error
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return None

    def go(self) -> None:
        """Let them begin."""
        for started in self._started:
            try:
                os.write(started.pipe, _GO)
            except BrokenPipeError:  # it was killed meanwhile: `supervise` sees it first of all
                return

    async def supervise(self, listening: socket.socket) -> int:
        """Run until told to stop, or until one of them ends; return the exit status."""
        stop, ended = asyncio.Event(), asyncio.Event()

        def told() -> None:
            self._stopping = True
            stop.set()

        def reap() -> None:
            if self._reap():
                stop.set()
            if not self._running:
                ended.set()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, told)
        loop.add_signal_handler(signal.SIGCHLD, reap)
        reap()  # who ended before that
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS_MAX)
        ) as http:
            asked = _Asked(http, self._started)
            async with serving(listening, asked.metrics, asked.problems, asked.live) as port:
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
        """End those that are left, in order if they can; none outlives this."""
        self._stopping = True
        for started in self._started:
            os.close(started.pipe)
        deadline = time.monotonic() + self._stop_seconds_max
        while self._running:
            self._reap()
            if self._running and time.monotonic() > deadline:
                self._kill()
            time.sleep(_LOOK_SECONDS if self._running else 0)

    def _reap(self) -> bool:
        """Take notice of those that have ended; return whether there were any."""
        found = False
        for pid, started in list(self._running.items()):
            waited, raw = os.waitpid(pid, os.WNOHANG)
            if not waited:
                continue
            found = True
            del self._running[pid]
            status = os.waitstatus_to_exitcode(raw)
            if self._stopping and status in {0, -signal.SIGTERM}:
                continue
            self._log.error(
                "process_ended",
                process=started.number,
                status=status,
                consequence="the worker ends as a whole; nothing is lost; start it again",
            )
            self._status = self._status or (_MISUSED if status == _MISUSED else _FAILED)
        return found

    def _kill(self) -> None:
        for pid, started in self._running.items():
            self._log.error(
                "process_killed",
                process=started.number,
                after_seconds=self._stop_seconds_max,
                consequence="it did not end in time; what was under way is read again",
            )
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._status = self._status or _FAILED
        self._running.clear()


class _Asked:
    """What the processes say of themselves, as one."""

    def __init__(self, http: aiohttp.ClientSession, started: Sequence[_Started]) -> None:
        self._http = http
        self._started = started
        self._registry = CollectorRegistry()
        self._metrics = ProcessesMetrics(self._registry)

    async def metrics(self) -> bytes:
        texts = await self._each("metrics", lambda answer: answer.text())
        for process, text in texts.items():
            self._metrics.up.labels(process).set(text is not None)
        return merged({process: text for process, text in texts.items() if text}) + (
            generate_latest(self._registry)
        )

    async def problems(self) -> list[str]:
        found = await self._each("health/ready", lambda answer: answer.json())
        return [
            f"process {process}: {reason}"
            for process, said in found.items()
            for reason in (["does not answer"] if said is None else said["reasons"])
        ]

    async def live(self) -> bool:
        """Say whether all of them answer: one that hangs is to be seen like a worker that does."""
        found = await self._each("health/live", lambda answer: answer.json())
        return None not in found.values()

    async def _each(
        self, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[_T]]
    ) -> dict[int, _T | None]:
        async def ask(started: _Started) -> _T | None:
            try:
                async with self._http.get(f"http://127.0.0.1:{started.port}/{path}") as answer:
                    return None if answer.status == 500 else await read(answer)
            except (aiohttp.ClientError, TimeoutError):
                return None

        answers = await asyncio.gather(*map(ask, self._started))
        return {one.number: said for one, said in zip(self._started, answers, strict=True)}


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merged(texts: Mapping[int, str]) -> bytes:
    """Return the metrics of several processes as one text; the label `process` says whose."""
    families: dict[str, Metric] = {}
    for process, text in texts.items():
        for family in text_string_to_metric_families(text):
            taken = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {"process": str(process), **sample.labels}
                taken.add_sample(sample.name, labels, sample.value)
    return generate_latest(_Families(families.values()))
