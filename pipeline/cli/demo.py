"""`resmeter demo`."""

import contextlib
import shlex
import sys
import sysconfig
import textwrap
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FAILED
from pipeline.cli.explain import laid_out
from pipeline.cli.output import print_table
from pipeline.config import load_settings
from pipeline.dev.demo import Demo, histories, running_demo, sums_at_stripe
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, open_ledger, reports
from pipeline.ledger.entries import Receipt
from pipeline.ledger.receipt import explain

_WIDTH_WHERE_NO_TERMINAL = 100


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep everything running until Ctrl-C.")
def command(*, keep: bool) -> None:
    """Run everything once, on 200 real support conversations.

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
    conversations: dict[str, int] = {}
    for tenant_id, _, _ in histories(demo.data):
        conversations[tenant_id] = conversations.get(tenant_id, 0) + 1
    ledger = open_ledger(demo.env["RESMETER_LEDGER__URL"])
    try:
        bill = [_Bill(tenant_id) for tenant_id in sorted(conversations)]
        by_tenant = {line.tenant_id: line for line in bill}
        for found in reports.usage(ledger):
            line = by_tenant[found.tenant_id]
            price = tenants.price_for(
                found.tenant_id, found.outcome, found.policy, found.policy_version
            )
            assert price is not None
            line.quantity += found.quantity
            line.confirmed += found.confirmed
            line.assumed += found.assumed
            line.amount += price[0] * found.quantity
        at_stripe = sums_at_stripe(demo)
        receipt = _assumed_receipt(demo, ledger)
    finally:
        ledger.close()
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=_WIDTH_WHERE_NO_TERMINAL)
    out.print()
    print_table(_table(bill, conversations, at_stripe))
    agrees = all(line.quantity == at_stripe[line.tenant_id] for line in bill)
    out.print(
        "[green]The ledger and Stripe's own sums agree.[/]"
        if agrees
        else "[red]The ledger and Stripe's own sums differ.[/]"
    )
    out.print(f"{demo.broker}; {seconds:.0f} s in all\n")
    out.print('[bold]"Why was I billed for this?"[/]  One of the receipts:\n')
    for text in laid_out(explain(receipt, tenants), out.width - 2):
        out.print(textwrap.indent(text, "  "), markup=False, soft_wrap=True)
    one = receipt[0].record
    out.print(next_steps(one.tenant_id, one.conversation, is_kept=is_kept))
    return agrees


class _Bill:
    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self.quantity = self.confirmed = self.assumed = 0
        self.amount = Decimal(0)


def _table(bill: list[_Bill], conversations: dict[str, int], at_stripe: dict[str, int]) -> Table:
    table = Table(
        title="Billed under fin-2026, $0.99 a resolution",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_footer=True,
    )
    totals = [
        str(sum(conversations.values())),
        str(sum(line.quantity for line in bill)),
        str(sum(line.confirmed for line in bill)),
        str(sum(line.assumed for line in bill)),
        f"${sum(line.amount for line in bill):.2f}",
        str(sum(at_stripe.values())),
    ]
    table.add_column("tenant", footer="all")
    names = ("conversations", "resolved", "confirmed", "assumed", "amount", "at Stripe")
    for name, total in zip(names, totals, strict=True):
        table.add_column(name, justify="right", footer=total)
    for line in bill:
        table.add_row(
            line.tenant_id,
            str(conversations[line.tenant_id]),
            str(line.quantity),
            str(line.confirmed),
            str(line.assumed),
            f"${line.amount:.2f}",
            str(at_stripe[line.tenant_id]),
        )
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
    look = f"""look at /metrics, `resmeter usage`,
                                   `resmeter explain {tenant_id} {conversation}`"""
    first = (
        "while it is running             "
        if is_kept
        else "make demo KEEP=1                 keeps it running:"
    )
    return f"""
[bold]Where to go next[/]
  {first} {look}
  README.md                        run it on your own Kafka and Stripe
  docs/events.md                   send your first event
  docs/outcomes.md                 what bills, and why
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
