"""`resmeter emulator`."""

import asyncio
from contextlib import nullcontext
from pathlib import Path

import click

from pipeline.catalog.tenants import load_tenants
from pipeline.cli.options import TIME, port_option
from pipeline.config import load_settings
from pipeline.dev.emulator.backend import GRACE_SECONDS_MAX
from pipeline.dev.emulator.history import History
from pipeline.dev.emulator.server import Emulator, run


@click.command("emulator")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@port_option(12111)
@click.option(
    "--tenants",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Start with the customers and meters that this tenant file names.",
)
@click.option(
    "--clock",
    type=TIME,
    metavar="TIME",
    help="Start at this time (2026-11-01, or RFC 3339) instead of now.",
)
@click.option(
    "--state",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep everything in this file, and continue from it after a restart.",
)
@click.option(
    "--grace",
    type=click.IntRange(0, GRACE_SECONDS_MAX // 3600),
    metavar="HOURS",
    help="Let drafts of subscriptions wait so long until they become final: 1 to start with, up to 72.",
)
@click.option(
    "--lag",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Let summaries and invoices learn of meter events so much later.",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="ID",
    help="Serve this connected account too, such as acct_1. Can be repeated.",
)
@click.option(
    "--api-key", metavar="KEY", help="Accept only this key; otherwise any sk_test_ or rk_test_ key."
)
@click.option(
    "--rate-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="CALLS",
    help="Answer 429 above this many calls per second.",
)
def command(
    host: str,
    port: int,
    tenants: Path | None,
    clock: int | None,
    file: Path | None,
    grace: int | None,
    lag: float | None,
    accounts: tuple[str, ...],
    api_key: str | None,
    rate_limit: float | None,
) -> None:
    """Run a stand-in for Stripe's billing API until you stop it.

    The emulator has customers, meters, meter events and their summaries, products, prices,
    subscriptions, invoices, credit notes and credit grants, with the limits, duplicates and errors of
    the real API (docs/reference/emulator.md). /_emulator/sums shows what was counted, and
    /_emulator/clock moves the time forward: periods end, and drafts become final. /_emulator is
    open to clients with the token in RESMETER_EMULATOR__CONTROL_TOKEN or, if no token is set, to
    this machine only.

    \b
    Example:
      resmeter emulator --tenants resmeter.toml &
      export RESMETER_STRIPE__BASE_URL=http://127.0.0.1:12111
      export RESMETER_STRIPE__API_KEY=sk_test_x
      resmeter sink
    """
    token = load_settings().emulator.control_token
    with History(file) if file is not None else nullcontext() as history:
        emulator = Emulator(
            api_key=api_key,
            calls_per_second_max=rate_limit,
            control_token=token.get_secret_value() if token else None,
            accounts=accounts,
            history=history,
        )
        backend = emulator.backend
        if clock is not None:
            backend.set_clock(clock / 1000)
        backend.configure(lag, None if grace is None else grace * 3600)
        if tenants is not None:
            loaded = load_tenants(tenants)
            backend.prepare(loaded.customers.values(), loaded.event_names)
        asyncio.run(run(emulator, host, port, _ready))


def _ready(base_url: str) -> None:
    click.echo(f"the emulator is ready at {base_url} (Ctrl-C stops it)", err=True)
