"""Settings come from the environment, and all problems are reported together."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config import (
    PREFIX,
    Settings,
    describe_settings,
    load_settings,
    load_valid_settings,
    unknown_variables,
)
from pipeline.errors import ConfigurationError

SECRETS = (
    "RESMETER_KAFKA__SASL_PASSWORD",
    "RESMETER_KAFKA__SASL_OAUTH_CLIENT_SECRET",
    "RESMETER_KAFKA__SSL_KEY_PASSWORD",
    "RESMETER_STRIPE__API_KEY",
    "RESMETER_EMULATOR__CONTROL_TOKEN",
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def fields() -> Iterator[tuple[str, object]]:
    """Yield (variable, default) of every setting, from the classes themselves."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, inner in section.model_fields.items():
                yield f"{PREFIX}{name}__{key}".upper(), inner.default
        else:
            yield f"{PREFIX}{name}".upper(), field.default


def problems() -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    return caught.value.problems


# --- reading --------------------------------------------------------------------------------------


def test_without_variables_every_setting_has_its_default() -> None:
    assert load_settings() == Settings.model_construct()


def test_variables_are_read_by_section_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMETER_CONFIG", "some/tenants.toml")
    monkeypatch.setenv("RESMETER_KAFKA__BOOTSTRAP_SERVERS", "a:9092,b:9092")
    monkeypatch.setenv("RESMETER_TOPICS__PARTITIONS", "32")
    monkeypatch.setenv("RESMETER_WORKER__SETTLE_MARGIN_SECONDS", "2.5")
    monkeypatch.setenv("RESMETER_LOG__LEVEL", "debug")

    settings = load_settings()

    assert str(settings.config) == "some/tenants.toml"
    assert settings.kafka.bootstrap_servers == "a:9092,b:9092"
    assert settings.topics.partitions == 32
    assert settings.worker.settle_margin_seconds == 2.5
    assert settings.log.level == "debug"


def test_one_variable_of_a_section_leaves_its_others_at_their_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESMETER_SINK__HTTP_PORT", "0")

    sink = load_settings().sink

    assert sink == Settings.model_construct().sink.model_copy(update={"http_port": 0})


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, _ in fields():
        monkeypatch.setenv(variable, "")

    assert load_settings() == Settings.model_construct()


def test_variables_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    monkeypatch.setenv("RESMETER_TEST_KAFKA", "elsewhere:9092")

    assert load_settings() == Settings.model_construct()


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()

    with pytest.raises(ValidationError):
        settings.config = None  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.kafka.bootstrap_servers = "elsewhere:9092"  # type: ignore[misc]


# --- problems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RESMETER_KAFKA__SECURITY_PROTOCOL", "plaintext", "'PLAINTEXT', 'SSL'"),
        ("RESMETER_TOPICS__PARTITIONS", "0", "greater than or equal to 1"),
        ("RESMETER_TOPICS__PARTITIONS", "eight", "valid integer"),
        ("RESMETER_WORKER__HTTP_PORT", "65536", "less than or equal to 65535"),
        ("RESMETER_WORKER__COMMIT_INTERVAL_SECONDS", "0", "greater than 0"),
        ("RESMETER_WORKER__SETTLE_MARGIN_SECONDS", "-1", "greater than or equal to 0"),
        ("RESMETER_SINK__FLUSH_INTERVAL_SECONDS", "nan", "less than or equal to 86400"),
        ("RESMETER_STRIPE__BASE_URL", "127.0.0.1:12111", "match pattern"),
        ("RESMETER_LOG__FORMAT", "xml", "'auto', 'console' or 'json'"),
    ],
)
def test_an_invalid_value_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)

    (problem,) = problems()

    assert problem.startswith(f"{variable}: ")
    assert says in problem


def test_an_unknown_variable_of_a_section_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMETER_KAFKA__BOOTSTRAP_SERVER", "a:9092")

    (problem,) = problems()

    assert problem.startswith("RESMETER_KAFKA__BOOTSTRAP_SERVER: ")


def test_a_value_for_a_whole_section_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESMETER_KAFKA", "a:9092")

    (problem,) = problems()

    assert problem.startswith("RESMETER_KAFKA: ")


def test_all_problems_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMETER_TOPICS__PARTITIONS", "0")
    monkeypatch.setenv("RESMETER_WORKER__HTTP_PORT", "x")
    monkeypatch.setenv("RESMETER_SINK__HTTP_PORT", "-1")
    monkeypatch.setenv("RESMETER_LOG__LEVEL", "loud")

    reported = problems()

    assert [problem.partition(": ")[0] for problem in reported] == [
        "RESMETER_TOPICS__PARTITIONS",
        "RESMETER_WORKER__HTTP_PORT",
        "RESMETER_SINK__HTTP_PORT",
        "RESMETER_LOG__LEVEL",
    ]


