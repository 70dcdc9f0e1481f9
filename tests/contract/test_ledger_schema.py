"""Opening, upgrading and checking a ledger: the same on SQLite and PostgreSQL."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, insert, make_url, text
from sqlalchemy.exc import IntegrityError

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import Ledger, database, leases, open_ledger, records, upgrade
from pipeline.ledger.entries import NotLeased
from pipeline.ledger.tables import consumer_offset, metadata, usage_record
from tests.support.journal import journalled
from tests.support.ledger import (
    HOUR_MS,
    T0,
    TOPIC,
    arrivals,
    count,
    record,
    state_of,
    stored,
    try_to_lease,
)


def test_migrations_create_the_tables_that_the_code_declares(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, metadata) == []


def test_upgrading_again_changes_nothing(ledger: Ledger, url: str) -> None:
    stored(ledger, record("c1"))

    upgrade(url)

    assert count(ledger, usage_record) == 1


def test_an_upgrade_from_the_first_version_keeps_every_row_and_every_key(url: str) -> None:
    """The rows are written with SQL, as that version wrote them."""
    at_revision(url, "0001", FIRST_VERSION)
    before = rows_of_deliveries(url)

    upgrade(url)

    assert rows_of_deliveries(url) == before
    ledger = open_ledger(url)
    journalled(ledger)
    (event,) = leases.due(ledger, T0, 10)
    assert (event.identifier, event.state) == ("rm_1", "sent")
    # A call of 24 hours ago: now it is a state of its own.
    assert (
        try_to_lease(ledger, event, "a", T0, remembered_from_ms=T0 - 23 * HOUR_MS)
        is NotLeased.UNCERTAIN
    )
    assert state_of(ledger, event) == "uncertain"
    with pytest.raises(IntegrityError), ledger.writing() as connection:
        connection.execute(text("DELETE FROM meter_event WHERE identifier = 'rm_1'"))
    with pytest.raises(IntegrityError), ledger.writing() as connection:
        connection.execute(text("UPDATE meter_event SET state = 'nonsense'"))
    ledger.close()


def at_revision(url: str, revision: str, statements: Sequence[str]) -> None:
    """Make the ledger of an earlier version, with rows that SQL statements write."""
    upgrade(url)  # creates the file
    ledger = database._connect(database._read_url(url), foreign_keys=False)
    with ledger.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE {table.name}"))
        connection.execute(text("DROP TABLE alembic_version"))
        config = database._alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.execute(text(statement))
    ledger.close()


RECORD = (
    "INSERT INTO usage_record (id, tenantid, conversation, outcome, quantity, kind, reason, "
    "occurred_at, policy, policy_version, evidence, record_topic, record_partition, record_offset) "
    "VALUES ('acme:c1:1', 'acme', 'c1', 'resolution', 1, 'assumed', 'silence', 0, 'fin-2026', 1, "
    "'[]', 'usage.records', 0, 0)"
)
EVENT = (
    "INSERT INTO meter_event VALUES ('{}', 'acme', 'cus_1', 'resolution', 'm', 1, 1, 3600, 'digest', "
    "'{}', 'a', 0, 5, 6)"
)
ATTEMPT = (
    "INSERT INTO attempt (identifier, at, owner, body_sha256, idempotency_key, result, replayed) "
    f"VALUES ('rm_1', {T0 - 24 * HOUR_MS}, 'a', 'digest', 'rm_1', 'failed', false)"
)
FIRST_VERSION = (
    RECORD,
    *(
        EVENT.format(f"rm_{n}", state)
        for n, state in enumerate(["delivered", "sent", "rejected", "netted", "cancelled"])
    ),
    "INSERT INTO meter_event_record (record_seq, identifier) SELECT seq, 'rm_1' FROM usage_record",
    ATTEMPT,
)


def rows_of_deliveries(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows, with the columns that the first version had."""
    ledger = database._connect(database._read_url(url))
    later = {
        "journal_state",
        "vouched_at",
        "voucher",
        "stored_at",
        "price",
        "currency",
        "priced_by",
        "withdraw_until",
        "call",
    }
    with ledger.reading() as connection:
        rows = {
            name: sorted(
                (
                    tuple(value for column, value in row._mapping.items() if column not in later)
                    for row in connection.execute(text(f"SELECT * FROM {name}"))
                ),
                key=str,
            )
            for name in ("usage_record", "meter_event", "meter_event_record", "attempt")
        }
    ledger.close()
    return rows


def test_opening_a_ledger_without_a_schema_says_what_to_run(url: str) -> None:
    with pytest.raises(ConfigurationError, match="run `resmeter ledger upgrade`"):
        open_ledger(url)


def test_opening_a_ledger_of_a_newer_version_says_so(ledger: Ledger, url: str) -> None:
    with ledger.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigurationError, match="schema 9999, which this version does not know"):
        open_ledger(url)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_with_another_encoding_than_utf8_is_rejected(
    postgres_url: str, encoding: str
) -> None:
    name = f"test_{encoding.lower()}"
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    form = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} {form}"))
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    try:
        for opening in (upgrade, open_ledger):
            with pytest.raises(
                ConfigurationError, match=f"has the encoding {encoding}: create one"
            ):
                opening(url)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/d", "'mysql' is not supported"),
        ("nonsense", "is not a URL such as sqlite:///PATH"),
        ("sqlite://", "names no file"),
        ("postgresql://me:hunter2@db:hunter2/d", "is not a URL such as sqlite:///PATH"),
        ("postgresql://127.0.0.1:1/d?sslmod=require", 'invalid connection option "sslmod"'),
    ],
)
def test_an_unsupported_url_is_a_configuration_error(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"RESMETER_LEDGER__URL: {message}") as caught:
        open_ledger(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("resmeter:hunter2@127.0.0.1:1/ledger", "resmeter:***@127.0.0.1:1/ledger"),
        ("127.0.0.1:1/ledger?password=hunter2", "127.0.0.1:1/ledger?password=hidden"),
        ("127.0.0.1:1/ledger?sslpassword=hunter2", "127.0.0.1:1/ledger?sslpassword=hidden"),
    ],
)
def test_an_unreachable_server_is_named_without_its_password(url: str, named: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        open_ledger(f"postgresql+psycopg://{url}")

    assert f"postgresql+psycopg://{named}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_only_the_owner_can_read_the_files_of_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/folder/ledger.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    records.store(ledger, TOPIC, arrivals([record("c1")]), {0: None}, T0)

    files = list((tmp_path / "folder").iterdir())

    assert {path.name for path in files} == {
        "ledger.sqlite",
        "ledger.sqlite-wal",
        "ledger.sqlite-shm",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    ledger.close()


def test_an_error_of_the_database_shows_no_parameters(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError) as caught, ledger.writing() as connection:
        connection.execute(
            insert(consumer_offset).values(topic="hunter2", partition=None, next_offset=1)
        )

    assert "hunter2" not in str(caught.value).partition("DETAIL")[0]


def test_a_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database" * 100)

    with pytest.raises(UnavailableError, match="file is not a database"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")


def test_opening_a_missing_ledger_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no ledger at"):
        open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite")

    assert not list(tmp_path.iterdir())
