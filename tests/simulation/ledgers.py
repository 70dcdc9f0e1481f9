"""The ledger of a run, and copies of earlier moments that a mistake puts in its place."""

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, make_url, select

from pipeline.ledger import Ledger, upgrade
from pipeline.ledger.database import connect_sqlite
from pipeline.ledger.tables import refused_record, usage_record


class Ledgers:
    """The ledger that the sinks use, copies of earlier moments, and a second ledger."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copies = [_template()]  # the first is an empty ledger
        self._opened: list[Engine] = []
        self.engine = self._use(_template())
        self.second = self._use(_template())

    def back_up(self) -> None:
        """Copy the ledger that is in use, as it is now."""
        target = self._folder / f"copy-{len(self._copies)}.sqlite"
        with (
            closing(sqlite3.connect(str(self.engine.url.database))) as used,
            closing(sqlite3.connect(target)) as copy,
        ):
            used.backup(copy)
        self._copies.append(target)

    def restore(self, draw: random.Random) -> None:
        """Put a copy in the ledger's place, for good. A later one may be the ledger of today."""
        copy = draw.choice(self._copies)
        if draw.random() < 0.5:
            self.back_up()
        self.engine = self._use(copy)

    def _use(self, copy: Path) -> Engine:
        path = self._folder / f"ledger-{len(self._opened)}.sqlite"
        shutil.copyfile(copy, path)
        self._opened.append(_connect(path))
        return self._opened[-1]

    def close(self) -> None:
        """Close the databases."""
        for engine in self._opened:
            engine.dispose()


@contextmanager
def open_ledgers() -> Iterator[Ledgers]:
    """Open a new, empty ledger: a copy of one on which the migrations ran."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        ledgers = Ledgers(Path(folder))
        try:
            yield ledgers
        finally:
            ledgers.close()


def _connect(path: Path) -> Engine:
    return connect_sqlite(make_url(f"sqlite:///{path}"))


def _fast_folder() -> str | None:
    """Return a folder in memory, if the system has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@cache
def _template() -> Path:
    """Create an empty ledger once, and return its path."""
    folder = Path(tempfile.mkdtemp(prefix="resmeter-simulation-", dir=_fast_folder()))
    upgrade(f"sqlite:///{folder / 'ledger.sqlite'}")
    return folder / "ledger.sqlite"


def stored_records(ledger: Ledger) -> tuple[dict[str, tuple[Any, ...]], int]:
    """Return the ledger's usage records by id, and how many are quarantined."""
    with ledger.reading() as connection:
        rows = connection.execute(
            select(
                usage_record.c.id,
                usage_record.c.outcome,
                usage_record.c.quantity,
                usage_record.c.kind,
                usage_record.c.reason,
                usage_record.c.occurred_at,
                usage_record.c.policy,
                usage_record.c.policy_version,
                usage_record.c.evidence,
                usage_record.c.supersedes,
                usage_record.c.origin_offsets,
            )
        ).all()
        quarantined = connection.execute(select(refused_record.c.offset)).all()
    return {row[0]: tuple(row)[1:] for row in rows}, len(quarantined)
