"""python -m tests.proof: run the matrix of faults, and write its table."""

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from tests.postgres import running_postgres
from tests.proof import rows
from tests.proof.auditor import Verdict
from tests.proof.load import Mess, draw
from tests.proof.stand import Broker, Loaded, Row, Stand, loaded, running_broker, stand

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "internals" / "reliability.md"
_BEGIN, _END = "<!-- matrix -->", "<!-- /matrix -->"
_SECONDS_MAX = 240.0


class Case(NamedTuple):
    """A row: what is done, over which load, with the ledger where."""

    name: str
    play: Callable[[Stand], None]
    load: str = "usual"
    ledger: str = "sqlite"  # or postgres
    small_disk: bool = False


LOADS = {
    "usual": Mess(),
    "repeated": Mess(everything_repeated=True),
    "shuffled": Mess(late_within=0.4, late_beyond=0.1),
    "garbage": Mess(garbage=0.02),
}
CASES = (
    Case("worker-killed", rows.worker_killed),
    Case("worker-points", rows.worker_points),
    Case("processes", rows.processes),
    Case("zombie", rows.zombie),
    Case("rolling-restart", rows.rolling_restart),
    Case("scale", rows.scale),
    Case("changelog-deleted", rows.changelog_deleted),
    Case("generations", rows.generations),
    Case("clock-steps", rows.clock_steps),
    Case("broker-killed", rows.broker_killed),
    Case("broker-frozen", rows.broker_frozen),
    Case("produce-refused", rows.produce_refused),
    Case("produce-errors", rows.produce_errors),
    Case("sink-killed", rows.sink_killed),
    Case("sink-points", rows.sink_points),
    Case("two-sinks", rows.two_sinks, ledger="postgres"),
    Case("postgres-killed", rows.postgres_killed, ledger="postgres"),
    Case("disk-full", rows.disk_full, small_disk=True),
    Case("worker-disk-full", rows.worker_disk_full, small_disk=True),
    Case("stripe-500-before", rows.stripe_500_before),
    Case("stripe-500-after", rows.stripe_500_after),
    Case("stripe-cut", rows.stripe_cut),
    Case("stripe-hangs", rows.stripe_hangs),
    Case("stripe-409", rows.stripe_409),
    Case("stripe-429", rows.stripe_429),
    Case("all-repeated", rows.nothing, load="repeated"),
    Case("all-shuffled", rows.nothing, load="shuffled"),
    Case("garbage", rows.nothing, load="garbage"),
    Case("everything", rows.everything, ledger="postgres"),
)


@click.command()
@click.argument("names", nargs=-1, metavar="[ROW]...")
@click.option("--events", default=200_000, show_default=True, help="Records of a row's log.")
@click.option("--list", "only_list", is_flag=True, help="Name the rows.")
@click.option("--write", is_flag=True, help="Put the table into docs/internals/reliability.md.")
@click.option("--keep", is_flag=True, help="Leave logs and ledgers where they are.")
def main(names: tuple[str, ...], events: int, *, only_list: bool, write: bool, keep: bool) -> None:
    """Run rows of the matrix; all of them by default. Exit status 3 where one is not clean."""
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        raise click.UsageError(f"no such row: {', '.join(sorted(unknown))}; see --list")
    chosen = [case for case in CASES if not names or case.name in names]
    if only_list:
        for case in CASES:
            click.echo(f"{case.name:20} {_about(case)}")
        return
    os.environ.setdefault("RESMETER_TEST_SESSION_SECONDS", "3")
    found: list[Row] = []
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="resmeter-proof-"))
        if not keep:
            stack.callback(subprocess.run, ["rm", "-rf", str(folder)], check=False)
        kafka = stack.enter_context(running_broker(folder / "kafka"))
        loads: dict[str, Loaded] = {}
        for case in chosen:
            if case.load not in loads:
                sent = draw(events, 11, LOADS[case.load])
                loads[case.load] = loaded(kafka, folder / f"load-{case.load}", sent)
            row = _play(case, kafka, loads[case.load], folder)
            found.append(row)
            click.echo(_line(row))
            for problem in row.verdict.problems:
                click.echo(f"    {problem}")
            if not row.verdict.is_clean:
                click.echo(f"    again: python -m tests.proof {case.name} --events {events} --keep")
            if write:
                _write(found)
    sys.exit(0 if all(row.verdict.is_clean for row in found) else 3)


