"""`resmeter emulator`."""

import asyncio
from pathlib import Path

import click

from pipeline.catalog.tenants import load_tenants
from pipeline.cli.options import TIME, port_option
from pipeline.config import load_settings
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, run
from pipeline.dev.emulator.state import State


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
    api_key: str | None,
    rate_limit: float | None,
) -> None:
    """Run a stand-in for Stripe's billing API, in memory, until you stop it.

    The emulator has customers, meters, meter events and their summaries, with the limits,
    duplicates and errors of the real API. /_emulator/sums shows what was counted. /_emulator is
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
    time = Clock(None if clock is None else clock / 1000)
    state = State()
    if tenants is not None:
        loaded = load_tenants(tenants)
        state.prepare(loaded.customers.values(), loaded.event_names, time.now())
    emulator = Emulator(
        state,
        time,
        api_key=api_key,
        calls_per_second_max=rate_limit,
        control_token=token.get_secret_value() if token else None,
    )

    def ready(base_url: str) -> None:
        click.echo(f"the emulator is ready at {base_url} (Ctrl-C stops it)", err=True)

    asyncio.run(run(emulator, host, port, ready))
