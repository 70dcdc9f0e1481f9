"""This file asks Kafka through librdkafka, and tells a broker that refuses us from one that is away.

librdkafka tries again for ever, whatever the reason, and gives it to a callback only: without that,
a wrong password looks like a broker that does not answer.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]

from pipeline.errors import ConfigurationError

_LOOK_SECONDS = 1.0
_REFUSALS = {KafkaError._AUTHENTICATION, KafkaError._SSL}


class Asked(Protocol):
    """A client of librdkafka: an admin client or a consumer."""

    def list_topics(self, topic: Any = ..., timeout: Any = ...) -> ClusterMetadata: ...
    def poll(self, timeout: float = ...) -> Any: ...


_Client = TypeVar("_Client", bound=Asked)


class Refusals:
    """What the brokers have against us. `hear` is the client's `error_cb`, or called by it."""

    def __init__(self) -> None:
        self.last: str | None = None
        self.suspected: str | None = None

    def hear(self, error: KafkaError) -> bool:
        """Take in an error; return whether it is a refusal: no time of waiting heals that."""
        # "sasl_ssl://host:port/bootstrap: reason (after 3ms in state ...)"
        text = error.str().split("/bootstrap: ")[-1].split(" (after ")[0]
        if error.code() in _REFUSALS:
            self.last = text
            return True
        if error.code() == KafkaError._TRANSPORT and "SSL" in text:
            # A certificate that the broker misses comes as this; so does a broker that just ends.
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
                    f"the settings of Kafka cannot be used: {error.args[0].str()}; look at "
                    "RESMETER_KAFKA__SECURITY_PROTOCOL, SASL_… and SSL_…"
                )
            ]
        ) from error


def quiet() -> dict[str, Any]:
    """Return the options of a client that says nothing by itself.

    librdkafka tells of each connection that it tries; the error that we raise says it once.
    """
    logger = logging.getLogger("resmeter.librdkafka")
    logger.setLevel(logging.CRITICAL)
    return {"log_level": 0, "logger": logger}


def list_topics(
    client: Asked, refusals: Refusals, servers: str, topic: str | None = None, *, seconds: float
) -> ClusterMetadata:
    """Return what the brokers say of all topics, or of one.

    Raises:
        ConfigurationError: the brokers refuse us, or we them; the message says why.
        KafkaException: none answers in this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            return client.list_topics(topic, timeout=min(max(left, 0.1), _LOOK_SECONDS))
        except KafkaException:
            client.poll(0)  # calls back what was said meanwhile
            is_last = left <= _LOOK_SECONDS
            why = refusals.last or (refusals.suspected if is_last else None)
            if why is not None:
                raise ConfigurationError([told_refused(servers, why)]) from None
            if is_last:
                raise


def told_refused(servers: str, why: str) -> str:
    """Say that brokers answer, and will not deal with us (or we not with them)."""
    return (
        f"no connection to Kafka at {servers} is possible: {why}; look at "
        "RESMETER_KAFKA__SECURITY_PROTOCOL, SASL_MECHANISM, SASL_USERNAME, SASL_PASSWORD, "
        "SSL_CA_FILE, SSL_CERT_FILE and SSL_KEY_FILE"
    )
