"""The tenant file names the producers that may write events; their secrets are elsewhere."""

from pathlib import Path

import pytest

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import load_tenants
from pipeline.errors import ConfigurationError
from pipeline.events.signature import Key

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "resmeter.toml"


def problems(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_tenants(file)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


def test_a_file_without_producers_has_none(file: Path) -> None:
    file.write_text("[tenants.acme]")

    assert load_tenants(file).producers == {}
    assert load_tenants(None).producers == {}


def test_secrets_come_from_the_environment_and_from_files(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_EU_SECRET", SECRET)
    (file.parent / "secrets").mkdir()
    (file.parent / "secrets" / "chat-us").write_text(SECRET[::-1] + "\n")
    file.write_text("""
        [producers.chat-eu]
        secret_env = "CHAT_EU_SECRET"
        tenants = ["acme", "bluejay"]
        [producers.chat-us]
        secret_file = "secrets/chat-us"
        tenants = "*"
    """)

    keys = load_keys(load_tenants(file).producers)

    assert keys == {
        "chat-eu": Key(SECRET.encode(), frozenset({"acme", "bluejay"})),
        "chat-us": Key(SECRET[::-1].encode(), None),
    }


def test_only_the_secrets_that_are_needed_are_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_EU_SECRET", SECRET)
    file.write_text("""
        [producers.chat-eu]
        secret_env = "CHAT_EU_SECRET"
        tenants = "*"
        [producers.elsewhere]
        secret_env = "NOT_ON_THIS_MACHINE"
        tenants = "*"
    """)

    assert set(load_keys(load_tenants(file).producers, ["chat-eu"])) == {"chat-eu"}


def test_missing_and_weak_secrets_are_reported_and_never_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAK", "hunter2")
    file.write_text("""
        producers.a = { secret_env = "NOT_SET", tenants = "*" }
        producers.b = { secret_env = "WEAK", tenants = "*" }
        producers.c = { secret_file = "not-there", tenants = "*" }
    """)
    producers = load_tenants(file).producers

    with pytest.raises(ConfigurationError) as caught:
        load_keys(producers, [*producers, "d"])

    a, b, c, d = caught.value.problems
    assert a.endswith("producers.a: the environment variable NOT_SET is not set")
    assert "producers.b: the secret has 7 bytes; make one of at least 32" in b
    assert c.endswith("not-there: No such file or directory")
    assert "the tenant file has no producer 'd'; it has: a, b, c" in d
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("producers = 1", "producers: must be a table"),
        ("[producers]", "producers: must be a table"),
        ("producers.a = 1", "producers.a: must be a table"),
        ('producers.a = { secret_env = "S" }', "producers.a.tenants: must be a list"),
        ('producers.a = { secret_env = "S", tenants = [] }', "producers.a.tenants: must be"),
        ('producers.a = { secret_env = "S", tenants = "acme" }', "producers.a.tenants: must be"),
        ('producers.a = { secret_env = "S", tenants = ["a b"] }', "producers.a.tenants: must be"),
        ('producers.a = { tenants = "*" }', "producers.a: set exactly one of"),
        (
            'producers.a = { secret_env = "S", secret_file = "s", tenants = "*" }',
            "producers.a: set exactly one of",
        ),
        ('producers.a = { secret_env = "a b", tenants = "*" }', "producers.a.secret_env: must be"),
        ('producers.a = { secret_file = 1, tenants = "*" }', "producers.a.secret_file: must be"),
        (
            'producers."a b" = { secret_env = "S", tenants = "*" }',
            "producers.a b: the key id must be 1 to 64",
        ),
        (
            'producers.a = { secret_env = "S", tenants = "*", secret = "hunter2" }',
            "producers.a.secret: unknown key",
        ),
    ],
)
def test_problems_are_reported_with_their_place_and_without_the_value(
    file: Path, text: str, named: str
) -> None:
    (problem,) = problems(file, text)

    assert problem.startswith(named)
    assert "hunter2" not in problem
