"""An identity provider on loopback that gives tokens for a client's id and secret."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

CLIENT_ID, CLIENT_SECRET = "resmeter", "hunter2+client"


def unsigned_token(subject: str, seconds: float) -> str:
    """Return a JSON Web Token without a signature, as a broker under test takes it."""
    now = time.time()
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + seconds})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return ".".join(part.decode() for part in encoded) + "."


class Provider(ThreadingHTTPServer):
    """The provider: what it was asked, and how long a token lives."""

    life_seconds: float = 3600
    raw_answer: bytes | None = None  # instead of a token

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, list[str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append(form)
        # RFC 6749, section 2.3.1: id and secret are encoded as in a form.
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".replace("+", "%2B").encode())
        status: int = 200
        answer: Any = {"access_token": "", "expires_in": self.server.life_seconds}
        if self.headers["Authorization"] != f"Basic {expected.decode()}":
            status, answer = 401, {"error": "invalid_client"}
        else:
            answer["access_token"] = unsigned_token("meter", self.server.life_seconds)
        body = self.server.raw_answer or json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def identity_provider() -> Iterator[Provider]:
    """Run a provider for as long as the context is open."""
    provider = Provider()
    thread = threading.Thread(target=provider.serve_forever)
    thread.start()
    try:
        yield provider
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()
