"""`resmeter settings`."""

import click
from rich.console import Console
from rich.table import Table

from pipeline.config import describe_settings


@click.command("settings")
def command() -> None:
    """List every setting: its environment variable, default and meaning."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variable", style="bold", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning")
    for row in describe_settings():
        table.add_row(*row)
    Console(soft_wrap=not Console().is_terminal).print(table)
