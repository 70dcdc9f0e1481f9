"""`resmeter settings`."""

import click
from rich.console import Console
from rich.table import Table

from pipeline.config import describe_settings

WIDTH_WHERE_NO_TERMINAL = 200


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
    (out if out.is_terminal else Console(width=WIDTH_WHERE_NO_TERMINAL)).print(table)