def test_a_check_gets_the_valid_sections_and_the_problems_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESMETER_KAFKA__BOOTSTRAP_SERVERS", "a:9092")
    monkeypatch.setenv("RESMETER_STRIPE__API_KEY", "sk_test_hunter2")
    monkeypatch.setenv("RESMETER_WORKER__HTTP_PORT", "x")
    monkeypatch.setenv("RESMETER_WORKER__GROUP", "other")

    settings, found, wrong = load_valid_settings()

    assert wrong == {"worker"}
    assert [problem.partition(": ")[0] for problem in found] == ["RESMETER_WORKER__HTTP_PORT"]
    assert settings.kafka.bootstrap_servers == "a:9092"
    assert settings.stripe.api_key is not None
    assert settings.stripe.api_key.get_secret_value() == "sk_test_hunter2"
    assert settings.worker == Settings.model_construct().worker


def test_a_check_of_valid_settings_reports_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMETER_TOPICS__PARTITIONS", "16")

    assert load_valid_settings() == (load_settings(), [], set())


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SECRETS:
        monkeypatch.setenv(variable, "hunter2")
    monkeypatch.setenv("RESMETER_KAFKA__SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("RESMETER_LEDGER__URL", "postgresql://meter:hunter2@db/resmeter")

    settings = load_settings()

    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "hunter2"
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter2" not in shown


def test_a_problem_does_not_show_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SECRETS:
        monkeypatch.setenv(variable, "hunter2")
    monkeypatch.setenv("RESMETER_STRIPE__API_KEYS", "hunter2")
    monkeypatch.setenv("RESMETER_STRIPE__BASE_URL", "https://me:hunter2@proxy")

    assert len(problems()) == 2
    assert "hunter2" not in "\n".join(problems())


# --- secrets in files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RESMETER_KAFKA__SASL_PASSWORD", "hunter2"),
        ("RESMETER_KAFKA__SSL_KEY_PASSWORD", "hunter2"),
        ("RESMETER_LEDGER__URL", "postgresql://me:hunter2@db/resmeter"),
        ("RESMETER_STRIPE__API_KEY", "sk_test_hunter2"),
        ("RESMETER_STRIPE__PROXY", "http://me:hunter2@proxy:3128"),
        ("RESMETER_EMULATOR__CONTROL_TOKEN", "hunter2"),
    ],
)
def test_a_secret_can_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(value + "\n")
    monkeypatch.setenv("RESMETER_KAFKA__SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("RESMETER_KAFKA__SASL_USERNAME", "me")
    if variable != "RESMETER_KAFKA__SASL_PASSWORD":
        monkeypatch.setenv("RESMETER_KAFKA__SASL_PASSWORD", "another")
    monkeypatch.setenv(f"{variable}_FILE", str(file))

    settings = load_settings()
    valid, problems_of_valid, _ = load_valid_settings()

    section, name = variable.removeprefix(PREFIX).lower().split("__")
    read = getattr(getattr(settings, section), name)
    assert (read if isinstance(read, str) else read.get_secret_value()) == value
    assert (valid, problems_of_valid) == (settings, [])
    assert "hunter2" not in repr(settings)


def test_a_file_without_its_secret_is_reported_and_the_other_sections_are_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("RESMETER_STRIPE__API_KEY_FILE", str(tmp_path / "empty"))
    monkeypatch.setenv("RESMETER_LEDGER__URL_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("RESMETER_KAFKA__SASL_PASSWORD_FILE", str(tmp_path / "binary"))
    monkeypatch.setenv("RESMETER_KAFKA__SSL_KEY_PASSWORD_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("RESMETER_KAFKA__SSL_KEY_PASSWORD", "twice")
    monkeypatch.setenv("RESMETER_EMULATOR__CONTROL_TOKEN_FILE", str(tmp_path / "token"))

    settings, found, wrong = load_valid_settings()

    assert (
        found
        == list(problems())
        == [
            f"RESMETER_KAFKA__SASL_PASSWORD_FILE: {tmp_path}/binary cannot be read: it is not text in UTF-8",
            "RESMETER_KAFKA__SSL_KEY_PASSWORD_FILE: RESMETER_KAFKA__SSL_KEY_PASSWORD is set too; set one of them",
            f"RESMETER_LEDGER__URL_FILE: {tmp_path}/none cannot be read: No such file or directory",
            f"RESMETER_STRIPE__API_KEY_FILE: {tmp_path}/empty is empty",
        ]
    )
    assert wrong == {"kafka", "ledger", "stripe"}
    assert settings.emulator.control_token is not None
    assert settings.emulator.control_token.get_secret_value() == "token"


# --- descriptions ----------------------------------------------------------------------


def test_every_setting_is_described_with_default_and_meaning() -> None:
    described = list(describe_settings())

    assert [(variable, default) for variable, default, _ in described] == [
        (variable, "" if default is None else str(default)) for variable, default in fields()
    ]
    assert all(meaning for _, _, meaning in described)


def test_every_described_default_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, default, _ in describe_settings():
        monkeypatch.setenv(variable, default)

    assert load_settings() == Settings.model_construct()


# --- Kafka ----------------------------------------------------------------------------------------


@pytest.fixture
def pem(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.touch()
    return str(path)


def test_certificates_without_an_encrypted_protocol_are_reported(
    monkeypatch: pytest.MonkeyPatch, pem: str
) -> None:
    monkeypatch.setenv("RESMETER_KAFKA__SSL_CA_FILE", pem)

    (problem,) = problems()

    assert problem.startswith("RESMETER_KAFKA__SSL_CA_FILE: is set, but PLAINTEXT is not encrypted")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "meter"}, "SASL_PASSWORD"),
        ({"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_PASSWORD": "x"}, "SASL_USERNAME"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CERT_FILE": "PEM"}, "SSL_KEY_FILE"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEY_FILE": "PEM"}, "SSL_CERT_FILE"),
    ],
)
def test_a_setting_without_its_counterpart_is_reported_with_the_missing_one(
    monkeypatch: pytest.MonkeyPatch, pem: str, given: dict[str, str], missing: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"RESMETER_KAFKA__{name}", pem if value == "PEM" else value)

    (problem,) = problems()
    _, found, wrong = load_valid_settings()

    assert problem.startswith(f"RESMETER_KAFKA__{missing}: is not set")
    assert (found, wrong) == ([problem], {"kafka"})


