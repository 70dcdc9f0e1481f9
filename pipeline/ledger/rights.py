"""Check that a ledger can be written and is encrypted on its way, before anything depends on it."""

from psycopg.pq import Conninfo
from sqlalchemy import Connection, make_url, text

from pipeline.config import is_loopback
from pipeline.ledger.database import VARIABLE, Ledger
from pipeline.ledger.tables import metadata

_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE")


def problems_of_rights(ledger: Ledger) -> list[str]:
    """Return why this user cannot write the ledger; an empty list means that it can.

    Raises:
        UnavailableError: the database cannot be reached, or a file of SQLite is read-only.
    """
    if ledger.is_sqlite:
        with ledger.writing() as connection:  # takes the lock of a writer, and writes nothing
            connection.rollback()
        return []
    with ledger.reading() as connection:
        return _problems_in_postgresql(ledger, connection)


def sslmode_missing(url: str) -> str | None:
    """Return what to do if nothing says whether the connection to a remote server is encrypted."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return None
    # libpq takes what the URL does not say from its own variables, such as PGSSLMODE.
    defaults = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}
    given = parsed.host or parsed.query.get("host") or (defaults["host"] or b"").decode()
    hosts = given.split(",") if isinstance(given, str) else given
    remote = [host for host in hosts if host and not host.startswith("/") and not is_loopback(host)]
    if not remote or "sslmode" in parsed.query or defaults["sslmode"] != b"prefer":
        return None
    return (
        f"{VARIABLE} names no sslmode: the connection to {remote[0]} is not encrypted if the server "
        "offers no TLS, and nobody checks who answers; append ?sslmode=verify-full&sslrootcert=FILE"
    )


def _problems_in_postgresql(ledger: Ledger, connection: Connection) -> list[str]:
    name = f"the ledger {ledger.redacted_url}"
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        return [f"{name} is a standby, which is read-only: connect to the primary ({VARIABLE})"]
    # The transaction that asks is read-only itself.
    if connection.scalar(text("SELECT current_setting('default_transaction_read_only')")) == "on":
        return [f"{name} is read-only: default_transaction_read_only is on; set it off"]
    missing = [
        f"{right} on {table.name}"
        for table in metadata.sorted_tables
        for right in _NEEDED
        if not connection.scalar(
            text("SELECT has_table_privilege(:name, :right)"),
            {"name": table.name, "right": right},
        )
    ]
    if not missing:
        return []
    user, needed = connection.scalar(text("SELECT current_user")), ", ".join(_NEEDED)
    grant = f"GRANT {needed} ON ALL TABLES IN SCHEMA public TO {user}"
    return [f"the user {user} of {name} has no right to {', '.join(missing)}: {grant}"]
