"""Fixtures: a real broker, a real database, and no connections except to loopback."""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy

from pipeline.dev.broker import running_kafka
from tests.support import containers, promtool, stripe_mock
from tests.support.environment import clean_environment
from tests.support.postgres import running_postgres
from tests.support.shared import shared
from tests.support.tenants import export_catalog

hypothesis.settings.register_profile("dev", deadline=None, max_examples=100)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
# CI runs the same examples each time, and then others, under a seed that it prints. Hypothesis would
# repeat those too where the variable CI is set.
hypothesis.settings.register_profile(
    "fresh", deadline=None, max_examples=100, print_blob=True, derandomize=False
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5_000, derandomize=False)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
)

# A test run is too short for Java's optimising compiler to pay off. Without it the broker uses a
# third less processor time.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

ROOT = Path(__file__).parent.parent
SLOWEST = ("kafka", "simulation")


# The programs that some tests need, by the marker of those tests.
PROGRAMS = {"promtool": promtool, "stripe_mock": stripe_mock}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the slowest tests first, and leave out what needs a program that is not here.

    Without the order, most processes would wait at the end for the one that runs a slow test. Under
    CI, tests that need such a program run without it too, and fail.
    """
    items.sort(key=lambda item: item.path.parent.name not in SLOWEST)
    without = [item for item in items if any(item.get_closest_marker(name) for name in _missing())]
    if without:
        items[:] = [item for item in items if item not in without]
        config.hook.pytest_deselected(items=without)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for name in _missing():
        terminalreporter.write_line(f"{PROGRAMS[name].MISSING}.")


def _missing() -> list[str]:
    if os.environ.get("CI"):
        return []
    return [name for name, program in PROGRAMS.items() if program.find() is None]


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Fail on every connection that would leave the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = str(address[0])
            if not (host.startswith("127.") or host in {"::1", "localhost"}):
                raise AssertionError(f"a test connects to {host}: only loopback is allowed")
        connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign,assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Kafka: RESMETER_TEST_KAFKA, a container, or a broker from wheels."""

    @contextlib.contextmanager
    def start() -> Iterator[str]:
        if containers.available(containers.KAFKA):
            with containers.kafka() as address:
                yield address
        else:
            with running_kafka(tmp_path_factory.mktemp("kafka")) as kafka:
                yield kafka.bootstrap_servers

    named = os.environ.get("RESMETER_TEST_KAFKA")
    if named:
        yield named
        return
    os.environ.setdefault("RESMETER_TEST_SESSION_SECONDS", "3")  # our own brokers allow it
    with shared(tmp_path_factory, "kafka", start) as address:
        yield address


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL: RESMETER_TEST_POSTGRES, a container, or a server from a wheel."""

    @contextlib.contextmanager
    def start() -> Iterator[str]:
        if containers.available(containers.POSTGRES):
            with containers.postgres() as url:
                yield url
        else:
            with running_postgres(tmp_path_factory.mktemp("postgres")) as (url, _):
                yield url

    named = os.environ.get("RESMETER_TEST_POSTGRES")
    if named:
        yield named
        return
    with shared(tmp_path_factory, "postgres", start) as address:
        yield address


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield sqlalchemy.make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def resmeter_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a `resmeter` process, with a ledger for this test only."""
    return {
        **clean_environment(),
        "NO_COLOR": "1",
        "RESMETER_CATALOG_EXPORT": export_catalog(tmp_path / "catalog.ndjson"),
        "RESMETER_LEDGER__URL": f"sqlite:///{tmp_path}/ledger.sqlite",
    }
