"""`resmeter sink`."""

import asyncio

import click

from pipeline.cli.options import configured
from pipeline.cli.output import ending_in_the_log
from pipeline.replay.closing import prepared_closings
from pipeline.sink.service import run_sink


@click.command("sink")
def command() -> None:
    """Store usage records, deliver them to Stripe and close periods, until you stop it.

    On SIGTERM or Ctrl-C, the sink stores what it has read, waits for calls in flight and leaves the
    consumer group. You can run several sinks at once; each record is stored and delivered once.

    \b
    Before the first run:  resmeter topics create; resmeter ledger upgrade
    Metrics and health:    http://127.0.0.1:9465/metrics,
                           /health/live, /health/ready
    With the emulator:
      RESMETER_STRIPE__BASE_URL=http://127.0.0.1:12111 resmeter sink
    """
    settings = configured()
    with ending_in_the_log(settings):
        asyncio.run(run_sink(settings, prepared_closings))
