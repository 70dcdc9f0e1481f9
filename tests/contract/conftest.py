"""Fixtures: a ledger on each database, and a bench for the sink."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ledger import Ledger, open_ledger, upgrade
from tests.support.bench import Bench, open_bench


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/ledger.sqlite"
    return str(request.getfixturevalue("postgres_database"))


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    upgrade(url)
    opened = open_ledger(url)
    yield opened
    opened.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from open_bench(tmp_path)
