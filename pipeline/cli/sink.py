"""`resmeter sink`."""

import asyncio

import click

from pipeline import logs
from pipeline.catalog.tenants import load_tenants
from pipeline.config import load_settings
from pipeline.sink.service import run_sink


@click.command("sink")
def command() -> None:
    """Bill: read usage records, keep the ledger, deliver to Stripe. Runs until told to stop.

    SIGTERM and Ctrl-C drain: what was read is stored, calls in flight are awaited, the consumer
    group is left. Several sinks may run at once; each record is stored and delivered once.

    \b
    Metrics and health:  http://127.0.0.1:9465/metrics, /health/live, /health/ready
    Before the first:    resmeter topics create; resmeter ledger upgrade
    Against a stand-in:  RESMETER_STRIPE__BASE_URL=http://127.0.0.1:12111 resmeter sink
    """
    settings = load_settings()
    logs.configure(settings.log)
    asyncio.run(run_sink(settings, load_tenants(settings.config)))