def test_a_missing_file_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESMETER_KAFKA__SECURITY_PROTOCOL", "SSL")
    monkeypatch.setenv("RESMETER_KAFKA__SSL_CA_FILE", "/nowhere/ca.pem")

    (problem,) = problems()

    assert problem.startswith("RESMETER_KAFKA__SSL_CA_FILE: ")


# --- Stripe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "address", "is_accepted"),
    [
        ("rk_live_1", "http://stripe.example", False),
        ("sk_live_1", "http://10.0.0.7:12111", False),
        ("rk_live_1", "https://stripe.example", True),
        ("rk_live_1", "http://127.0.0.1:12111", True),
        ("rk_live_1", "http://[::1]:12111", True),
        ("sk_test_1", "http://emulator:12111", True),
    ],
)
def test_a_live_key_is_sent_only_over_an_encrypted_connection(
    monkeypatch: pytest.MonkeyPatch, key: str, address: str, is_accepted: bool
) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__API_KEY", key)
    monkeypatch.setenv("RESMETER_STRIPE__BASE_URL", address)

    if is_accepted:
        assert load_settings().stripe.base_url == address
    else:
        (problem,) = problems()
        assert problem.startswith("RESMETER_STRIPE__BASE_URL: is not encrypted")


@pytest.mark.parametrize("key", ["sk_test_1\n", " sk_test_1", "sk test", "sk_test_\u20ac", "a\tb"])
def test_a_key_that_no_header_can_carry_is_rejected_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__API_KEY", key)

    (problem,) = problems()

    assert problem.startswith("RESMETER_STRIPE__API_KEY: has a space, a line break")
    assert key not in problem


@pytest.mark.parametrize(
    "address",
    [
        "https://api.stripe.com/v1",
        "https://api.stripe.com/v1/",
        "http://127.0.0.1:12111/v2",
        "http://proxy/stripe/v1/billing",
    ],
)
def test_an_address_with_the_version_of_the_api_says_what_to_write(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__BASE_URL", address)

    (problem,) = problems()

    assert problem.startswith("RESMETER_STRIPE__BASE_URL: must not contain /v1 or /v2")
    assert "such as https://api.stripe.com" in problem


@pytest.mark.parametrize("end", ["?a=b", "#x", "?", "#"])
def test_an_address_has_no_query(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__BASE_URL", f"http://127.0.0.1:1{end}")

    (problem,) = problems()

    assert problem == "RESMETER_STRIPE__BASE_URL: must have no query and no fragment"


def test_a_slash_at_the_end_of_an_address_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__BASE_URL", "http://proxy/stripe//")

    assert load_settings().stripe.base_url == "http://proxy/stripe"


def test_an_unknown_setting_is_reported_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith("RESMETER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RESMETER_LEDGER__URL", "sqlite:///x")
    monkeypatch.setenv("RESMETER_LEGDER__URL", "sqlite:///y")
    monkeypatch.setenv("RESMETER_KAFKA_BOOTSTRAP_SERVERS", "k:9092")
    monkeypatch.setenv("RESMETER_XYZ", "1")

    assert list(unknown_variables()) == [
        (
            "RESMETER_KAFKA_BOOTSTRAP_SERVERS: unknown setting; "
            "did you mean RESMETER_KAFKA__BOOTSTRAP_SERVERS?"
        ),
        "RESMETER_LEGDER__URL: unknown setting; did you mean RESMETER_LEDGER__URL?",
        "RESMETER_XYZ: unknown setting",
    ]
