"""Read the settings from the environment, and report every problem with them.

No other module reads settings from the environment.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import EnvSettingsSource

from pipeline.errors import ConfigurationError
from pipeline.settings import (
    PREFIX,
    KafkaSettings,
    LedgerSettings,
    LogSettings,
    Section,
    Settings,
    SinkSettings,
    StripeSettings,
    TopicSettings,
    WorkerSettings,
)

__all__ = [
    "PREFIX",
    "KafkaSettings",
    "LedgerSettings",
    "LogSettings",
    "Settings",
    "SinkSettings",
    "StripeSettings",
    "TopicSettings",
    "WorkerSettings",
    "describe_settings",
    "is_loopback",
    "load_settings",
    "load_valid_settings",
    "read_variable",
    "unknown_variables",
]


def load_settings() -> Settings:
    """Read the settings from the environment, and secrets from the files that it names.

    Raises:
        ConfigurationError: settings are wrong; each problem names its variable.
    """
    values, wrong = _values_in_files()
    if problems := [*_problems_of_sections(), *(problem for _, problem in wrong)]:
        raise ConfigurationError(problems)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_problems_of_fields(error)) from None
    if problems := [problem for _, problem in _problems_between_fields(settings)]:
        raise ConfigurationError(problems)
    return settings


def load_valid_settings() -> tuple[Settings, list[str], set[str]]:
    """Read the valid sections of the settings, for a check that reports all problems at once.

    Return the settings, the problems, and the names of the sections that are wrong. A section with
    an invalid value has its defaults; a section whose values contradict each other keeps them.
    """
    if problems := _problems_of_sections():
        return Settings.model_construct(), problems, set(Settings.model_fields)
    in_files, of_files = _values_in_files()
    problems = [problem for _, problem in of_files]
    wrong = {section for section, _ in of_files}
    try:
        settings = Settings(**in_files)
    except ValidationError as error:
        problems += _problems_of_fields(error)
        wrong |= {str(e["loc"][0]) for e in error.errors()}
        # pydantic validates all sections or none, so each valid section is validated by itself.
        values = EnvSettingsSource(Settings)()
        for section, of_section in in_files.items():
            values[section] = {**values.get(section, {}), **of_section}
        valid = {
            name: TypeAdapter[Any](field.annotation or Any).validate_python(values[name])
            for name, field in Settings.model_fields.items()
            if name in values and name not in wrong
        }
        settings = Settings.model_construct(**valid)
    for section, problem in _problems_between_fields(settings):
        if section not in wrong:
            problems.append(problem)
    wrong |= {section for section, _ in _problems_between_fields(settings)}
    return settings, problems, wrong


def unknown_variables() -> Iterator[str]:
    """Report variables that look like settings but are not, and suggest a similar setting."""
    known = [variable for variable, _, _ in describe_settings()]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, 1, 0.85)
            yield f"{name}: unknown setting" + (f"; did you mean {close[0]}?" if close else "")


def read_variable(name: str) -> str | None:
    """Return an environment variable that the tenant file names; None if it is not set or empty."""
    return os.environ.get(name) or None


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe_settings() -> Iterator[tuple[str, str, str]]:
    """Yield (variable, default, meaning) of each setting, in the order of `Settings`."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, inner in section.model_fields.items():
                yield _variable((name, key)), _text(inner.default), inner.description or ""
        else:
            yield _variable((name,)), _text(field.default), field.description or ""


def _text(default: object) -> str:
    return "" if default is None else str(default)


def _variable(location: tuple[Any, ...]) -> str:
    return PREFIX + "__".join(str(part) for part in location).upper()


