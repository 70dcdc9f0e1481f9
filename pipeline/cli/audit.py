"""`resmeter audit`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pipeline import logs
from pipeline.cli import FOUND
from pipeline.cli.terminal import visible
from pipeline.config import Settings, kafka_client_options, load_settings
from pipeline.errors import UnavailableError
from pipeline.ledger import Ledger, open_ledger, records, reports
from pipeline.producers import load_keys
from pipeline.replay.audit import Audit, Finding, Tally
from pipeline.replay.deadletters import read_letter
from pipeline.replay.source import Source
from pipeline.tenants import Tenants, load_tenants

_SHOWN_MAX = 20
_WIDTH_WHERE_NO_TERMINAL = 160
_ANSWER_SECONDS_MAX = 10.0
_LOOK_SECONDS = 0.5


@click.command("audit")
@click.option("--tenant", "tenantid", metavar="TENANT", help="Tell of this tenant alone.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For the sink to take what the worker has written by now.",
)
@click.option("--json", "as_json", is_flag=True, help="Every finding and tally, one a line.")
def command(tenantid: str | None, wait_seconds: float, *, as_json: bool) -> None:
    """Decide the whole log anew, and hold the ledger and the dead letters against it.

    It reads the events topic from its beginning, and shares no code with worker and sink but
    the rules themselves. What a worker at work may or may not have written yet is pending, and
    neither is wrong. Exit status 3: something differs, and it says what.

    \b
    resmeter audit
    resmeter audit --tenant acme --json | jq 'select(.finding)'
    """
    settings = load_settings()
    logs.configure(settings.log)
    tenants = load_tenants(settings.config)
    ledger = open_ledger(settings.ledger.url)
    try:
        findings, tallies, letters, read = _audit(settings, tenants, ledger, wait_seconds)
    finally:
        ledger.close()
    if tenantid is not None:
        findings = [found for found in findings if found.tenantid in {tenantid, ""}]
        tallies = {name: tally for name, tally in tallies.items() if name == tenantid}
    if as_json:
        for found in findings:
            click.echo(orjson.dumps({"finding": found.kind, **_named(found)}))
        for name, tally in sorted(tallies.items()):
            fields = {key: getattr(tally, key) for key in Tally.__struct_fields__}
            click.echo(orjson.dumps({"tenantid": name, **fields}))
    else:
        _show(findings, tallies)
        events = sum(tally.events for tally in tallies.values())
        if tenantid is None:
            click.echo(f"{read} records read: {events} events, {letters} dead letters", err=True)
    if findings:
        sys.exit(FOUND)


def _named(found: Finding) -> dict[str, str]:
    return {
        "tenantid": found.tenantid,
        "conversation": found.conversation,
        "detail": found.detail,
    }


def _audit(
    settings: Settings, tenants: Tenants, ledger: Ledger, wait_seconds: float
) -> tuple[list[Finding], dict[str, Tally], int, int]:
    options = kafka_client_options(settings.kafka)
    source = Source(options, settings.topics.events)
    findings: list[Finding] = []
    tallies: dict[str, Tally] = {}
    letters = read = 0
    keys = load_keys(tenants.producers)
    try:
        # 1. Where the worker stood; what it had written by then must come to the ledger.
        committed = _committed(settings, list(source.bounds))
        _await_sink(settings, ledger, wait_seconds)
        there, since = _origins(settings)
        with _progress(f"reading {source.topic}", source.size) as (progress, task):
            for number, (low, _) in sorted(source.bounds.items()):
                # 2. A partition at a time, so that memory holds no more than one.
                audit = Audit(
                    committed.get(number, 0),
                    tenants.timeline_for,
                    keys,
                    settings.worker.seal_after_ms,
                    is_whole=low == 0,
                )
                for message in source.records({number: low}):
                    headers: Any = message.headers() or []
                    audit.take(
                        message.offset() or 0,
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        headers,
                    )
                    progress.advance(task)
                now = int(time.time() * 1000)
                # 3. The ledger is read last: what is missing in it had its time to come.
                rows = reports.decided_from(ledger, source.topic, number)
                findings += audit.compare(rows, now)
                if since is not None:
                    findings += audit.missing_letters(
                        there.get(number, set()), source.topic, number
                    )
                letters += audit.letters
                read += audit.read
                _add(tallies, audit.tallies)
        findings += [
            Finding("unexpected", record.tenantid, record.conversation, f"{record.id}: no origin")
            for record in reports.decided_from(ledger, source.topic, None)
        ]
    finally:
        source.close()
    return findings, tallies, letters, read


def _add(tallies: dict[str, Tally], more: dict[str, Tally]) -> None:
    for name, tally in more.items():
        total = tallies.setdefault(name, Tally())
        for field in Tally.__struct_fields__:
            setattr(total, field, getattr(total, field) + getattr(tally, field))


def _committed(settings: Settings, numbers: list[int]) -> dict[int, int]:
    consumer = Consumer({**kafka_client_options(settings.kafka), "group.id": settings.worker.group})
    places = [TopicPartition(settings.topics.events, number) for number in numbers]
    try:
        found = consumer.committed(places, timeout=_ANSWER_SECONDS_MAX)
    except KafkaException as error:
        raise UnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers}: {error.args[0].str()}"
        ) from error
    finally:
        consumer.close()
    return {place.partition: max(0, place.offset) for place in found}


def _await_sink(settings: Settings, ledger: Ledger, seconds: float) -> None:
    """Wait until the ledger has what stood in the topic of usage records when we asked."""
    topic = settings.topics.records
    source = Source(kafka_client_options(settings.kafka), topic)
    source.close()
    deadline = time.monotonic() + seconds
    while True:
        stands = records.offsets(ledger, topic)
        left = sum(
            max(0, high - stands.get(number, low)) for number, (low, high) in source.bounds.items()
        )
        if not left:
            return
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the sink is {left} usage records behind: see that it runs, and audit again"
            )
        time.sleep(_LOOK_SECONDS)


def _origins(settings: Settings) -> tuple[dict[int, set[int]], int | None]:
    """Return the origins of the dead letters by partition; None for the second: some are gone."""
    source = Source(kafka_client_options(settings.kafka), settings.topics.dead_letters)
    found: dict[int, set[int]] = {}
    try:
        is_whole = all(low == 0 for low, _ in source.bounds.values())
        for message in source.records():
            headers: Any = message.headers() or []
            letter = read_letter((0, 0), 0, message.key(), message.value(), headers)
            if letter.origin is not None and letter.origin[0] == settings.topics.events:
                found.setdefault(letter.origin[1], set()).add(letter.origin[2])
    finally:
        source.close()
    if not is_whole:
        click.echo(f"{source.topic} has lost its beginning: dead letters are not held up", err=True)
    return found, 0 if is_whole else None


def _show(findings: list[Finding], tallies: dict[str, Tally]) -> None:
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else _WIDTH_WHERE_NO_TERMINAL)
    table = Table(box=None, pad_edge=False)
    table.add_column("tenant", style="bold")
    for name in Tally.__struct_fields__:
        table.add_column(name, justify="right")
    for name, tally in sorted(tallies.items()):
        table.add_row(visible(name), *(str(getattr(tally, key)) for key in Tally.__struct_fields__))
    console.print(table)
    for found in findings[:_SHOWN_MAX]:
        where = f"{found.tenantid} {found.conversation}".strip()
        click.echo(f"{found.kind}: {visible(where)}{': ' if where else ''}{visible(found.detail)}")
    if len(findings) > _SHOWN_MAX:
        click.echo(f"and {len(findings) - _SHOWN_MAX} more; --json has all")
    if not findings:
        click.echo("nothing differs", err=True)


@contextmanager
def _progress(what: str, total: int) -> Iterator[tuple[Progress, Any]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        yield progress, progress.add_task(what, total=total)
