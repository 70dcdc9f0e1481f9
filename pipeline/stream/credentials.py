"""Give aiokafka and Faust what they need to log in to the brokers."""

import asyncio
from typing import Any

import faust
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from pipeline.config import Settings
from pipeline.errors import ResmeterError
from pipeline.kafka.options import security_of
from pipeline.kafka.tokens import Tokens


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Give aiokafka the tokens with which it logs in."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        try:
            return (await asyncio.to_thread(self._tokens.current)).value
        except ResmeterError as error:  # the client tries again, as after any failed connection
            raise KafkaConnectionError(str(error)) from error

    def extensions(self) -> dict[str, str]:
        return self._tokens.extensions


def faust_credentials(settings: Settings) -> Any:
    """Return Faust's credentials for the brokers; None without TLS and SASL."""
    security = security_of(settings.kafka)
    context = None if security.tls is None else security.tls.context()
    if security.sasl is not None and security.sasl.tokens is not None:
        return faust.OAuthCredentials(
            oauth_cb=TokenProvider(security.sasl.tokens), ssl_context=context
        )
    if security.sasl is not None:
        return faust.SASLCredentials(
            username=security.sasl.username,
            password=security.sasl.password,
            mechanism=security.sasl.mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
