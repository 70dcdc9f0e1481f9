"""Measure how fast a worker writes states: with and without the identity of an owner.

    python -m benchmarks.states [--rounds 10]

Both write the same batches to the same partitions, in alternation.
"""

import asyncio
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import PARTITIONS, broker, environment, machine
from pipeline.config import KafkaSettings, Settings, TopicSettings, WorkerSettings
from pipeline.dev.process import run_or_raise
from pipeline.stream.fence import Owner
from pipeline.stream.outputs import Outputs

_STATES = [(b"acme:conversation-%09d" % n, os.urandom(230) * 2) for n in range(1_500)]
_BATCHES = 20  # of each partition in a round


@click.command()
@click.option("--rounds", default=10, show_default=True)
def main(rounds: int) -> None:
    """Write states in both ways, and compare the medians."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-states-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        env = environment(f"states-{uuid.uuid4().hex[:8]}", bootstrap, {})
        run_or_raise(["topics", "create"], env)
        asyncio.run(_measure(bootstrap, env, rounds))


class _Unsigned(Owner):
    """Leaves batches as they are, so that they are those of no owner."""

    def sign(self, batch: Any, count: int) -> None:
        batch.close()


class _Plain(Outputs):
    """Writes as an owner does, and fences nobody."""

    async def _take(self, partition: int) -> Owner:
        return _Unsigned(-1, -1)


async def _measure(bootstrap: str, env: dict[str, str], rounds: int) -> None:
    settings = Settings(
        kafka=KafkaSettings(bootstrap_servers=bootstrap),
        topics=TopicSettings(
            changelog=env["RESMETER_TOPICS__CHANGELOG"],
            records=env["RESMETER_TOPICS__RECORDS"],
            dead_letters=env["RESMETER_TOPICS__DEAD_LETTERS"],
        ),
        worker=WorkerSettings(group=env["RESMETER_WORKER__GROUP"]),
    )
    # Partitions of their own would be another load on the broker; the fence concerns its owner only.
    ways = {"fenced": Outputs(settings), "plain": _Plain(settings)}
    for outputs in ways.values():
        await outputs.start()
        began = time.perf_counter()
        await asyncio.gather(*map(outputs.fence, range(PARTITIONS)))
        click.echo(f"{PARTITIONS} partitions taken in {time.perf_counter() - began:.3f} s")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            measured = await _write_all(ways[name])
            if number >= 0:  # the first round warms up
                taken[name].append(measured)
    for outputs in ways.values():
        await outputs.stop()
    _report(taken)


async def _write_all(outputs: Outputs) -> tuple[float, float]:
    """Return the seconds, and the seconds of processor time, of one round."""

    async def to(partition: int) -> None:
        for _ in range(_BATCHES):
            await outputs.write_states(partition, _STATES)

    wall, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(to, range(PARTITIONS)))
    return time.perf_counter() - wall, time.process_time() - processor


def _report(taken: dict[str, list[tuple[float, float]]]) -> None:
    states = len(_STATES) * _BATCHES * PARTITIONS
    table = Table("", "states/s", "CPU µs per state", title=machine())
    medians = {}
    for name, rounds in taken.items():
        medians[name] = [statistics.median(column) for column in zip(*rounds, strict=True)]
        wall, processor = medians[name]
        table.add_row(name, f"{states / wall:,.0f}", f"{processor / states * 1e6:.2f}")
    speed = medians["plain"][0] / medians["fenced"][0]
    cost = medians["fenced"][1] / medians["plain"][1]
    table.add_row("fenced / plain", f"{speed:.2f}", f"{cost:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
