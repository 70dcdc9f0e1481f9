"""`resmeter demo`."""

import contextlib
import shlex
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.console import Console

from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FAILED
from pipeline.cli.views.demo import Shown, print_demo, print_running
from pipeline.config import load_settings
from pipeline.dev.demo import Demo, Step, close_month, running_demo
from pipeline.dev.demo_bill import assumed_receipts, read_bill, read_month
from pipeline.ledger import open_ledger
from pipeline.ledger.receipt import explain


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
def command(*, keep: bool) -> None:
    """Run everything once, on 200 sample support conversations.

    The demo starts a real Kafka broker from Python wheels, or uses the broker that
    RESMETER_KAFKA__BOOTSTRAP_SERVERS names. A worker, a sink and an emulator of Stripe's billing
    API run as processes. At the end, the demo stops everything and removes it.

    \b
    Example:
      resmeter demo
      resmeter demo --keep
    """
    settings = load_settings()
    talk = Console(stderr=True, highlight=False)
    began = time.monotonic()

    @contextlib.contextmanager
    def step(text: str) -> Iterator[None]:
        started = time.monotonic()
        with talk.status(text) if talk.is_terminal else contextlib.nullcontext():
            yield
        talk.print(
            f"[green]✓[/] {text} [dim]({time.monotonic() - started:.1f} s)[/]", soft_wrap=True
        )

    try:
        with running_demo(settings, step) as demo:
            shown = _run(demo, step)
            print_demo(demo, shown, time.monotonic() - began, is_kept=keep)
            if keep:
                _stay(demo, talk)
            else:
                talk.print("[dim]stopping everything that was started[/]")
    except KeyboardInterrupt:
        talk.print("interrupted; everything that was started has stopped")
        sys.exit(130)
    if not shown.agrees:
        sys.exit(FAILED)


def _run(demo: Demo, step: Step) -> Shown:
    """Read the bill, close the month and read what it came to."""
    tenants = load_tenants(demo.folder / "resmeter.toml")
    ledger = open_ledger(demo.env["RESMETER_LEDGER__URL"])
    try:
        bill = read_bill(demo, tenants, ledger)
        receipts = assumed_receipts(demo, ledger)
        close_month(demo, receipts[-1][0].record, step)
        return Shown(bill, read_month(demo, tenants, ledger), explain(receipts[0], tenants))
    finally:
        ledger.close()


def sourced(env: Mapping[str, str], scripts: Path) -> str:
    """Return a script that points a shell at the demo and adds `resmeter` to its PATH."""
    path = f'export PATH={shlex.quote(str(scripts))}:"$PATH"\n'
    return path + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def _stay(demo: Demo, talk: Console) -> None:
    file = demo.folder / "env.sh"
    file.write_text(sourced(demo.env, Path(sysconfig.get_path("scripts"))))
    print_running(demo, str(file), talk)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
