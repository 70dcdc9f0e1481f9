"""Open the ledger's database, and check and upgrade its schema."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)

from pipeline.errors import BrokenInvariantError, ConfigurationError, UnavailableError

VARIABLE = "RESMETER_LEDGER__URL"
CONNECT_SECONDS_MAX = 10
LOCK_SECONDS_MAX = 60.0  # SQLite: how long a writer waits for another writer
_UPGRADE_LOCK = 0x7265_736D  # PostgreSQL: simultaneous upgrades wait for each other
# What an operator must do about PostgreSQL's errors that no retry cures, by their SQLSTATE.
_ADVICE = {
    "25006": "it is a standby or set to read-only: connect to the primary, with a user who may write",
    "42501": "give the user SELECT, INSERT, UPDATE and DELETE on all tables, and CREATE for an upgrade",
    "42P01": "run `resmeter ledger upgrade` as this user, or set the user's search_path",
    "3F000": "create the schema, or set the user's search_path",
}
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}


class Ledger:
    """An open ledger. Any thread may use it; `close` it at the end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.redacted_url = redacted(engine.url)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction for writing: committed at the end, rolled back by an exception.

        Raises:
            UnavailableError: the database cannot be reached or stays locked.
        ConfigurationError: the database is read-only, or the user lacks a right.
        """
        with _translated_errors(self.redacted_url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a snapshot for reading; it neither blocks a writer nor waits for one.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        with _translated_errors(self.redacted_url), self._engine.connect() as connection:
            if self.is_sqlite:
                connection.execution_options(resmeter_reads=True)
            else:
                connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def open_ledger(url: str) -> Ledger:
    """Open the ledger at a SQLAlchemy URL.

    Raises:
        ConfigurationError: the URL is not supported, or this version needs another schema.
        UnavailableError: the database cannot be reached.
    """
    ledger = _connect(_read_url(url))
    try:
        check(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def check(ledger: Ledger) -> None:
    """Check that the ledger has the schema that this version needs.

    Raises:
        ConfigurationError: it has another schema or none. The message says what to run.
        UnavailableError: the database cannot be reached.
    """
    path = ledger._engine.url.database
    if ledger.is_sqlite and path and not Path(path).exists():
        # Connecting would leave an empty file behind.
        raise ConfigurationError(
            [
                f"there is no ledger at {ledger.redacted_url}: run `resmeter ledger upgrade` ({VARIABLE})"
            ]
        )
    with ledger.reading() as connection:
        _check_encoding(ledger, connection)
        revision = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(_alembic())
    head = script.get_current_head()
    if revision == head:
        return
    if revision is None or any(revision == known.revision for known in script.walk_revisions()):
        problem = (
            f"the ledger {ledger.redacted_url} has schema {revision or 'none'}, this version needs {head}: "
            "run `resmeter ledger upgrade`"
        )
    else:
        problem = (
            f"the ledger {ledger.redacted_url} has schema {revision}, which this version does not know: "
            "run the newer resmeter that created it"
        )
    raise ConfigurationError([problem])


def upgrade(url: str) -> None:
    """Upgrade the schema to the one that this version needs. Creates the folder and file of SQLite.

    Raises:
        ConfigurationError: the URL is not supported.
        UnavailableError: the database cannot be reached.
        BrokenInvariantError: rows name others that do not exist; nothing is changed.
    """
    parsed = _read_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        folder = Path(parsed.database).parent
        try:
            # Other users of the machine must not read the ledger. SQLite gives its other files the
            # permissions of this file. An existing file keeps its permissions.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(parsed.database).touch(mode=0o600)
        except OSError as error:
            raise UnavailableError(
                f"the ledger {redacted(parsed)} cannot be created: {error.strerror}"
            ) from error
    # A migration of SQLite may copy a table, which the foreign keys of others would prevent.
    ledger = _connect(parsed, foreign_keys=False)
    config = _alembic()
    try:
        with ledger.writing() as connection:
            _check_encoding(ledger, connection)
            if not ledger.is_sqlite:
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK}
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            if ledger.is_sqlite:
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise BrokenInvariantError(f"the upgrade would leave broken keys: {broken[:3]}")
    finally:
        ledger.close()


def _check_encoding(ledger: Ledger, connection: Connection) -> None:
    # An id may be in any script. Another encoding would reject some ids and stop the sink.
    if not ledger.is_sqlite:
        encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            problem = (
                f"the database of the ledger {ledger.redacted_url} has the encoding {encoding}: "
                f"create one with ENCODING 'UTF8' ({VARIABLE})"
            )
            raise ConfigurationError([problem])


def redacted(url: str | URL) -> str:
    """Return the URL without its passwords, for logs and messages."""
    parsed = make_url(url)
    hidden = {name: "hidden" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _read_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        # The URL is not repeated: a password may be anywhere in it.
        raise ConfigurationError([f"{VARIABLE}: is not a URL such as {_EXAMPLES}"]) from None
    backend = parsed.get_backend_name()
    if backend not in _DRIVERS:
        raise ConfigurationError([f"{VARIABLE}: {backend!r} is not supported; write {_EXAMPLES}"])
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError([f"{VARIABLE}: names no file; write {_EXAMPLES}"])
    return parsed.set(drivername=_DRIVERS[backend])


_EXAMPLES = "sqlite:///PATH or postgresql+psycopg://USER@HOST/DB"


def _connect(url: URL, *, foreign_keys: bool = True) -> Ledger:
    if url.get_backend_name() == "sqlite":
        engine = connect_sqlite(url, foreign_keys=foreign_keys)
    else:
        arguments: dict[str, object] = {
            "client_encoding": "utf8",
            # A pooler such as PgBouncer gives each transaction another connection to the server,
            # which does not know what was prepared on the one before.
            "prepare_threshold": None,
        }
        if "connect_timeout" not in url.query:
            arguments["connect_timeout"] = CONNECT_SECONDS_MAX
        # Errors must not show the parameters, which can be thousands of usage records.
        engine = create_engine(
            url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True
        )
        event.listen(engine, "checkin", _leave_mode_to_the_server)
    return Ledger(engine)


def _leave_mode_to_the_server(connection: Any, _: Any) -> None:
    # SQLAlchemy leaves a connection that was used for reading in the mode READ WRITE. It would write
    # even where the server is set to read-only, as a provider does when the disk is full.
    if connection is not None:
        connection.read_only = None


def connect_sqlite(url: URL, *, foreign_keys: bool = True) -> Engine:
    """Return an engine for a SQLite file, with the settings that the ledger needs."""
    engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS_MAX}, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    if not foreign_keys:
        event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys=OFF"))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` sends BEGIN
    for pragma in (
        "journal_mode=WAL",
        # With NORMAL, a power cut could lose the attempt of a call that Stripe has counted.
        "synchronous=FULL",
        "foreign_keys=ON",
        "cache_size=-16384",  # KiB, of each connection; the system caches the file as well
        "wal_autocheckpoint=8000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("resmeter_reads", False)
    # A transaction that begins with a read can no longer write after another one has written.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _translated_errors(redacted_url: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if "invalid connection option" in str(error.orig):
            raise ConfigurationError([f"{VARIABLE}: {error.orig}"]) from error
        reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
        if advice := _ADVICE.get(getattr(error.orig, "sqlstate", None) or ""):
            raise ConfigurationError(
                [f"the ledger {redacted_url} cannot be used: {reason}; {advice}"]
            ) from error
        # The other classes are errors of ours: a violated constraint or wrong SQL.
        if type(error) not in {DatabaseError, InterfaceError, OperationalError}:
            raise
        raise UnavailableError(f"the ledger {redacted_url} cannot be used: {reason}") from error


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
