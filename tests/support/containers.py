"""Kafka and PostgreSQL in containers, if a Docker engine answers and has their images."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.dev.broker import SINGLE_BROKER, free_port

KAFKA, POSTGRES = "apache/kafka:4.1.0", "postgres:16"
_INSIDE = 9092
_STARTED = "Kafka Server started"
_SECONDS_MAX = 120


def available(image: str) -> bool:
    """Return whether a Docker engine of this machine responds, and has or can pull an image."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    from docker.errors import DockerException, ImageNotFound
    from testcontainers.core.config import ConnectionMode
    from testcontainers.core.docker_client import DockerClient

    try:
        engine = DockerClient(timeout=_SECONDS_MAX)
        with contextlib.closing(engine.client) as client:
            client.ping()
            mode, host = engine.get_connection_mode(), engine.host()
            if mode != ConnectionMode.docker_host or host not in {"localhost", "127.0.0.1"}:
                return False
            try:
                client.images.get(image)
            except ImageNotFound:
                client.images.pull(image)
    except DockerException:
        return False
    return True


@contextlib.contextmanager
def kafka() -> Iterator[str]:
    """Run a broker from Apache's image; yield its address.

    The Kafka class of testcontainers needs images of another vendor.
    """
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # The broker advertises its address, so the port must be known before it starts.
    port = free_port()
    address = f"127.0.0.1:{port}"
    container = DockerContainer(KAFKA).with_bind_ports(_INSIDE, port)
    settings = {
        **SINGLE_BROKER,
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": f"PLAINTEXT://:{_INSIDE},CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    for name, value in settings.items():
        container.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
    waits = LogMessageWaitStrategy(_STARTED).with_startup_timeout(_SECONDS_MAX)
    with container.waiting_for(waits):
        yield address


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield the SQLAlchemy URL of a database in it."""
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer(POSTGRES, driver="psycopg") as container:
        yield container.get_connection_url()