def _play(case: Case, kafka: Broker, load: Loaded, folder: Path) -> Row:
    began = time.monotonic()
    place = folder / case.name
    recovery, faults = 0.0, 0
    try:
        with (
            _disk(case, place),
            _ledger(case, place) as (url, postgres),
            stand(kafka, load, place, url, _SECONDS_MAX) as made,
        ):
            made.postgres = postgres
            case.play(made)
            recovery = made.finish()
            faults = made.faults
            verdict = made.verdict()
    except NotRunError as error:
        verdict = Verdict(0, 0, 0, [f"not run: {error}"])
    except (TimeoutError, AssertionError) as error:
        verdict = Verdict(0, 0, 0, [f"{type(error).__name__}: {error}"])
    seconds = time.monotonic() - began
    return Row(case.name, _about(case), load.truth.records, faults, verdict, recovery, seconds)


class NotRunError(Exception):
    """This machine cannot run the row; the message says why."""


@contextlib.contextmanager
def _ledger(case: Case, place: Path) -> Iterator[tuple[str | None, Any]]:
    if case.ledger == "postgres":
        with (
            tempfile.TemporaryDirectory(prefix="resmeter-pg-") as data,
            running_postgres(Path(data)) as (url, server),
        ):
            yield url, server
    elif case.play is rows.disk_full:
        yield f"sqlite:///{place}/small/ledger.sqlite", None
    else:
        yield None, None


@contextlib.contextmanager
def _disk(case: Case, place: Path) -> Iterator[None]:
    """Mount a small file system where the row wants to fill one."""
    if not case.small_disk:
        yield
        return
    small = place / "small"
    small.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=100M", "none", str(small)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        # Or the row would fill the disk that it runs on.
        raise NotRunError("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(small)], check=False)


def _about(case: Case) -> str:
    if case.load == "repeated":
        return "Nothing fails; every event is delivered one to three times."
    if case.load == "shuffled":
        return "Nothing fails; half of the events come late, one in ten beyond the grace."
    if case.load == "garbage":
        return "Nothing fails; two percent of the records are garbage."
    return (case.play.__doc__ or "").strip().splitlines()[0]


def _line(row: Row) -> str:
    verdict = row.verdict
    return (
        f"{row.name:20} events {row.events:,}  faults {row.faults}  lost {verdict.lost}  "
        f"doubled {verdict.doubled}  wrong {verdict.wrong}  recovered in "
        f"{row.recovery_seconds:.1f} s  ({row.seconds:.0f} s in all)"
        f"{'' if verdict.is_clean else '  NOT CLEAN'}"
    )


def _write(found: list[Row]) -> None:
    """Put rows into the document's table; those of earlier runs stay until they are run again."""
    text = _DOCUMENT.read_text()
    head, _, rest = text.partition(_BEGIN)
    table, _, tail = rest.partition(_END)
    lines = {line.split(" |")[0]: line for line in table.splitlines() if line.startswith("| ")}
    for row in found:
        verdict = row.verdict
        note = "" if verdict.is_clean else f"; **{' '.join(verdict.problems[:1]) or 'not clean'}**"
        lines[f"| {row.about}"] = (
            f"| {row.about} | {row.events:,} | {row.faults} | {verdict.lost} | "
            f"{verdict.doubled} | {verdict.wrong} | {row.recovery_seconds:.0f} s{note} | "
            f"{datetime.now(UTC):%Y-%m-%d}, {_commit()} |"
        )
    lines.pop("| what fails", None)
    where = (
        f"{platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, "
        "Kafka out of wheels; each row with the day and the commit of its run:"
    )
    heading = [
        "| what fails | events | faults | lost | doubled | wrong | recovered in | run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = {f"| {_about(case)}": number for number, case in enumerate(CASES)}
    kept = [lines[about] for about in sorted(lines.keys() & order.keys(), key=order.__getitem__)]
    _DOCUMENT.write_text(head + "\n".join([_BEGIN, where, "", *heading, *kept, _END]) + tail)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
