"""A broker that rejects us is distinguished from one that is unreachable."""

import pytest
from confluent_kafka import KafkaError

from pipeline.kafka.connect import AuthFailure, auth_failure_message


@pytest.mark.parametrize("code", [KafkaError._AUTHENTICATION, KafkaError._SSL])
def test_the_reason_of_an_authentication_error_has_no_address_and_no_timing(code: int) -> None:
    failure = AuthFailure()

    is_final = failure.on_error(
        KafkaError(
            code, "sasl_ssl://a:9092/bootstrap: SASL authentication error (after 3ms in state X)"
        )
    )

    assert is_final
    assert failure.reason == "SASL authentication error"


def test_a_tls_connection_that_the_broker_closes_is_only_suspected() -> None:
    failure = AuthFailure()

    is_final = failure.on_error(
        KafkaError(KafkaError._TRANSPORT, "ssl://a:9092/bootstrap: SSL handshake failed: closed")
    )

    assert not is_final
    assert failure.reason is None
    assert failure.suspected == "SSL handshake failed: closed"


def test_an_unreachable_broker_is_not_an_authentication_failure() -> None:
    failure = AuthFailure()

    is_final = failure.on_error(
        KafkaError(KafkaError._TRANSPORT, "a:9092/bootstrap: Connect to 127.0.0.1 failed")
    )

    assert not is_final
    assert (failure.reason, failure.suspected) == (None, None)


def test_the_message_names_the_brokers_the_reason_and_the_settings() -> None:
    message = auth_failure_message("a:9092", "Authentication failed")

    assert message.startswith("cannot connect to Kafka at a:9092: Authentication failed; check ")
    for setting in ("SECURITY_PROTOCOL", "SASL_PASSWORD", "SSL_CA_FILE", "SSL_KEY_FILE"):
        assert setting in message
