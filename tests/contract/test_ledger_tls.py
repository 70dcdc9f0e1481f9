"""The ledger's URL decides about TLS to PostgreSQL.

The PostgreSQL from a wheel is built without TLS. A relay in front of it terminates TLS the way
PostgreSQL does, after the client has asked for it.
"""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from pipeline.errors import UnavailableError
from pipeline.ledger import open_ledger, upgrade
from tests.support.certificates import Authority

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104


@contextlib.contextmanager
def relay(upstream: URL, context: ssl.SSLContext | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the relay's port, and the TLS versions of the connections that it accepted."""
    versions: list[str] = []
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(client,))
            thread.start()
            threads.append(thread)

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            request = _GSS_REQUEST
            while request == _GSS_REQUEST:
                _, request = struct.unpack(">II", client.recv(8, socket.MSG_WAITALL))
                if request == _GSS_REQUEST:
                    client.sendall(b"N")
            assert request == _SSL_REQUEST
            if context is None:
                client.sendall(b"N")
                return
            client.sendall(b"S")
            with context.wrap_socket(client, server_side=True) as inner, _connect(upstream) as db:
                versions.append(str(inner.version()))
                downstream = threading.Thread(target=_pump, args=(db, inner))
                downstream.start()
                _pump(inner, db)
                downstream.join()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1], versions
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join()


def _connect(upstream: URL) -> socket.socket:
    folder = upstream.query.get("host")
    if folder is None:
        return socket.create_connection((upstream.host or "127.0.0.1", upstream.port or 5432))
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{folder}/.s.PGSQL.5432")
    return client


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _context(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("postgres"))
    return context


def _url(upstream: URL, port: int, **query: str) -> str:
    return upstream.set(host="127.0.0.1", port=port, query=query).render_as_string(
        hide_password=False
    )


def test_a_server_certificate_is_verified_and_an_untrusted_one_rejected(
    postgres_database: str, tmp_path: Path
) -> None:
    upstream = make_url(postgres_database)
    ours, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "stranger")
    with relay(upstream, _context(ours)) as (port, versions):
        verified = {"sslmode": "verify-full", "sslrootcert": str(ours.ca)}
        upgrade(_url(upstream, port, **verified))
        open_ledger(_url(upstream, port, **verified)).close()
        untrusted = {"sslmode": "verify-full", "sslrootcert": str(stranger.ca)}
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            open_ledger(_url(upstream, port, **untrusted))

    assert len(versions) >= 2
    assert set(versions) == {"TLSv1.3"}


def test_nothing_is_sent_to_a_server_without_tls_if_the_url_requires_it(
    postgres_database: str,
) -> None:
    upstream = make_url(postgres_database)
    with (
        relay(upstream, None) as (port, _),
        pytest.raises(UnavailableError, match="server does not support SSL"),
    ):
        open_ledger(_url(upstream, port, sslmode="require"))
