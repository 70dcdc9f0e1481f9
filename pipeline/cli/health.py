"""`resmeter health`."""

import http.client
import json
import math
import urllib.error
import urllib.request

import click

from pipeline.errors import UnavailableError

_PATHS = {"ready": "/health/ready", "live": "/health/live", "emulator": "/_emulator/health"}


def _check_number(_: click.Context, __: click.Parameter, value: float) -> float:
    if math.isnan(value):  # every comparison with nan is false, so no bound rejects it
        raise click.BadParameter("nan is not a number of seconds")
    return value


@click.command("health")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    required=True,
    help="Port of the process: 9464 for a worker, 9465 for a sink.",
)
@click.option(
    "--check",
    type=click.Choice(list(_PATHS)),
    default="ready",
    show_default=True,
    help="What to ask for; an emulator has only its own check.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    callback=_check_number,
    type=click.FloatRange(min=0, max=3600, min_open=True),
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a response.",
)
def command(port: int, check: str, timeout_seconds: float) -> None:
    """Ask a process on this machine whether it is ready; exit with 0 if it is, else with 1.

    Use it for the health checks of containers. The error says why the process is not ready.

    \b
    Example:
      resmeter health --port 9464
      resmeter health --port 9465 --check live
    """
    url = f"http://127.0.0.1:{port}{_PATHS[check]}"
    # A proxy that the environment names cannot reach the loopback of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds):
            click.echo("live" if check == "live" else "ready")
    except urllib.error.HTTPError as error:
        with error:
            raise UnavailableError(f"{url}: {_why(error)}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UnavailableError(f"{url} does not respond: {reason}") from error


def _why(error: urllib.error.HTTPError) -> str:
    """Return the reasons that a worker or a sink gives, or else the status."""
    try:
        reasons = json.loads(error.read())["reasons"]
        return "; ".join(map(str, reasons))
    except (OSError, ValueError, KeyError, TypeError):
        return f"status {error.code}"
