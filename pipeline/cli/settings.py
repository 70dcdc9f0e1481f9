"""`resmeter settings`."""

import shutil
import sys

import click

from pipeline.cli.output import TEXT_COLUMNS_MIN, wrapped
from pipeline.config import describe_settings

_COLUMNS_MAX = 100
_INDENT = " " * 4


@click.command("settings")
def command() -> None:
    """List every setting: its environment variable, default and meaning.

    \b
    Example:
      resmeter settings | grep -A1 SASL
      RESMETER_SINK__FLUSH_INTERVAL_SECONDS=10 resmeter sink
    """
    columns = _COLUMNS_MAX
    if sys.stdout.isatty():
        columns = min(columns, max(shutil.get_terminal_size().columns, TEXT_COLUMNS_MIN))
    for variable, default, meaning in describe_settings():
        click.echo(f"{click.style(variable, bold=True)}{f' = {default}' if default else ''}")
        click.echo(wrapped(f"{_INDENT}{meaning}", columns, _INDENT))
