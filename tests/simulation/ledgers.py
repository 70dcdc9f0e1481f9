"""The ledger of a run, and an older copy of it that a mistake puts in its place."""

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
    """The right ledger, a backup, and what the sinks use now."""

    def __init__(self, folder: Path) -> None:
        self._right = folder / "ledger.sqlite"
        self._backup = folder / "backup.sqlite"
        self._older = folder / "older.sqlite"
        shutil.copyfile(_template(), self._right)
        shutil.copyfile(_template(), self._backup)  # the first backup is an empty ledger
        self.right_engine = _connect(self._right)
        self.engine = self.right_engine
        self.is_older = False

    @contextmanager
    def backup(self) -> Iterator[Ledger]:
        """Open the backup to read it."""
        engine = _connect(self._backup)
        try:
            yield Ledger(engine)
        finally:
            engine.dispose()

    def back_up(self) -> None:
        """Copy the ledger that is in use."""
        source, target = str(self.engine.url.database), str(self._backup)
        with closing(sqlite3.connect(source)) as used, closing(sqlite3.connect(target)) as copy:
            used.backup(copy)

    def restore(self) -> None:
        """Put a copy of the backup in the ledger's place."""
        for file in self._older.parent.glob(f"{self._older.name}*"):
            file.unlink()
        shutil.copyfile(self._backup, self._older)
        self.engine = _connect(self._older)
        self.is_older = True

    def put_back(self) -> None:
        """Use the right ledger again."""
        self.engine.dispose()
        self.engine = self.right_engine
        self.is_older = False

    def close(self) -> None:
        """Close the databases."""
        self.engine.dispose()
        self.right_engine.dispose()


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
