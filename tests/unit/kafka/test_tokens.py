"""Tokens come from the identity provider or are signed for MSK, and are used until they get old."""

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.config import KafkaSettings
from pipeline.errors import ConfigurationError, ResmeterError, UnavailableError
from pipeline.kafka.options import aiokafka_options, librdkafka_options
from pipeline.kafka.tokens import Token, Tokens, tokens_of
from tests.support.identity import CLIENT_ID, CLIENT_SECRET, Provider, identity_provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    with identity_provider() as running:
        yield running


def settings(url: str, **more: object) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": url,
            "sasl_oauth_client_id": CLIENT_ID,
            "sasl_oauth_client_secret": CLIENT_SECRET,
            **more,
        }
    )


def tokens(kafka: KafkaSettings) -> Tokens:
    found = tokens_of(kafka)
    assert found is not None
    return found


# --- an identity provider -------------------------------------------------------------------------


def test_a_token_is_asked_for_with_id_and_secret_and_used_again(provider: Provider) -> None:
    source = tokens(settings(provider.url, sasl_oauth_scope="a b", sasl_oauth_audience="kafka"))

    first, second = source.current(), source.current()

    assert first == second
    assert first.value.count(".") == 2
    assert provider.asked == [
        {"grant_type": ["client_credentials"], "scope": ["a b"], "audience": ["kafka"]}
    ]


def test_a_token_is_replaced_before_it_ends() -> None:
    times = iter((1_000.0, 1_079.0, 1_081.0, 1_100.0))
    given = iter((Token("t1", 1_100.0), Token("t2", 1_181.0)))
    source = Tokens(lambda: next(given), {}, lambda: next(times))

    values = [source.current().value for _ in range(4)]

    assert values == ["t1", "t1", "t2", "t2"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"<html>", "the answer is no JSON with access_token"),
        (b"[]", "the answer is no JSON with access_token"),
        (b'{"token": "x"}', "the answer is no JSON with access_token"),
        (b'{"access_token": "x", "expires_in": "soon"}', "the answer is no JSON with access_token"),
    ],
)
def test_an_answer_without_a_token_is_named(provider: Provider, answer: bytes, says: str) -> None:
    provider.raw_answer = answer

    with pytest.raises(UnavailableError, match=says):
        tokens(settings(provider.url)).current()


def test_a_client_that_is_not_accepted_is_a_configuration_error(provider: Provider) -> None:
    wrong = settings(provider.url, sasl_oauth_client_secret="hunter2-wrong")

    with pytest.raises(ConfigurationError, match="answered 401 and gave no token") as caught:
        tokens(wrong).current()

    assert "hunter2" not in str(caught.value)


def test_an_identity_provider_that_is_down_is_named() -> None:
    with pytest.raises(
        UnavailableError, match=r"no token from http://127.0.0.1:1/token: .*refused"
    ):
        tokens(settings("http://127.0.0.1:1/token")).current()


def test_both_clients_get_the_token_and_the_extensions(provider: Provider) -> None:
    kafka = settings(provider.url, sasl_oauth_extensions="logicalCluster=lkc-1, identityPoolId=p")

    options = librdkafka_options(kafka)
    value, expires_at, _, extensions = options["oauth_cb"]("")
    of_aiokafka = aiokafka_options(kafka)

    assert options["sasl.mechanism"] == of_aiokafka["sasl_mechanism"] == "OAUTHBEARER"
    assert "sasl.password" not in options
    assert "sasl_plain_password" not in of_aiokafka
    assert extensions == {"logicalCluster": "lkc-1", "identityPoolId": "p"}
    assert of_aiokafka["sasl_oauth_token_provider"].extensions == extensions
    assert value.count(".") == 2
    assert expires_at > 0
    assert CLIENT_SECRET not in repr(options)


# --- Amazon MSK -----------------------------------------------------------------------------------


@pytest.fixture
def bare_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave no credentials but those of a test, and no way to ask for some."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def of_msk() -> Tokens:
    return tokens(
        KafkaSettings.model_validate(
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "AWS_MSK_IAM",
                "sasl_aws_region": "eu-west-1",
            }
        )
    )


@pytest.mark.usefixtures("bare_aws")
def test_a_token_for_msk_is_signed_with_the_credentials_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")

    token = of_msk().current()

    signed = urlsplit(base64.urlsafe_b64decode(token.value + "==").decode())
    query = parse_qs(signed.query)
    assert signed.netloc == "kafka.eu-west-1.amazonaws.com"
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("AKIATEST/")
    assert "hunter2" not in str(signed)


@pytest.mark.usefixtures("bare_aws")
def test_missing_credentials_for_msk_are_named() -> None:
    with pytest.raises(
        ResmeterError, match="no AWS credentials to sign a token for MSK in eu-west"
    ):
        of_msk().current()


def test_msk_is_sasl_ssl_with_the_mechanism_that_the_brokers_know() -> None:
    kafka = KafkaSettings.model_validate(
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "AWS_MSK_IAM", "sasl_aws_region": "r"}
    )

    assert librdkafka_options(kafka)["sasl.mechanism"] == "OAUTHBEARER"