def _values_in_files() -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Read each setting `x` whose `x_file` is set: a platform hands out secrets as files.

    Return the values by section and name, and (section, problem) of files that give none.
    """
    given = {name.upper(): value for name, value in os.environ.items() if value}
    values: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    for section, field in Settings.model_fields.items():
        names = getattr(field.annotation, "model_fields", {})
        for name in names:
            file = _variable((section, f"{name}_file"))
            if f"{name}_file" not in names or file not in given:
                continue
            if _variable((section, name)) in given:
                other = _variable((section, name))
                problems.append((section, f"{file}: {other} is set too; set one of them"))
                continue
            try:
                # Editors and `echo` end a file with a line break, which the secret has not.
                value = Path(given[file]).read_text("utf-8").strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
                problems.append((section, f"{file}: {given[file]} cannot be read: {reason}"))
                continue
            if not value:
                problems.append((section, f"{file}: {given[file]} is empty"))
                continue
            values.setdefault(section, {})[name] = value
    return values, problems


# --- problems -------------------------------------------------------------------------------------


def _problems_of_sections() -> list[str]:
    """Report variables that set a whole section as if it were one setting."""
    sections = [
        _variable((name,))
        for name, field in Settings.model_fields.items()
        if field.default is not None
    ]
    given = {name.upper() for name, value in os.environ.items() if value}
    return [
        f"{name}: is a group of settings; set one of them, such as {name}__…: see `resmeter settings`"
        for name in sections
        if name in given
    ]


def _problems_of_fields(error: ValidationError) -> list[str]:
    return [f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors()]


def _problems_between_fields(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (section, problem) of settings that are valid alone but contradict each other."""
    for problem in _problems_of_kafka(settings.kafka):
        yield "kafka", problem
    for problem in _problems_of_stripe(settings.stripe):
        yield "stripe", problem


# What a mechanism needs beside a SASL protocol.
_OF_PASSWORDS = ("sasl_username", "sasl_password")
_NEEDED = {
    "OAUTHBEARER": ("sasl_oauth_token_url", "sasl_oauth_client_id", "sasl_oauth_client_secret"),
    "AWS_MSK_IAM": ("sasl_aws_region",),
}


def _problems_of_kafka(kafka: KafkaSettings) -> Iterator[str]:
    protocol, mechanism = kafka.security_protocol, kafka.sasl_mechanism
    if protocol.startswith("SASL"):
        for name in _NEEDED.get(mechanism, _OF_PASSWORDS):
            if getattr(kafka, name) is None:
                yield f"{_variable(('kafka', name))}: is not set; {protocol} with {mechanism} requires it"
    elif mechanism in _NEEDED:
        variable = _variable(("kafka", "sasl_mechanism"))
        yield f"{variable}: is {mechanism}, but {protocol} has no SASL: use SASL_SSL"
    if not protocol.endswith("SSL"):
        for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file", "ssl_key_password"):
            if getattr(kafka, name) is not None:
                # An operator who sets these expects an encrypted connection.
                yield (
                    f"{_variable(('kafka', name))}: is set, but {protocol} is not encrypted: "
                    "use SSL or SASL_SSL"
                )
    for name, other in (("ssl_cert_file", "ssl_key_file"), ("ssl_key_file", "ssl_cert_file")):
        if getattr(kafka, name) is not None and getattr(kafka, other) is None:
            yield f"{_variable(('kafka', other))}: is not set, but {name} is"
    address = urlsplit(kafka.sasl_oauth_token_url or "")
    if address.scheme == "http" and not is_loopback(address.hostname or ""):
        variable = _variable(("kafka", "sasl_oauth_token_url"))
        yield f"{variable}: is not encrypted; the client's secret is sent only over https://"


def _problems_of_stripe(stripe: StripeSettings) -> Iterator[str]:
    proxy = stripe.proxy.get_secret_value() if stripe.proxy else ""
    if proxy and not re.fullmatch(r"https?://[^\s/]+/?", proxy):
        # The value is not repeated: it may contain a password.
        yield f"{_variable(('stripe', 'proxy'))}: is not a URL such as http://proxy.example:3128"
    key = stripe.api_key.get_secret_value() if stripe.api_key else ""
    address = urlsplit(stripe.base_url or "")
    if "_live_" in key and address.scheme == "http" and not is_loopback(address.hostname or ""):
        yield (
            f"{_variable(('stripe', 'base_url'))}: is not encrypted; a live key is "
            "sent only over https://"
        )
