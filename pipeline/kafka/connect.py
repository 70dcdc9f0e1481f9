"""Open clients of librdkafka, and tell a broker that rejects us from one that is unreachable.

librdkafka retries every failed connection for ever, whatever the reason, and gives the reason only
to a callback. Without the callback, a wrong password looks like a broker that does not answer.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from pipeline.errors import ConfigurationError

_POLL_SECONDS = 1.0
_AUTH_ERRORS = {KafkaError._AUTHENTICATION, KafkaError._SSL}


class Client(Protocol):
    """A client of librdkafka: an admin client or a consumer."""

    def list_topics(self, topic: Any = ..., timeout: Any = ...) -> ClusterMetadata: ...
    def poll(self, timeout: float = ...) -> Any: ...


_Client = TypeVar("_Client", bound=Client)


class AuthFailure:
    """Collect why brokers reject us, or we them. Pass `on_error` as `error_cb`, or call it there."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.suspected: str | None = None  # it may also be a broker that is only restarting

    def on_error(self, error: KafkaError) -> bool:
        """Collect an error; return whether it is an authentication failure: retrying cannot help."""
        # "sasl_ssl://host:port/bootstrap: reason (after 3ms in state ...)"
        text = error.str().split("/bootstrap: ")[-1].split(" (after ")[0]
        if error.code() in _AUTH_ERRORS:
            self.reason = text
            return True
        if error.code() == KafkaError._TRANSPORT and "SSL" in text:
            # A broker that misses our certificate closes the connection, as a stopping one does.
            self.suspected = text
        return False


def open_client(make: Callable[[dict[str, Any]], _Client], options: Mapping[str, Any]) -> _Client:
    """Make a client; librdkafka reads certificates and keys at that moment.

    Raises:
        ConfigurationError: they cannot be used.
    """
    try:
        return make(dict(options))
    except KafkaException as error:
        raise ConfigurationError(
            [
                (
                    f"cannot use the Kafka settings: {error.args[0].str()}; check "
                    "RESMETER_KAFKA__SECURITY_PROTOCOL, SASL_… and SSL_…"
                )
            ]
        ) from error


def silent_options() -> dict[str, Any]:
    """Return the options of a client that logs nothing.

    librdkafka logs each attempt to connect; the error that we raise says it once.
    """
    logger = logging.getLogger("resmeter.librdkafka")
    logger.setLevel(logging.CRITICAL)
    return {"log_level": 0, "logger": logger}


def list_topics(
    client: Client, failure: AuthFailure, servers: str, topic: str | None = None, *, seconds: float
) -> ClusterMetadata:
    """Return the brokers' metadata of all topics, or of one.

    Raises:
        ConfigurationError: the brokers reject us, or we them; the message says why.
        KafkaException: none answers within this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            return client.list_topics(topic, timeout=min(max(left, 0.1), _POLL_SECONDS))
        except KafkaException:
            client.poll(0)  # runs the callback for the errors since
            is_last = left <= _POLL_SECONDS
            reason = failure.reason or (failure.suspected if is_last else None)
            if reason is not None:
                raise ConfigurationError([auth_failure_message(servers, reason)]) from None
            if is_last:
                raise


def auth_failure_message(servers: str, reason: str) -> str:
    """Return the message for brokers that answer and reject us, or that we reject."""
    return (
        f"cannot connect to Kafka at {servers}: {reason}; check "
        "RESMETER_KAFKA__SECURITY_PROTOCOL, SASL_MECHANISM, SASL_USERNAME, SASL_PASSWORD, "
        "SSL_CA_FILE, SSL_CERT_FILE and SSL_KEY_FILE"
    )
