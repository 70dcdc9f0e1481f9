"""Get tokens for SASL/OAUTHBEARER: from an identity provider, or signed for Amazon MSK.

Both Kafka clients ask here, so that they behave in the same way. A token is used again until most of
its life is over.
"""

import base64
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote_plus, urlencode

from pipeline.config import KafkaSettings
from pipeline.errors import ConfigurationError, UnavailableError

_TIMEOUT_SECONDS = 10.0
_LIFE_USED = 0.8  # a token is replaced after this part of its life
_LIFE_SECONDS = 300.0  # if the identity provider does not say it
_ANSWER_BYTES_MAX = 1_000_000


class Token(NamedTuple):
    """A token, and when it ends in seconds since 1970."""

    value: str
    expires_at: float


class Tokens:
    """The current token, of which any thread may ask."""

    def __init__(
        self,
        fetch: Callable[[], Token],
        extensions: Mapping[str, str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.extensions = dict(extensions)  # sent to the broker beside the token
        self._fetch = fetch
        self._now = now
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._replace_at = 0.0

    def current(self) -> Token:
        """Return a token that is valid for a while.

        Raises:
            ConfigurationError: the identity provider does not accept our id and secret.
            UnavailableError: it cannot be reached, or it answers something else.
        """
        with self._lock:
            now = self._now()
            if self._token is None or now >= self._replace_at:
                self._token = self._fetch()
                self._replace_at = now + (self._token.expires_at - now) * _LIFE_USED
            return self._token

    def for_librdkafka(self, _: str) -> tuple[str, float, str, dict[str, str]]:
        """Answer librdkafka's `oauth_cb`: token, end, principal (not used), extensions."""
        token = self.current()
        return token.value, token.expires_at, "", self.extensions

    def __repr__(self) -> str:
        return "Tokens(...)"


def tokens_of(kafka: KafkaSettings) -> Tokens | None:
    """Return the tokens that the SASL mechanism uses; None for a mechanism with a password."""
    if kafka.sasl_mechanism == "AWS_MSK_IAM":
        return Tokens(lambda: _signed_for_msk(kafka.sasl_aws_region or ""), {})
    if kafka.sasl_mechanism == "OAUTHBEARER":
        pairs = (pair.partition("=") for pair in (kafka.sasl_oauth_extensions or "").split(","))
        return Tokens(
            lambda: _from_identity_provider(kafka),
            {name.strip(): value.strip() for name, _, value in pairs if name.strip()},
        )
    return None


def _from_identity_provider(kafka: KafkaSettings) -> Token:
    """Ask for a token with our client id and secret (RFC 6749, section 4.4)."""
    url = kafka.sasl_oauth_token_url or ""
    client_id = kafka.sasl_oauth_client_id or ""
    secret = kafka.sasl_oauth_client_secret
    password = secret.get_secret_value() if secret else ""
    credentials = f"{quote_plus(client_id)}:{quote_plus(password)}".encode()
    form = {"grant_type": "client_credentials"}
    if kafka.sasl_oauth_scope:
        form["scope"] = kafka.sasl_oauth_scope
    if kafka.sasl_oauth_audience:
        form["audience"] = kafka.sasl_oauth_audience
    request = urllib.request.Request(
        url,
        urlencode(form).encode(),
        {
            "Authorization": f"Basic {base64.b64encode(credentials).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        },
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(
            context=ssl.create_default_context(cafile=kafka.sasl_oauth_ca_file)
        ),
    )
    asked_at = time.time()
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            answer = json.loads(response.read(_ANSWER_BYTES_MAX))
        value = str(answer["access_token"])
        life = float(answer.get("expires_in") or _LIFE_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            problem = f"{url} answered {error.code}"
        if error.code in {400, 401, 403}:
            settings = "RESMETER_KAFKA__SASL_OAUTH_CLIENT_ID, CLIENT_SECRET, SCOPE and AUDIENCE"
            raise ConfigurationError(
                [f"{problem} and gave no token for the client {client_id!r}; check {settings}"]
            ) from None
        raise UnavailableError(f"{problem} and gave no token") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"no token from {url}: {reason}; check RESMETER_KAFKA__SASL_OAUTH_TOKEN_URL and CA_FILE"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UnavailableError(
            f"no token from {url}: the answer is no JSON with access_token and expires_in"
        ) from error
    return Token(value, asked_at + life)


def _signed_for_msk(region: str) -> Token:
    """Sign a token with the AWS credentials of this process: a role, a profile, variables."""
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError:
        needed = "needs another package: run `pip install 'resmeter[msk]'`"
        raise ConfigurationError(
            [f"RESMETER_KAFKA__SASL_MECHANISM is AWS_MSK_IAM, which {needed}"]
        ) from None
    try:
        value, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
    except Exception as error:  # the library raises its own, botocore's and ValueError
        raise UnavailableError(
            f"no AWS credentials to sign a token for MSK in {region}: {error}"
        ) from error
    return Token(value, expires_ms / 1000)
