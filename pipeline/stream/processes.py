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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import aiohttp
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import WorkerSettings
from pipeline.logs import get_logger
from pipeline.serve import listen, serving

_ANSWER_SECONDS_MAX = 5.0
_GO = b"+"


class Seat(NamedTuple):
    """What a process gets from the one that started it."""

    number: int  # from 0
    listening: socket.socket  # where it serves its own metrics and health: on loopback
    parent: int  # a pipe: at its end the first process is gone

    def when_parent_is_gone(self, call: Callable[[], object]) -> None:
        """Call back, in the event loop that runs."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.parent)
            call()

        loop.add_reader(self.parent, gone)


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
    started: list[_Started] = []
    # At once, while there is one thread: clients of Kafka have more, which a fork would not take along.
    for number in range(worker.processes):
        own = listen("127.0.0.1", 0)
        its_end, our_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            listening.close()
            for fd in (our_end, *(elder.pipe for elder in started)):
                os.close(fd)
            return run(Seat(number, own, its_end)) if os.read(its_end, 1) == _GO else 0
        started.append(_Started(number, pid, own.getsockname()[1], our_end))
        own.close()
        os.close(its_end)
    try:
        check()
        for process in started:
            os.write(process.pipe, _GO)
        return asyncio.run(_supervise(listening, started))
    finally:
        listening.close()
        for process in started:
            os.close(process.pipe)


async def _supervise(listening: socket.socket, started: Sequence[_Started]) -> int:
    log = get_logger("worker")
    running = {process.pid: process for process in started}
    statuses: list[int] = []
    stop = asyncio.Event()
    ended = asyncio.Event()

    def reap() -> None:
        for pid, process in list(running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                del running[pid]
                statuses.append(os.waitstatus_to_exitcode(status))
                if statuses[-1]:
                    log.error(
                        "process_failed",
                        process=process.number,
                        status=statuses[-1],
                        consequence="the others stop in order; nothing is lost; start it again",
                    )
                stop.set()
        if not running:
            ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGCHLD, reap)
    reap()  # who ended before that
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS_MAX)
    ) as http:
        siblings = _Siblings(http, started)
        async with serving(listening, siblings.metrics, siblings.problems) as port:
            log.info("worker_started", processes=len(started), http_port=port)
            await stop.wait()
            for pid in running:
                os.kill(pid, signal.SIGTERM)
            await ended.wait()
    log.info("worker_stopped")
    return 1 if any(statuses) else 0


class _Siblings:
    """What the processes say of themselves, as one."""

    def __init__(self, http: aiohttp.ClientSession, started: Sequence[_Started]) -> None:
        self._http = http
        self._started = started

    async def metrics(self) -> bytes:
        texts = await asyncio.gather(*(self._text(process) for process in self._started))
        return merged({process: text for process, text in texts if text is not None})

    async def _text(self, process: _Started) -> tuple[int, str | None]:
        try:
            async with self._http.get(_url(process, "metrics")) as answer:
                return process.number, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return process.number, None  # as a scrape that failed

    async def problems(self) -> list[str]:
        found = await asyncio.gather(*(self._problems(process) for process in self._started))
        return [problem for problems in found for problem in problems]

    async def _problems(self, process: _Started) -> list[str]:
        try:
            async with self._http.get(_url(process, "health/ready")) as answer:
                reasons = (await answer.json())["reasons"]
        except (aiohttp.ClientError, TimeoutError):
            reasons = ["does not answer"]
        return [f"process {process.number}: {reason}" for reason in reasons]


def _url(process: _Started, path: str) -> str:
    return f"http://127.0.0.1:{process.port}/{path}"


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
