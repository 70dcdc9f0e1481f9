"""`resmeter worker`."""

import sys

import click

from pipeline.catalog.tenants import load_tenants
from pipeline.config import load_settings


@click.command("worker")
def command() -> None:
    """Decide which conversations are resolved, until told to stop.

    Reads the events topic, writes usage records and dead letters. One process decides on one
    core: RESMETER_WORKER__PROCESSES says how many there are, and several workers share the
    partitions. SIGTERM and Ctrl-C finish what is under way, commit and leave the group.

    \b
    Example:
      RESMETER_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 resmeter worker
      curl localhost:9464/health/ready
    """
    from pipeline.stream.service import run_worker

    settings = load_settings()
    sys.exit(run_worker(settings, load_tenants(settings.config)))
