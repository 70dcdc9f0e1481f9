"""`resmeter demo`."""

import contextlib
import shlex
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.cli import FAILED
from pipeline.cli.explain import laid_out
from pipeline.cli.output import print_table
from pipeline.config import load_settings
from pipeline.dev.demo import Demo, histories, running_demo, sums_at_stripe
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, open_ledger, reports
from pipeline.ledger.entries import Receipt
from pipeline.ledger.receipt import explain

_COLUMNS_WHERE_NO_TERMINAL = 80


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
def command(*, keep: bool) -> None:
    """Run everything once, on 200 sample support conversations.

    The demo starts a real Kafka broker from Python wheels, or uses the one that
    RESMETER_KAFKA__BOOTSTRAP_SERVERS names. Worker, sink and an emulator of Stripe's billing API
    run as processes. In the end everything is stopped and removed.

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
            agrees = _show(demo, time.monotonic() - began, is_kept=keep)
            if keep:
                _stay(demo, talk)
            else:
                talk.print("[dim]stopping everything that was started[/]")
    except KeyboardInterrupt:
        talk.print("interrupted; everything that was started has stopped")
        sys.exit(130)
    if not agrees:
        sys.exit(FAILED)


def _show(demo: Demo, seconds: float, *, is_kept: bool) -> bool:
    """Print the bill and one receipt; return whether ledger and Stripe agree."""
    tenants = load_tenants(demo.folder / "resmeter.toml")
    ledger = open_ledger(demo.env["RESMETER_LEDGER__URL"])
    try:
        bill = _bill(demo, tenants, ledger)
        receipt = _assumed_receipt(demo, ledger)
    finally:
        ledger.close()
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=_COLUMNS_WHERE_NO_TERMINAL)
    out.print()
    print_table(_table(bill))
    agrees = all(line.quantity == line.at_stripe for line in bill.values())
    out.print(
        "[green]The ledger and Stripe's own sums agree.[/]"
        if agrees
        else "[red]The ledger and Stripe's own sums differ.[/]"
    )
    out.print(f"{demo.broker}; {seconds:.0f} s in all\n")
    out.print('[bold]"Why was I billed for this?"[/]  One of the receipts:\n')
    for text in laid_out(explain(receipt, tenants), out.width - 2):
        out.print(textwrap.indent(text, "  "), markup=False, soft_wrap=True)
    record = receipt[0].record
    out.print(next_steps(record.tenant_id, record.conversation, is_kept=is_kept))
    return agrees


@dataclass
class _Line:
    """The bill of a tenant."""

    conversations: int = 0
    quantity: int = 0
    confirmed: int = 0
    assumed: int = 0
    amount: Decimal = Decimal(0)
    at_stripe: int = 0

    def cells(self) -> list[str]:
        counts = (self.conversations, self.quantity, self.confirmed, self.assumed)
        return [*map(str, counts), f"${self.amount:.2f}", str(self.at_stripe)]


def _bill(demo: Demo, tenants: Tenants, ledger: Ledger) -> dict[str, _Line]:
    """Return each tenant's line of the bill, as the ledger and Stripe have it."""
    lines: dict[str, _Line] = {}
    for tenant_id, _, _ in histories(demo.data):
        lines.setdefault(tenant_id, _Line()).conversations += 1
    for usage in reports.usage(ledger):
        price = tenants.price_for(
            usage.tenant_id, usage.outcome, usage.policy, usage.policy_version
        )
        assert price is not None
        line = lines[usage.tenant_id]
        line.quantity += usage.quantity
        line.confirmed += usage.confirmed
        line.assumed += usage.assumed
        line.amount += price[0] * usage.quantity
    at_stripe = sums_at_stripe(demo)
    for tenant_id, line in lines.items():
        line.at_stripe = at_stripe[tenant_id]
    return dict(sorted(lines.items()))


def _table(bill: Mapping[str, _Line]) -> Table:
    table = Table(
        title="Billed under fin-2026, $0.99 a resolution",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_footer=True,
    )
    total = _Line()
    for line in bill.values():
        for name, value in vars(line).items():
            setattr(total, name, getattr(total, name) + value)
    table.add_column("tenant", footer="all")
    names = ("conversations", "resolved", "confirmed", "assumed", "amount", "at Stripe")
    for name, cell in zip(names, total.cells(), strict=True):
        table.add_column(name, justify="right", footer=cell)
    for tenant_id, line in bill.items():
        table.add_row(tenant_id, *line.cells())
    return table


def _assumed_receipt(demo: Demo, ledger: Ledger) -> list[Receipt]:
    """Return the receipt of the first conversation whose silence was billed."""
    for tenant_id, conversation, _ in histories(demo.data):
        found = reports.receipts(ledger, tenant_id, conversation)
        if found and found[-1].record.kind == "assumed":
            return found
    raise ConfigurationError(["the demo's data has no assumed resolution"])


def next_steps(tenant_id: str, conversation: str, *, is_kept: bool) -> str:
    """Return the commands and pages to look at next, in rich's markup."""
    start = "" if is_kept else "keep everything running, then "
    command = "while it is running" if is_kept else "make demo KEEP=1"
    return f"""
[bold]Where to go next[/]
  {command:<21}{start}try `resmeter usage`,
                       `resmeter explain {tenant_id} {conversation}` and /metrics
  README.md            run it on your own Kafka and Stripe
  docs/guide/events.md       send your first event
  docs/guide/what-bills.md     what bills, and why
"""


def sourced(env: Mapping[str, str], scripts: Path) -> str:
    """Return a script that points a shell at the demo, and puts `resmeter` on its PATH."""
    path = f'export PATH={shlex.quote(str(scripts))}:"$PATH"\n'
    return path + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())


def _stay(demo: Demo, talk: Console) -> None:
    file = demo.folder / "env.sh"
    file.write_text(sourced(demo.env, Path(sysconfig.get_path("scripts"))))
    talk.print(
        f"[bold]Everything is running.[/] Ctrl-C stops it.\n"
        f"  worker    {demo.worker_url}/metrics\n"
        f"  sink      {demo.sink_url}/metrics\n"
        f"  emulator  {demo.emulator_url}/_emulator/sums\n"
        f"  logs      {demo.folder}\n"
        f"In another terminal:\n"
        f"  source {file}\n"
        f"  resmeter usage",
        soft_wrap=True,  # a command to copy stays on one line
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
