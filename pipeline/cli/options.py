"""Option types, options that several commands share, and what a command opens before it works."""

import getpass
import re
from calendar import monthrange
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from pipeline import logs
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.catalog.topic import current_tenants
from pipeline.config import Settings, load_settings, load_valid_settings
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, open_ledger, priced_under

_DAY_MS = 86_400_000
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MILLISECONDS = re.compile(r"\d{13}", re.ASCII)  # since 1970: a time after September 2001
_MONTH = re.compile(r"(\d{4})-(\d\d)", re.ASCII)

Command = TypeVar("Command", bound=Callable[..., Any])


class TimeRange(NamedTuple):
    """The times `from_ms <= time < to_ms`; None leaves that side open."""

    from_ms: int | None
    to_ms: int | None


class _Time(click.ParamType):
    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        text = str(value)
        if _MILLISECONDS.fullmatch(text):
            return int(text)
        try:
            return parse_time(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
        except ValueError:
            self.fail(
                f"{text[:40]!r} is not a date such as 2026-11-01 (midnight UTC) or an RFC 3339 "
                "time such as 2026-11-01T09:30:00Z",
                param,
                ctx,
            )


class _Month(click.ParamType):
    name = "month"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> TimeRange:
        if isinstance(value, TimeRange):
            return value
        match = _MONTH.fullmatch(str(value))
        # 9999-12 is not accepted: its end is in the year 10000, which no time can have.
        if match is None or not (1 <= int(match[2]) <= 12 and "0001-01" <= match[0] < "9999-12"):
            self.fail(f"{str(value)[:40]!r} is not a month such as 2026-11", param, ctx)
        start = parse_time(f"{value}-01T00:00:00Z")
        return TimeRange(start, start + monthrange(int(match[1]), int(match[2]))[1] * _DAY_MS)


class _Position(click.ParamType):
    name = "partition:offset"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        partition, _, offset = str(value).partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            self.fail(f"{value} is not PARTITION:OFFSET such as 0:1742", param, ctx)
        return int(partition), int(offset)


class _Text(click.ParamType):
    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes that are not UTF-8
            self.fail("is not UTF-8", param, ctx)
        return text


TEXT = _Text()  # an id, a name or a sentence that is compared or stored
TIME = _Time()  # milliseconds
MONTH = _Month()  # a TimeRange in UTC
POSITION = _Position()  # partition and offset


def time_range_options(what: str) -> Callable[[Command], Command]:
    """Add --from, --to and --month; the command gets one argument, `time_range`.

    `what` completes the help texts: "usage that occurred".
    """

    def decorate(function: Command) -> Command:
        @wraps(function)
        def command(
            *args: Any,
            from_ms: int | None,
            to_ms: int | None,
            month: TimeRange | None,
            **kwargs: Any,
        ) -> Any:
            if month is not None and (from_ms is not None or to_ms is not None):
                raise click.UsageError("give --month, or --from and --to, but not both")
            return function(*args, time_range=month or TimeRange(from_ms, to_ms), **kwargs)

        options = [
            click.option(
                "--from",
                "from_ms",
                type=TIME,
                metavar="TIME",
                help=f"Only {what} at this time or later: 2026-11-01, or an RFC 3339 time.",
            ),
            click.option(
                "--to", "to_ms", type=TIME, metavar="TIME", help=f"Only {what} before this time."
            ),
            click.option(
                "--month",
                type=MONTH,
                metavar="MONTH",
                help=f"Only {what} in this month, UTC: 2026-11. Replaces --from and --to.",
            ),
        ]
        for option in reversed(options):
            command = option(command)
        return command  # type: ignore[return-value]

    return decorate


def tenant_option(help_text: str) -> Callable[[Command], Command]:
    """Add --tenant TENANT; the command gets `tenant_id`."""
    return click.option("--tenant", "tenant_id", type=TEXT, metavar="TENANT", help=help_text)


def json_option(help_text: str) -> Callable[[Command], Command]:
    """Add --json; the command gets `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=help_text)


def decision_options(
    kept_in: str, *, required: bool = False, needed_by: str = ""
) -> Callable[[Command], Command]:
    """Add --who and --reason, for a command that stores a decision.

    Without --who, `machine_user` decides; the command calls it when it stores the decision.

    Args:
        kept_in: what stores them: "the ledger".
        required: --reason must be given.
        needed_by: completes the help of --reason: what needs it.
    """
    needed = f" {needed_by}" if needed_by else ""

    def decorate(function: Command) -> Command:
        for option in (
            click.option(
                "--reason",
                type=TEXT,
                metavar="TEXT",
                required=required,
                help=f"Why; kept in {kept_in}.{needed}",
            ),
            click.option(
                "--who",
                type=TEXT,
                metavar="NAME",
                help=f"Who decides; kept in {kept_in}. Your login name if not set.",
            ),
        ):
            function = option(function)
        return function

    return decorate


def machine_user() -> str:
    """Return the name of this machine's user, for --who."""
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise click.UsageError("this machine's user has no name: give --who") from error


wait_option = click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the sink to store the usage records written so far.",
)


