"""Print the demo's bill, a receipt, and what to try next."""

import textwrap
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from pipeline.cli.output import print_table
from pipeline.cli.views.explain import receipt_lines
from pipeline.dev.demo import Demo
from pipeline.dev.demo_bill import BillLine
from pipeline.ledger.receipt import Explanation

_COLUMNS_WHERE_NO_TERMINAL = 80


def print_demo(
    demo: Demo,
    bill: Mapping[str, BillLine],
    month: Mapping[str, tuple[int, int | None]],
    explanation: Explanation,
    seconds: float,
    *,
    agrees: bool,
    is_kept: bool,
) -> None:
    """Print the bill, whether ledger and Stripe agree, one receipt and the next steps."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=_COLUMNS_WHERE_NO_TERMINAL)
    out.print()
    print_table(_table(bill))
    out.print(
        "[green]The ledger and Stripe's own sums agree.[/]"
        if agrees
        else "[red]The ledger and Stripe's own sums differ.[/]"
    )
    out.print(f"\n[bold]{demo.period} is closed.[/]  Statement and invoice:\n")
    for tenant_id, (stated, invoiced) in month.items():
        of_statement = f"${stated / 100:.2f}"
        of_invoice = "no final invoice" if invoiced is None else f"${invoiced / 100:.2f}"
        out.print(f"  {tenant_id:<16}{of_statement:>9}{of_invoice:>9}")
    out.print()
    out.print(f"{demo.broker}; {seconds:.0f} s in all\n")
    out.print('[bold]"Why was I billed for this?"[/]  One of the receipts:\n')
    for text in receipt_lines(explanation, out.width - 2):
        out.print(textwrap.indent(text, "  "), markup=False, soft_wrap=True)
    out.print(next_steps(explanation.tenant_id, explanation.conversation, is_kept=is_kept))


def print_running(demo: Demo, script: str, talk: Console) -> None:
    """Print where everything is, and the script that points a shell at the demo."""
    talk.print(
        f"[bold]Everything is running.[/] Ctrl-C stops it.\n"
        f"  worker    {demo.worker_url}/metrics\n"
        f"  sink      {demo.sink_url}/metrics\n"
        f"  emulator  {demo.emulator_url}/_emulator/sums\n"
        f"  logs      {demo.folder}\n"
        f"In another terminal:\n"
        f"  source {script}\n"
        f"  resmeter usage",
        soft_wrap=True,  # a command to copy stays on one line
    )


def next_steps(tenant_id: str, conversation: str, *, is_kept: bool) -> str:
    """Return the commands and pages to look at next, in rich's markup."""
    try_ = "try `resmeter usage`, /metrics and"
    first = (
        [("while it is running", try_)]
        if is_kept
        else [("make demo KEEP=1", "keep everything running, then"), ("", try_)]
    )
    rows = [
        *first,
        ("", f"`resmeter explain {tenant_id} {conversation}`"),
        ("README.md", "run it on your own Kafka and Stripe"),
        ("docs/guide/events.md", "send your first event"),
        ("docs/guide/what-bills.md", "what bills, and why"),
    ]
    width = max(len(label) for label, _ in rows)
    lines = [f"  {label:<{width}}  {text}" for label, text in rows]
    return "\n".join(["", "[bold]Where to go next[/]", *lines, ""])


def _table(bill: Mapping[str, BillLine]) -> Table:
    table = Table(
        title="Billed under fin-2026, $0.99 a resolution",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_footer=True,
    )
    total = BillLine()
    for line in bill.values():
        for name, value in vars(line).items():
            setattr(total, name, getattr(total, name) + value)
    table.add_column("tenant", footer="all")
    names = ("conversations", "resolved", "confirmed", "assumed", "amount", "at Stripe")
    for name, cell in zip(names, _cells(total), strict=True):
        table.add_column(name, justify="right", footer=cell)
    for tenant_id, line in bill.items():
        table.add_row(tenant_id, *_cells(line))
    return table


def _cells(line: BillLine) -> list[str]:
    counts = (line.conversations, line.quantity, line.confirmed, line.assumed)
    return [*map(str, counts), f"${line.amount:.2f}", str(line.at_stripe)]
