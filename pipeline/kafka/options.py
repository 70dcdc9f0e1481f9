"""Translate the broker's settings into a neutral form, and that form into client options."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from pipeline.config import KafkaSettings
from pipeline.kafka.tokens import Tokens, tokens_of

ClientOptions: TypeAlias = dict[str, Any]


class Sasl(msgspec.Struct, frozen=True):
    """How we log in to the brokers: with a user name and password, or with tokens."""

    mechanism: str  # as the brokers know it
    username: str
    password: str
    tokens: Tokens | None = None

    def __repr__(self) -> str:
        return f"Sasl(mechanism={self.mechanism!r}, username={self.username!r}, password=...)"


class Tls(msgspec.Struct, frozen=True):
    """The CA that we trust, and the certificate that we present. Both are optional."""

    ca_file: Path | None  # None: trust the system's CAs
    cert_file: Path | None
    key_file: Path | None
    key_password: str

    def __repr__(self) -> str:
        return f"Tls(ca_file={self.ca_file}, cert_file={self.cert_file}, key_file={self.key_file})"

    def context(self) -> ssl.SSLContext:
        """Return a context for Python's `ssl`; the certificates and the key are read now."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None and self.key_file is not None:
            # If the password were None, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.cert_file, self.key_file, password=self.key_password)
        return context


class Security(msgspec.Struct, frozen=True):
    """How a connection is secured. Only the parts that the protocol uses are set."""

    protocol: str
    sasl: Sasl | None
    tls: Tls | None


def security_of(kafka: KafkaSettings) -> Security:
    """Return the part of the settings that the security protocol uses."""
    sasl: Sasl | None = None
    tls: Tls | None = None
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password
        tokens = tokens_of(kafka)
        sasl = Sasl(
            kafka.sasl_mechanism if tokens is None else "OAUTHBEARER",
            kafka.sasl_username or "",
            password.get_secret_value() if password else "",
            tokens,
        )
    if kafka.security_protocol.endswith("SSL"):
        key_password = kafka.ssl_key_password
        tls = Tls(
            kafka.ssl_ca_file,
            kafka.ssl_cert_file,
            kafka.ssl_key_file,
            key_password.get_secret_value() if key_password else "",
        )
    return Security(kafka.security_protocol, sasl, tls)


def librdkafka_options(kafka: KafkaSettings) -> ClientOptions:
    """Return librdkafka's options: the brokers' addresses and the security."""
    security = security_of(kafka)
    options: ClientOptions = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": security.protocol,
    }
    if (sasl := security.sasl) is not None:
        options["sasl.mechanism"] = sasl.mechanism
        if sasl.tokens is not None:
            options["oauth_cb"] = sasl.tokens.for_librdkafka
        else:
            options["sasl.username"] = sasl.username
            options["sasl.password"] = sasl.password
    if (tls := security.tls) is not None:
        if tls.ca_file:
            options["ssl.ca.location"] = str(tls.ca_file)
        if tls.cert_file and tls.key_file:
            options["ssl.certificate.location"] = str(tls.cert_file)
            options["ssl.key.location"] = str(tls.key_file)
            if tls.key_password:
                options["ssl.key.password"] = tls.key_password
    return options


def aiokafka_options(
    kafka: KafkaSettings, provider_of: Callable[[Tokens], object] = lambda tokens: tokens
) -> dict[str, Any]:
    """Return aiokafka's options for the security, without the brokers' addresses.

    `provider_of` makes what aiokafka asks for tokens; only the stream knows aiokafka.
    """
    security = security_of(kafka)
    options: dict[str, Any] = {"security_protocol": security.protocol}
    if (sasl := security.sasl) is not None:
        options["sasl_mechanism"] = sasl.mechanism
        if sasl.tokens is not None:
            options["sasl_oauth_token_provider"] = provider_of(sasl.tokens)
        else:
            options["sasl_plain_username"] = sasl.username
            options["sasl_plain_password"] = sasl.password
    if security.tls is not None:
        options["ssl_context"] = security.tls.context()
    return options
