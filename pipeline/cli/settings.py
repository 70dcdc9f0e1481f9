"""`resmeter settings`."""

import sys

import click

from pipeline.cli.output import text_columns, wrapped
from pipeline.config import describe_settings

_COLUMNS_MAX = 80
_INDENT = " " * 4


@click.command("settings")
def command() -> None:
    """List every setting: its environment variable, default and meaning.

    \b
    Example:
      resmeter settings | grep -A1 SASL
      RESMETER_SINK__FLUSH_INTERVAL_SECONDS=10 resmeter sink
    """
    columns = min(_COLUMNS_MAX, text_columns(sys.stdout))
    for variable, default, meaning in describe_settings():
        click.echo(f"{click.style(variable, bold=True)}{f' = {default}' if default else ''}")
        click.echo(wrapped(f"{_INDENT}{meaning}", columns, _INDENT))
