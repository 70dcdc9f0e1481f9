"""`resmeter produce`: the reference producer."""

import sys
import time

import click

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.options import catalog_option, configured, tenants_of
from pipeline.cli.output import count_of, hints_printer, print_rejected, progress
from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.events.model import Rejected
from pipeline.events.signature import Key
from pipeline.kafka.producing import Signer, produce_lines


@click.command("produce")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--timestamps",
    type=click.Choice(["event", "now"]),
    default="event",
    show_default=True,
    help="The records' timestamps: the time of each event, or the broker's clock. A topic with "
    "LogAppendTime always uses the broker's clock.",
)
@click.option(
    "--unchecked",
    is_flag=True,
    help="Send every line, valid event or not, except those too large for a record.",
)
@click.option(
    "--sign",
    "key_id",
    metavar="KEYID",
    help="Sign each record with this producer's key from the tenant file.",
)
@catalog_option("the tenant file")
def command(
    files: tuple[str, ...],
    timestamps: str,
    unchecked: bool,
    key_id: str | None,
    catalog: str | None,
) -> None:
    """Write events from files, one JSON object per line, to the events topic.

    Each line is checked first. Lines that a worker would reject are not sent: standard error lists
    them with the reason, and the exit status is 3. A name that seems to be misspelt gets a warning.
    FILE may be `-` (standard input), a .gz or a .zst file.

    \b
    Example:
      resmeter produce events.ndjson
      my-exporter | resmeter produce -
      RESMETER_CONFIG=resmeter.toml resmeter produce --sign chat-eu e.ndjson
    """
    settings = configured()
    signer = _signer(settings, key_id, catalog, is_checked=not unchecked)

    def on_rejected(file: str, number: int, rejected: Rejected) -> None:
        print_rejected(file, number, rejected, named=len(files) > 1)

    with progress(f"events to {settings.topics.events}") as on_record:
        produced = produce_lines(
            settings,
            read_lines(files),
            by_event_time=timestamps == "event",
            is_checked=not unchecked,
            signer=signer,
            on_rejected=on_rejected,
            on_interrupted=_print_interrupted,
            on_record=on_record,
            on_hint=hints_printer(is_named=len(files) > 1),
        )
    click.echo(
        f"{count_of(produced.sent, 'event')} sent and acknowledged, {produced.rejected:,} rejected",
        err=True,
    )
    if produced.rejected:
        sys.exit(FOUND)


def _signer(
    settings: Settings, key_id: str | None, catalog: str | None, *, is_checked: bool
) -> Signer | None:
    tenants = load_tenants(settings.config) if catalog is None else tenants_of(catalog)
    keys = tenants.catalog.keys_at(int(time.time() * 1000))
    if key_id is not None:
        if catalog is not None and key_id not in keys:
            problem = f"the catalog has no key {key_id} that signs now: see `resmeter catalog show`"
            raise ConfigurationError([problem])
        key = load_keys(tenants.producers, [key_id])[key_id]
        if catalog is not None:
            granted = keys[key_id].tenants
            key = Key(key.secret, None if granted is None else frozenset(granted))
        return Signer(key_id, key)
    if keys and is_checked:
        whose = settings.config if catalog is None else "the catalog"
        problem = (
            f"{whose} names producers, so workers accept only signed events: name a key with --sign, or "
            "send lines as they are with --unchecked"
        )
        raise ConfigurationError([problem])
    return None


def _print_interrupted(acknowledged: int) -> None:
    click.echo(
        f"{count_of(acknowledged, 'event')} sent and acknowledged before the command stopped; send the files "
        "again: an event that was already accepted counts once",
        err=True,
    )
