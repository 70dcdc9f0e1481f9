"""Each client gets the settings of the connection, and only those that the protocol uses."""

import ssl
from pathlib import Path

import pytest

from pipeline.config import KafkaSettings
from pipeline.kafka.options import Security, aiokafka_options, librdkafka_options, security_of


@pytest.fixture
def pem(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.touch()
    return str(path)


def test_without_sasl_no_credentials_go_to_the_client() -> None:
    kafka = KafkaSettings.model_validate(
        {"bootstrap_servers": "a:9092", "sasl_username": "u", "sasl_password": "p"}
    )

    assert librdkafka_options(kafka) == {
        "bootstrap.servers": "a:9092",
        "security.protocol": "PLAINTEXT",
    }


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_with_sasl_the_client_gets_mechanism_name_and_password(protocol: str) -> None:
    kafka = KafkaSettings.model_validate(
        {
            "security_protocol": protocol,
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "meter",
            "sasl_password": "hunter2",
        }
    )

    assert librdkafka_options(kafka) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": protocol,
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "meter",
        "sasl.password": "hunter2",
    }


def test_with_ssl_the_client_gets_the_brokers_ca(pem: str) -> None:
    kafka = KafkaSettings.model_validate({"security_protocol": "SSL", "ssl_ca_file": pem})

    assert librdkafka_options(kafka) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SSL",
        "ssl.ca.location": pem,
    }


def test_with_a_certificate_the_client_gets_it_with_its_key(pem: str) -> None:
    kafka = KafkaSettings.model_validate(
        {
            "security_protocol": "SSL",
            "ssl_cert_file": pem,
            "ssl_key_file": pem,
            "ssl_key_password": "hunter2",
        }
    )

    assert librdkafka_options(kafka) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SSL",
        "ssl.certificate.location": pem,
        "ssl.key.location": pem,
        "ssl.key.password": "hunter2",
    }


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_with_sasl_aiokafka_gets_mechanism_name_and_password(protocol: str) -> None:
    options = aiokafka_options(
        KafkaSettings.model_validate(
            {
                "security_protocol": protocol,
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_username": "meter",
                "sasl_password": "hunter2",
            }
        )
    )

    context = options.pop("ssl_context", None)
    assert options == {
        "security_protocol": protocol,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "meter",
        "sasl_plain_password": "hunter2",
    }
    assert isinstance(context, ssl.SSLContext) == (protocol == "SASL_SSL")


def test_without_encryption_and_credentials_aiokafka_gets_only_the_protocol() -> None:
    assert aiokafka_options(KafkaSettings()) == {"security_protocol": "PLAINTEXT"}


def test_settings_that_the_protocol_does_not_use_are_left_out(pem: str) -> None:
    kafka = KafkaSettings.model_validate(
        {"sasl_username": "meter", "sasl_password": "hunter2", "ssl_ca_file": pem}
    )

    assert security_of(kafka) == Security("PLAINTEXT", None, None)


def test_the_repr_of_the_security_shows_no_password(pem: str) -> None:
    kafka = KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_SSL",
            "sasl_username": "meter",
            "sasl_password": "hunter2",
            "ssl_ca_file": pem,
            "ssl_key_password": "hunter3",
        }
    )

    assert "hunter" not in repr(security_of(kafka))
