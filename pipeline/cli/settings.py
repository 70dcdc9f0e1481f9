"""`resmeter settings`."""

import click
from rich.console import Console
from rich.table import Table

from pipeline.config import describe_settings

WIDTH_WHERE_NO_TERMINAL = 200
_COLUMNS_MIN = 80  # below, names are cut


@click.command("settings")
def command() -> None:
    """List every setting: its environment variable, default and meaning."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variable", style="bold", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for row in describe_settings():
        table.add_row(*row)
    out = Console()
    width = max(out.width, _COLUMNS_MIN) if out.is_terminal else WIDTH_WHERE_NO_TERMINAL
    Console(width=width).print(table)
