"""Run the matrix of faults, and write its table: python -m tests.proof."""

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from tests.proof.auditor import Verdict
from tests.proof.load import draw
from tests.proof.rig import Broker, Loaded, loaded, running_broker, running_rig
from tests.proof.rows import LOADS, ROWS, Row
from tests.support.postgres import running_postgres

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "internals" / "reliability.md"
_BEGIN, _END = "<!-- matrix -->", "<!-- /matrix -->"
_SECONDS_MAX = 240.0


class Result(NamedTuple):
    """The outcome of a row."""

    row: Row
    events: int
    faults: int
    verdict: Verdict
    recovery_seconds: float
    seconds: float


@click.command()
@click.argument("names", nargs=-1, metavar="[ROW]...")
@click.option("--events", default=200_000, show_default=True, help="Records in the log of a row.")
@click.option("--list", "only_list", is_flag=True, help="List the rows and exit.")
@click.option("--write", is_flag=True, help="Write the table into docs/internals/reliability.md.")
@click.option("--keep", is_flag=True, help="Keep logs and ledgers.")
def main(names: tuple[str, ...], events: int, *, only_list: bool, write: bool, keep: bool) -> None:
    """Run rows of the matrix, all by default. The exit status is 3 if a row is not clean."""
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise click.UsageError(f"no such row: {', '.join(sorted(unknown))}; see --list")
    if only_list:
        for row in ROWS:
            click.echo(f"{row.name:20} {row.about}")
        return
    os.environ.setdefault("RESMETER_TEST_SESSION_SECONDS", "3")
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="resmeter-proof-"))
        if not keep:
            stack.callback(subprocess.run, ["rm", "-rf", str(folder)], check=False)
        kafka = stack.enter_context(running_broker(folder / "kafka"))
        loads: dict[str, Loaded] = {}
        for row in [row for row in ROWS if not names or row.name in names]:
            if row.load not in loads:
                records = draw(events, 11, LOADS[row.load])
                loads[row.load] = loaded(
                    kafka, folder / f"load-{row.load}", records, LOADS[row.load]
                )
            result = _play(row, kafka, loads[row.load], folder)
            results.append(result)
            _show(result, events)
            if write:
                _write(results)
    sys.exit(0 if all(result.verdict.is_clean for result in results) else 3)


def _play(row: Row, kafka: Broker, load: Loaded, folder: Path) -> Result:
    began = time.monotonic()
    row_folder = folder / row.name
    recovery, faults = 0.0, 0
    try:
        with (
            _disk(row, row_folder),
            _ledger(row, row_folder) as (url, postgres),
            running_rig(kafka, load, row_folder, url, _SECONDS_MAX) as rig,
        ):
            rig.postgres = postgres
            row.fault(rig)
            recovery = rig.finish()
            faults = rig.faults
            verdict = rig.verdict()
    except NotRunError as error:
        verdict = Verdict(0, 0, 0, [f"not run: {error}"])
    except (TimeoutError, AssertionError) as error:
        verdict = Verdict(0, 0, 0, [f"{type(error).__name__}: {error}"])
    seconds = time.monotonic() - began
    return Result(row, load.truth.records, faults, verdict, recovery, seconds)


class NotRunError(Exception):
    """This machine cannot run the row; the message says why."""


@contextlib.contextmanager
def _ledger(row: Row, folder: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield the URL of a row's ledger, None for the rig's default, and PostgreSQL's handle."""
    if row.ledger == "postgres":
        with (
            tempfile.TemporaryDirectory(prefix="resmeter-pg-") as data,
            running_postgres(Path(data)) as (url, server),
        ):
            yield url, server
    elif row.small_disk == "ledger":
        yield f"sqlite:///{folder}/small/ledger.sqlite", None
    else:
        yield None, None


@contextlib.contextmanager
def _disk(row: Row, folder: Path) -> Iterator[None]:
    """Mount a small file system if the row fills one."""
    if not row.small_disk:
        yield
        return
    small = folder / "small"
    small.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=100M", "none", str(small)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        # Without a small file system the row would fill the machine's disk.
        raise NotRunError("cannot mount a small file system; run as root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(small)], check=False)


def _show(result: Result, events: int) -> None:
    name, verdict = result.row.name, result.verdict
    click.echo(
        f"{name:20} events {result.events:,}  faults {result.faults}  lost {verdict.lost}  "
        f"doubled {verdict.doubled}  wrong {verdict.wrong}  recovered in "
        f"{result.recovery_seconds:.1f} s  ({result.seconds:.0f} s in all)"
        f"{'' if verdict.is_clean else '  NOT CLEAN'}"
    )
    for problem in verdict.problems:
        click.echo(f"    {problem}")
    if not verdict.is_clean:
        click.echo(f"    repeat: python -m tests.proof {name} --events {events} --keep")


def _write(results: list[Result]) -> None:
    """Write results into the table of the page; other rows keep the results of their last run."""
    text = _DOCUMENT.read_text()
    head, _, rest = text.partition(_BEGIN)
    table, _, tail = rest.partition(_END)
    lines = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    for result in results:
        row, verdict = result.row, result.verdict
        note = "" if verdict.is_clean else f"; **{' '.join(verdict.problems[:1]) or 'not clean'}**"
        lines[row.name] = (
            f"| `{row.name}` | {row.about} | {result.events:,} | {result.faults} | {verdict.lost} | "
            f"{verdict.doubled} | {verdict.wrong} | {result.recovery_seconds:.0f} s{note} | "
            f"{datetime.now(UTC):%Y-%m-%d}, {_commit()} |"
        )
    where = (
        f"{platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, "
        "Kafka from Python packages; each row with the day and the commit of its run:"
    )
    heading = [
        "| row | what fails | events | faults | lost | doubled | wrong | recovered in | run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    body = [lines[row.name] for row in ROWS if row.name in lines]
    _DOCUMENT.write_text(head + "\n".join([_BEGIN, where, "", *heading, *body, _END]) + tail)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
