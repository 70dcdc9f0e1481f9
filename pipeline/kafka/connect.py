"""Open clients of librdkafka, and distinguish brokers that reject us from unreachable ones.

librdkafka retries every failed connection for ever, whatever the reason, and reports the reason
only to a callback. Without the callback, a wrong password looks like an unreachable broker.
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
    """Why brokers reject us, or we reject them. Pass `on_error` as `error_cb`, or call it there."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.suspected: str | None = None  # a rejection, or the broker is only restarting

    def on_error(self, error: KafkaError) -> bool:
        """Note an error; return whether authentication failed, so that no retry can help."""
        # "sasl_ssl://host:port/bootstrap: reason (after 3ms in state ...)"
        text = error.str().split("/bootstrap: ")[-1].split(" (after ")[0]
        if error.code() in _AUTH_ERRORS:
            self.reason = text
            return True
        if error.code() == KafkaError._TRANSPORT and "SSL" in text:
            # A broker closes the connection if our certificate is missing, but also when it stops.
            self.suspected = text
        return False


def open_client(make: Callable[[dict[str, Any]], _Client], options: Mapping[str, Any]) -> _Client:
    """Make a client; librdkafka reads the certificates and keys now.

    Raises:
        ConfigurationError: librdkafka cannot use the options, such as a certificate or key, or the
            identity provider gives us no token.
        UnavailableError: the identity provider cannot be reached.
    """
    if "oauth_cb" in options:
        options["oauth_cb"]("")  # an error now; librdkafka would wait, and not say why
    try:
        # Without a logger, librdkafka prints lines of its own form on standard error.
        return make({"logger": logging.getLogger("librdkafka"), **options})
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

    librdkafka would log each attempt to connect; we raise one error instead.
    """
    logger = logging.getLogger("resmeter.librdkafka")
    logger.setLevel(logging.CRITICAL)
    return {"log_level": 0, "logger": logger}


def list_topics(
    client: Client, failure: AuthFailure, servers: str, topic: str | None = None, *, seconds: float
) -> ClusterMetadata:
    """Return the brokers' metadata of all topics, or of one.

    Raises:
        ConfigurationError: the brokers reject us, or we reject them; the message says why.
        KafkaException: no broker responds within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            return client.list_topics(topic, timeout=min(max(left, 0.1), _POLL_SECONDS))
        except KafkaException:
            client.poll(0)  # calls `error_cb` for the errors so far
            is_last = left <= _POLL_SECONDS
            reason = failure.reason or (failure.suspected if is_last else None)
            if reason is not None:
                raise ConfigurationError([auth_failure_message(servers, reason)]) from None
            if is_last:
                raise


def auth_failure_message(servers: str, reason: str) -> str:
    """Return the message for brokers that reject us, or that we reject."""
    return (
        f"cannot connect to Kafka at {servers}: {reason}; check "
        "RESMETER_KAFKA__SECURITY_PROTOCOL, SASL_MECHANISM, SASL_USERNAME, SASL_PASSWORD, "
        "SASL_OAUTH_…, SSL_CA_FILE, SSL_CERT_FILE and SSL_KEY_FILE"
    )
