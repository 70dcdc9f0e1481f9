"""A ledger that cannot be written is named before anything depends on it, and never a traceback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from pipeline.errors import ConfigurationError
from pipeline.ledger import holds, open_ledger, problems_of_rights, sslmode_missing, upgrade
from tests.support.command import resmeter
from tests.support.ledger import T0, TOPIC, planned, record, stored
from tests.support.postgres import running_postgres

# A user without rights of its own, so that the test need not be the owner of the database.
USER = "resmeter_reader"


@pytest.fixture
def owner(postgres_database: str) -> Iterator[Engine]:
    """The owner of a ledger in which a user may read and nothing else."""
    upgrade(postgres_database)
    engine = create_engine(postgres_database)
    with engine.begin() as connection:
        if not connection.scalar(text(f"SELECT 1 FROM pg_roles WHERE rolname = '{USER}'")):
            connection.execute(text(f"CREATE ROLE {USER} LOGIN"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {USER}"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {USER}"))
    engine.dispose()


@pytest.fixture
def reader_url(owner: Engine) -> str:
    return owner.url.set(username=USER).render_as_string(hide_password=False)


def test_a_ledger_that_can_be_written_has_no_problem(
    postgres_database: str, tmp_path: Path
) -> None:
    for url in (postgres_database, f"sqlite:///{tmp_path}/ledger.sqlite"):
        upgrade(url)
        ledger = open_ledger(url)
        assert problems_of_rights(ledger) == []
        ledger.close()


def test_rights_that_a_user_lacks_are_named_with_the_grant(reader_url: str) -> None:
    ledger = open_ledger(reader_url)

    (problem,) = problems_of_rights(ledger)

    ledger.close()
    assert f"the user {USER} " in problem
    assert "INSERT on usage_record" in problem
    assert "SELECT on usage_record" not in problem
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES" in problem


def test_the_rights_that_are_asked_for_are_enough_to_hold_and_resume_deliveries(
    owner: Engine, reader_url: str
) -> None:
    """A hold locks its table, which other users than the owner may do with these rights only."""
    with owner.begin() as connection:
        needed = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"
        connection.execute(text(f"GRANT {needed} IN SCHEMA public TO {USER}"))
    ledger = open_ledger(reader_url)

    assert problems_of_rights(ledger) == []
    (hold,) = holds.place(ledger, TOPIC, {0: 0}, {0: 2}, T0)
    ended = holds.answer(ledger, "never_sent", who="ann", reason="x", now_ms=T0, about=[hold])

    ledger.close()
    assert ended == 1


def test_a_right_that_is_lost_later_is_named_at_the_write(reader_url: str) -> None:
    ledger = open_ledger(reader_url)

    with pytest.raises(ConfigurationError, match=r"permission denied for table .*give the user"):
        stored(ledger, record("c1"))

    ledger.close()


def test_a_database_that_is_set_read_only_is_named(owner: Engine) -> None:
    ledger = open_ledger(owner.url.render_as_string(hide_password=False))
    with owner.begin() as connection:
        name = owner.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    read_only = open_ledger(owner.url.render_as_string(hide_password=False))

    (problem,) = problems_of_rights(read_only)

    with pytest.raises(
        ConfigurationError, match="read-only transaction; it is a standby or set to"
    ):
        stored(read_only, record("c1"))
    with owner.begin() as connection:
        connection.execute(text("SET TRANSACTION READ WRITE"))
        connection.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
    ledger.close()
    read_only.close()
    assert "is read-only: default_transaction_read_only is on" in problem


def test_upgrading_without_the_right_to_create_tables_says_so(
    owner: Engine, reader_url: str
) -> None:
    with owner.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {USER}"))

    with pytest.raises(ConfigurationError, match=r"permission denied .*and CREATE for an upgrade"):
        upgrade(reader_url)


def test_a_ledger_prepares_nothing_that_a_pooler_would_not_find_again(
    postgres_database: str,
) -> None:
    """PgBouncer in transaction mode gives each transaction another connection to the server."""
    upgrade(postgres_database)
    ledger = open_ledger(postgres_database)
    for n in range(10):
        stored(ledger, *(record(f"c{n}-{m}") for m in range(10)))
        planned(ledger)

    with ledger.writing() as connection:
        prepared = connection.scalar(text("SELECT count(*) FROM pg_prepared_statements"))

    ledger.close()
    assert prepared == 0


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://resmeter@db.example/resmeter",
        "postgresql://resmeter@/resmeter?host=db.example",
        "postgresql://resmeter@/resmeter?host=/run/postgresql,db.example",
    ],
)
def test_a_remote_server_without_sslmode_is_told(url: str) -> None:
    missing = sslmode_missing(url)

    assert missing is not None
    assert "the connection to db.example is not encrypted if" in missing
    assert "sslmode=verify-full" in missing


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///ledger.sqlite",
        "postgresql://resmeter@127.0.0.1/resmeter",
        "postgresql://resmeter@localhost/resmeter",
        "postgresql://resmeter@/resmeter?host=/run/postgresql",
        "postgresql://resmeter@/resmeter",
        "postgresql://resmeter@db.example/resmeter?sslmode=disable",
        "postgresql://resmeter@db.example/resmeter?sslmode=verify-full",
    ],
)
def test_a_local_server_or_a_chosen_sslmode_is_not(url: str) -> None:
    assert sslmode_missing(url) is None


def test_the_variable_of_libpq_says_the_sslmode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")

    assert sslmode_missing("postgresql://resmeter@db.example/resmeter") is None


def test_check_lists_the_problem_and_ends_with_status_2(
    reader_url: str, resmeter_env: dict[str, str]
) -> None:
    resmeter_env["RESMETER_LEDGER__URL"] = reader_url
    # Wrong settings of Kafka, so that the check need not wait for a broker.
    resmeter_env["RESMETER_KAFKA__SECURITY_PROTOCOL"] = "SASL_SSL"

    checked = resmeter("check", env=resmeter_env)

    assert checked.returncode == 2
    assert b"!! ledger: the user resmeter_reader of the ledger" in checked.stderr
    assert b"Traceback" not in checked.stderr


def test_a_standby_is_named_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with running_postgres(folder) as (url, _):
        upgrade(url)
    (folder / "standby.signal").touch()  # it starts again as a standby, without a primary
    shutil.chown(folder / "standby.signal", folder.owner(), folder.group())
    with running_postgres(folder) as (url, _):
        ledger = open_ledger(url)

        (problem,) = problems_of_rights(ledger)

        with pytest.raises(ConfigurationError, match="it is a standby or set to read-only"):
            stored(ledger, record("c1"))
        ledger.close()
    assert "is a standby, which is read-only: connect to the primary" in problem
