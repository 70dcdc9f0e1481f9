"""`resmeter produce`: the reference producer."""

import sys
import time
from typing import Any

import click
import orjson
from confluent_kafka import KafkaException, Producer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND
from pipeline.cli.decide import report_rejected
from pipeline.cli.files import read_lines
from pipeline.config import Settings, load_settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.events.model import Rejected
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.events.wire import check_record, read_event
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.topics import TopicAdmin

_HEADERS: list[tuple[str, bytes]] = [("content-type", b"application/cloudevents+json")]
_FLUSH_SECONDS = 120.0
_POLL_EVERY = 1_000


@click.command("produce")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--timestamps",
    type=click.Choice(["event", "now"]),
    default="event",
    show_default=True,
    help="The records' timestamps: the events' times, or the broker's clock. A topic with "
    "LogAppendTime takes its own clock whatever is sent.",
)
@click.option("--unchecked", is_flag=True, help="Send lines as they are, events or not.")
@click.option(
    "--sign",
    "key_id",
    metavar="KEYID",
    help="Sign each record with the key of this producer in the tenant file.",
)
def command(files: tuple[str, ...], timestamps: str, unchecked: bool, key_id: str | None) -> None:
    """Write events, one JSON object a line, to the events topic.

    Each line is checked first: what the worker would reject is refused here, with its reason, and
    the exit status is 3. FILE may be `-`, a .gz or a .zst.

    \b
    Example:
      resmeter produce events.ndjson
      my-exporter | resmeter produce -
      RESMETER_CONFIG=resmeter.toml resmeter produce --sign chat-eu events.ndjson
    """
    settings = load_settings()
    signer = None
    producers = load_tenants(settings.config).producers
    if key_id is not None:
        signer = key_id, load_keys(producers, [key_id])[key_id]
    elif producers and not unchecked:
        raise ConfigurationError(
            [
                (
                    f"{settings.config} names producers, and then the worker takes signed events "
                    "alone: name a key with --sign, or send lines as they are with --unchecked"
                )
            ]
        )
    sent, refused = produce(
        settings, files, by_event=timestamps == "event", checked=not unchecked, signer=signer
    )
    click.echo(f"{sent} events sent and acknowledged, {refused} refused", err=True)
    if refused:
        sys.exit(FOUND)


def produce(
    settings: Settings,
    files: tuple[str, ...],
    *,
    by_event: bool,
    checked: bool,
    signer: tuple[str, Key] | None = None,
) -> tuple[int, int]:
    """Write the lines of files; return how many were acknowledged and how many refused.

    Args:
        settings: where to, and how.
        files: paths, as `read_lines` takes them.
        by_event: give each record its event's time.
        checked: refuse what the worker would reject.
        signer: key id and key to sign with.

    Raises:
        UnavailableError: the broker does not answer or took not all of them.
    """
    topic = settings.topics.events
    if topic not in TopicAdmin(settings).existing():
        raise UnavailableError(f"topic {topic} is not there: run `resmeter topics create`")
    failures: list[str] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(error.str())

    producer = Producer(
        {
            **librdkafka_options(settings.kafka),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "message.max.bytes": 1_000_000,
        }
    )
    sent = refused = 0
    with Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(f"events to {topic}", total=None)
        try:
            for path, number, line in read_lines(files):
                key, at, rejected = _read(line, int(time.time() * 1000))
                if rejected is None and signer is not None:
                    rejected = _forbidden(key, *signer)
                if rejected is not None and checked:
                    refused += 1
                    report_rejected(
                        path, number, rejected.reason, rejected.detail, named=len(files) > 1
                    )
                    continue
                headers = _HEADERS
                if signer is not None:
                    signature = sign(signer[0], signer[1].secret, key, line, _HEADERS)
                    headers = [*_HEADERS, (SIGNATURE_HEADER, signature)]
                _send(producer, topic, line, key, headers, at if by_event else None, delivered)
                sent += 1
                if sent % _POLL_EVERY == 0:
                    producer.poll(0)
                    progress.update(task, completed=sent)
        except BaseException:
            # A file that cannot be read, or Ctrl-C: what was taken before is not dropped.
            there = sent - producer.flush(_FLUSH_SECONDS) - len(failures)
            click.echo(
                f"{there} events were sent and acknowledged before this; send all again: "
                "what is there already counts once",
                err=True,
            )
            raise
        left = producer.flush(_FLUSH_SECONDS)
        progress.update(task, completed=sent, total=sent)
    if left or failures:
        reason = failures[0] if failures else f"no answer within {_FLUSH_SECONDS:.0f} s"
        raise UnavailableError(
            f"{left + len(failures)} of {sent} events were not acknowledged ({reason}); "
            "send the file again: what is there already counts once"
        )
    return sent, refused


def _read(line: bytes, now: int) -> tuple[bytes | None, int | None, Rejected | None]:
    addressed = read_event(line)
    if not isinstance(addressed, Rejected):
        key = f"{addressed.tenant_id}:{addressed.conversation_id}".encode()
        # It would arrive now; with a time of its own an event of the future is no better.
        return key, addressed.event.at, check_record(addressed, key, now)
    try:
        value = orjson.loads(line)
        return f"{value['tenantid']}:{value['subject']}".encode(), None, addressed
    except (ValueError, TypeError, KeyError):
        return None, None, addressed


def _forbidden(key: bytes | None, key_id: str, signing: Key) -> Rejected | None:
    tenant_id = (key or b"").decode().partition(":")[0]
    if signing.tenants is None or tenant_id in signing.tenants:
        return None
    return Rejected("not_authorized", f"the key {key_id!r} may not write for {tenant_id!r}")


def _send(
    producer: Producer,
    topic: str,
    line: bytes,
    key: bytes | None,
    headers: list[tuple[str, bytes]],
    at: int | None,
    delivered: Any,
) -> None:
    arguments: dict[str, Any] = {"key": key, "headers": headers, "on_delivery": delivered}
    if at is not None and at >= 0:
        arguments["timestamp"] = at
    while True:
        try:
            producer.produce(topic, line, **arguments)
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            raise UnavailableError(f"an event cannot be sent: {error.args[0].str()}") from error
        else:
            return
