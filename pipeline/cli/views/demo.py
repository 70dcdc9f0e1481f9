"""Print the demo's bill, a receipt, and what to try next."""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.cli.output import print_table
from pipeline.cli.views.explain import receipt_lines
from pipeline.dev.demo import Demo
from pipeline.dev.demo_bill import BillLine, Month
from pipeline.ledger.receipt import Explanation

_COLUMNS_WHERE_NO_TERMINAL = 80


class Shown(NamedTuple):
    """What the demo shows: the bill before the month is closed, the closed month, and a receipt."""

    bill: Mapping[str, BillLine]
    months: Mapping[str, Month]
    explanation: Explanation

    @property
    def is_counted(self) -> bool:
        """Whether the ledger and Stripe's sums agree."""
        return all(line.quantity == line.at_stripe for line in self.bill.values())

    @property
    def agrees(self) -> bool:
        """Whether they do, and each invoice comes to its statement."""
        months = self.months.values()
        return self.is_counted and all(m.statement.total == m.invoiced for m in months)


def print_demo(demo: Demo, shown: Shown, seconds: float, *, is_kept: bool) -> None:
    """Print the bill, whether ledger and Stripe agree, the month, one receipt and the next steps."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=_COLUMNS_WHERE_NO_TERMINAL)
    out.print()
    print_table(_table(shown.bill))
    out.print(
        "[green]The ledger and Stripe's own sums agree.[/]"
        if shown.is_counted
        else "[red]The ledger and Stripe's own sums differ.[/]"
    )
    _print_months(out, demo.period, shown.months)
    out.print(f"{demo.broker}; {seconds:.0f} s in all\n")
    out.print('[bold]"Why was I billed for this?"[/]  One of the receipts:\n')
    explanation = shown.explanation
    for text in receipt_lines(explanation, out.width - 2):
        out.print(textwrap.indent(text, "  "), markup=False, soft_wrap=True)
    out.print(next_steps(explanation.tenant_id, explanation.conversation, is_kept=is_kept))


def _print_months(out: Console, period: str, months: Mapping[str, Month]) -> None:
    """Print each tenant's statement beside its invoice, line by line where the lines differ."""
    out.print(f"\n[bold]{period} is closed.[/]  Statement and invoice:\n")
    for tenant_id, month in months.items():
        invoiced = "no final invoice" if month.invoiced is None else _dollars(month.invoiced)
        out.print(f"  {tenant_id:<16}{_dollars(month.statement.total):>9}{invoiced:>9}")
    for tenant_id, month in months.items():
        lines = sorted(month.invoice or [], key=lambda line: -line.amount)
        lines = [line for line in lines if line.amount]
        if len(lines) <= len(month.statement.lines):
            continue
        out.print(f"\n  A late message took a unit of {tenant_id} back, which Stripe had counted:")
        for line in month.statement.lines:
            text = f"{line.quantity} {line.outcome} at {line.price}"
            out.print(f"    {'statement':<11}{text:<52}{_dollars(line.amount):>9}")
        for each in lines:
            out.print(f"    {'invoice':<11}{each.description:<52}{_dollars(each.amount):>9}")
    out.print()


def _dollars(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}${abs(cents) / 100:.2f}"


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
