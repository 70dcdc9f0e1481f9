"""Translate the settings of the broker for each client: librdkafka, aiokafka and Faust."""

import ssl
from typing import Any

from pipeline.config import KafkaSettings, Settings


def kafka_client_options(kafka: KafkaSettings) -> dict[str, str | int | float | bool]:
    """Return the options of librdkafka that say where the brokers are and who we are."""
    options: dict[str, str | int | float | bool] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        options["sasl.mechanism"] = kafka.sasl_mechanism
        options["sasl.username"] = kafka.sasl_username or ""
        password = kafka.sasl_password
        options["sasl.password"] = password.get_secret_value() if password else ""
    if kafka.security_protocol.endswith("SSL"):
        if kafka.ssl_ca_file:
            options["ssl.ca.location"] = str(kafka.ssl_ca_file)
        if kafka.ssl_cert_file and kafka.ssl_key_file:
            options["ssl.certificate.location"] = str(kafka.ssl_cert_file)
            options["ssl.key.location"] = str(kafka.ssl_key_file)
            if kafka.ssl_key_password:
                options["ssl.key.password"] = kafka.ssl_key_password.get_secret_value()
    return options


def aiokafka_credentials(settings: Settings) -> dict[str, Any]:
    """Return the options of aiokafka that say who we are."""
    kafka = settings.kafka
    options: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password
        options |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username or "",
            "sasl_plain_password": password.get_secret_value() if password else "",
        }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl_context(settings)
    return options


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """Return the context that trusts the brokers' CA, or the system's, and shows who we are."""
    kafka = settings.kafka
    ca, certificate, key = kafka.ssl_ca_file, kafka.ssl_cert_file, kafka.ssl_key_file
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if certificate is not None and key is not None:
        password = kafka.ssl_key_password
        # Never None: OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(
            certificate, key, password=password.get_secret_value() if password else ""
        )
    return context
