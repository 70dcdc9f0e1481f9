"""`resmeter worker`."""

import sys

import click

from pipeline import logs
from pipeline.cli.output import ending_in_the_log
from pipeline.config import load_settings
from pipeline.stream.versions import check_versions


@click.command("worker")
def command() -> None:
    """Decide which conversations are resolved, until you stop it.

    A worker reads the events topic and writes usage records and dead letters. One process uses one
    core: set RESMETER_WORKER__PROCESSES to use several. Several workers share the partitions. On
    SIGTERM or Ctrl-C, the worker finishes its batches, commits and leaves the consumer group.

    \b
    Example:
      RESMETER_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 resmeter worker
      curl localhost:9464/health/ready
    """
    settings = load_settings()
    logs.configure(settings.log)
    with ending_in_the_log(settings):
        check_versions()  # before the import: the worker's modules need those versions
        from pipeline.stream.service import run_worker

        sys.exit(run_worker(settings))