def limit_option(help_text: str) -> Callable[[Command], Command]:
    """Add --limit NUMBER."""
    return click.option("--limit", type=click.IntRange(min=1), metavar="NUMBER", help=help_text)


def port_option(default: int) -> Callable[[Command], Command]:
    """Add --port, for a command that listens on it."""
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=default,
        show_default=True,
        help="The port to listen on; 0 takes any free port.",
    )


class Opened(NamedTuple):
    """The settings, the tenants and the open ledger."""

    settings: Settings
    tenants: Tenants
    ledger: Ledger


def configured() -> Settings:
    """Load the settings, and configure logging with them."""
    settings = load_settings()
    logs.configure(settings.log)
    return settings


def tenants_alone() -> Tenants:
    """Load the tenants for a command that needs no other setting, so that only their file counts.

    Raises:
        ConfigurationError: the setting or the file is wrong.
    """
    settings, problems, wrong = load_valid_settings()
    if "config" in wrong:
        raise ConfigurationError(problems)
    if settings.config is None and settings.catalog_export is not None:
        return current_tenants(settings)
    return load_tenants(settings.config)


def catalog_option(instead: str) -> Callable[[Command], Command]:
    """Add --catalog FILE; the command gets `catalog`. `instead`: what it replaces."""
    return click.option(
        "--catalog",
        metavar="FILE",
        help=f"The catalog, instead of {instead}: an export (`resmeter catalog export`), or `kafka` "
        "for its topic.",
    )


def tenants_of(catalog: str | None) -> Tenants:
    """Load the tenants by what --catalog names; without it, as `tenants_alone` does.

    Raises:
        ConfigurationError: a setting, the export or the tenant file is wrong, or the topic has no
            catalog.
        UnavailableError: no broker responds, or the export cannot be read.
    """
    if catalog is None:
        return tenants_alone()
    settings, problems, wrong = load_valid_settings()
    if catalog == "kafka":
        return current_tenants(load_settings().model_copy(update={"catalog_export": None}))
    if "config" in wrong:
        raise ConfigurationError(problems)
    return current_tenants(settings.model_copy(update={"catalog_export": Path(catalog)}))


@contextmanager
def opened(*, any_catalog: bool = False) -> Iterator[Opened]:
    """Load settings and tenants, and open the ledger; close it at the end.

    The catalog must have the entry that the ledger was priced under, unless `any_catalog`.
    """
    settings = configured()
    tenants = current_tenants(settings)
    ledger = open_ledger(settings.ledger.url)
    try:
        if not any_catalog:
            priced_under.check(ledger, tenants.catalog)
        yield Opened(settings, tenants, ledger)
    finally:
        ledger.close()
