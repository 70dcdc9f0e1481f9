"""This file defines the settings; it is the only module that reads the environment."""

import difflib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_serializer,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from pipeline.errors import ConfigurationError

PREFIX = "RESMETER_"
_MIB = 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    bootstrap_servers: str = Field(
        "127.0.0.1:9092",
        min_length=1,
        description="Kafka brokers, as host:port separated by commas",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Security protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="SASL mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    sasl_username: str | None = Field(None, description="SASL user name")
    sasl_password: SecretStr | None = Field(None, description="SASL password")
    ssl_ca_file: FilePath | None = Field(
        None,
        description="PEM file of the CA that signed the brokers' certificates; default: the system's",
    )
    ssl_cert_file: FilePath | None = Field(
        None, description="PEM file of our client certificate, where brokers require one"
    )
    ssl_key_file: FilePath | None = Field(
        None, description="PEM file of the private key of the client certificate"
    )
    ssl_key_password: SecretStr | None = Field(
        None, description="Password of the private key, where it is encrypted"
    )


class TopicSettings(_Section):
    events: str = Field(
        "conversation.events", description="Topic of the events that chat services write"
    )
    changelog: str = Field(
        "resmeter-conversations-changelog",
        description="Compacted topic of the worker's conversation states",
    )
    records: str = Field(
        "usage.records", description="Topic of the usage records that workers write and sinks read"
    )
    dead_letters: str = Field(
        "conversation.events.dlq",
        description="Topic of dead letters: rejected records, with the reason",
    )
    partitions: int = Field(
        8, ge=1, le=1024, description="Partitions of the events topic and of the changelog topic"
    )
    records_partitions: int = Field(
        4, ge=1, le=1024, description="Partitions of the usage record topic"
    )
    dead_letter_partitions: int = Field(
        1, ge=1, le=1024, description="Partitions of the dead-letter topic"
    )
    replication_factor: int = Field(
        1, ge=1, le=7, description="Replicas of each topic; use 3 in production"
    )
    events_timestamps: Literal["LogAppendTime", "CreateTime"] = Field(
        "LogAppendTime",
        description="Timestamps of the events topic; use CreateTime to load history",
    )


class WorkerSettings(_Section):
    group: str = Field("resmeter", description="Consumer group of the workers (Faust's app id)")
    http_host: str = Field(
        "127.0.0.1", description="Host on which a worker serves /metrics and /health"
    )
    http_port: int = Field(
        9464, ge=0, le=65535, description="Port of /metrics and /health; 0 takes any free port"
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes of a worker; each uses one core and gets a share of the partitions",
    )
    batch_events_max: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Maximum events applied at once, from one partition (whole record batches)",
    )
    inflight_batches_max: int = Field(
        4,
        ge=1,
        le=64,
        description="Maximum batches that wait for acknowledgement, over all partitions",
    )
    fetch_bytes_max: int = Field(
        4 * _MIB,
        ge=_MIB,
        le=1024 * _MIB,
        description="Maximum bytes of a fetch, as the broker stores them (compressed)",
    )
    fetch_partition_bytes_max: int = Field(
        _MIB,
        ge=_MIB // 2,
        le=256 * _MIB,
        description="Maximum bytes of a fetch from one partition; larger: fewer states written",
    )
    dead_letter_share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of dead letters above which a worker exits; 1 disables the limit",
    )
    dead_letter_window_records: int = Field(
        10_000,
        ge=1,
        le=10_000_000,
        description="Number of latest records over which the share of dead letters is measured",
    )
    commit_interval_seconds: float = Field(0.2, gt=0, le=60, description="Time between commits")
    session_timeout_seconds: float = Field(
        10.0, ge=2, le=300, description="Session timeout of the workers' consumer group"
    )
    request_timeout_seconds: float = Field(
        60.0,
        ge=1,
        le=600,
        description="Time limit of one produce request; after it the process exits",
    )
    settle_interval_seconds: float = Field(
        1.0, gt=0, le=600, description="Time between checks for windows that have ended"
    )
    settle_margin_seconds: float = Field(
        1.0,
        ge=0,
        le=600,
        description="Subtracted from the broker's clock before a window may close",
    )
    settle_quiet_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="Time that a CreateTime partition must be quiet before windows close",
    )
    seal_after_days: int = Field(
        45,
        ge=1,
        le=3650,
        description="Days without events after which a conversation is sealed and takes no older ones",
    )
    stop_seconds_max: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="Time for a worker to finish after SIGTERM; then it exits without committing",
    )
    recovery_seconds_max: float = Field(
        600.0,
        gt=0,
        le=86400,
        description="Maximum time until a process is ready; after it the process exits",
    )

    @property
    def seal_after_ms(self) -> int:
        return self.seal_after_days * 24 * 3_600_000


class LedgerSettings(_Section):
    url: str = Field(
        "sqlite:///resmeter-data/ledger.sqlite",
        repr=False,  # it may hold a password
        description="Ledger's SQLAlchemy URL: sqlite:///PATH or postgresql+psycopg://USER@HOST/DB",
    )

    @field_serializer("url")
    def _hide_url(self, url: str) -> str:
        return "**********"  # as `SecretStr` is dumped


class SinkSettings(_Section):
    group: str = Field("resmeter-sink", description="Consumer group of the sinks")
    http_host: str = Field(
        "127.0.0.1", description="Host on which a sink serves /metrics and /health"
    )
    http_port: int = Field(
        9465, ge=0, le=65535, description="Port of /metrics and /health; 0 takes any free port"
    )
    batch_records_max: int = Field(
        10_000, ge=1, le=1_000_000, description="Maximum usage records in one transaction"
    )
    session_timeout_seconds: float = Field(
        10.0, ge=2, le=300, description="Session timeout of the sinks' consumer group"
    )
    flush_interval_seconds: float = Field(
        60.0, gt=0, le=86400, description="Time between searches for usage to deliver"
    )
    deliveries_concurrent_max: int = Field(
        16,
        ge=1,
        le=1000,
        description="Maximum calls to Stripe at once; always one at a time for a customer",
    )
    retry_pause_seconds_max: float = Field(
        60.0, gt=0, le=3600, description="Maximum pause between two attempts of a delivery"
    )
    call_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="Time limit of one call to Stripe"
    )


class StripeSettings(_Section):
    api_key: SecretStr | None = Field(None, description="Stripe secret key or restricted key")
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s;@]+$",  # it is shown: no name and password before an @
        description="Address used instead of Stripe's, for example of `resmeter emulator`",
    )


class EmulatorSettings(_Section):
    control_token: SecretStr | None = Field(
        None,
        description="Token that /_emulator requires; without a token it is open on loopback only",
    )


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning, error"
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log format; auto is columns on a terminal and JSON elsewhere"
    )


class Settings(BaseSettings):
    """All settings, nested by stage: `RESMETER_KAFKA__BOOTSTRAP_SERVERS` and so on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
    )

    config: Path | None = Field(
        None, description="TOML file that maps tenants to Stripe customers and policies"
    )
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    worker: WorkerSettings = WorkerSettings()
    ledger: LedgerSettings = LedgerSettings()
    sink: SinkSettings = SinkSettings()
    stripe: StripeSettings = StripeSettings()
    emulator: EmulatorSettings = EmulatorSettings()
    log: LogSettings = LogSettings()


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        ConfigurationError: with every problem, each naming its variable.
    """
    if groups := _values_of_groups():
        raise ConfigurationError(groups)
    try:
        settings = Settings()
    except ValidationError as error:
        raise ConfigurationError(
            [f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors()]
        ) from None
    if problems := [problem for _, problem in _problems_together(settings)]:
        raise ConfigurationError(problems)
    return settings


def load_valid_settings() -> tuple[Settings, list[str], set[str]]:
    """Read the environment as far as it is valid: for a check that shows all problems at once.

    Returns the settings, the problems, and the sections that are wrong and stand at their defaults.
    """
    if groups := _values_of_groups():
        return Settings.model_construct(), groups, set(Settings.model_fields)
    try:
        settings = Settings()
    except ValidationError as error:
        problems = [f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors()]
        wrong = {str(e["loc"][0]) for e in error.errors()}
    else:
        together = list(_problems_together(settings))
        return settings, [problem for _, problem in together], {name for name, _ in together}
    values = EnvSettingsSource(Settings)()
    valid = {
        name: TypeAdapter[Any](field.annotation or Any).validate_python(values[name])
        for name, field in Settings.model_fields.items()
        if name in values and name not in wrong
    }
    settings = Settings.model_construct(**valid)
    for name, problem in _problems_together(settings):
        if name not in wrong:
            problems.append(problem)
            wrong.add(name)
    return settings, problems, wrong


def unknown_variables() -> Iterator[str]:
    """Say which variables look like settings and are none, and which was perhaps meant."""
    known = [variable for variable, _, _ in describe_settings()]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.upper() not in known:
            meant = difflib.get_close_matches(name.upper(), known, 1, 0.85)
            yield f"{name} is no setting" + (f"; is {meant[0]} meant?" if meant else "")


def _values_of_groups() -> list[str]:
    """Say which variables name a group of settings, as if it were one."""
    groups = [_variable((name,)) for name in Settings.model_fields if name != "config"]
    given = {name.upper() for name, value in os.environ.items() if value}
    return [
        f"{name}: is a group of settings; name one, such as {name}__…, as `resmeter settings` lists"
        for name in groups
        if name in given
    ]


def _problems_together(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (section, problem) for settings that are valid each, and not with each other."""
    kafka, stripe = settings.kafka, settings.stripe
    protocol = kafka.security_protocol
    if protocol.startswith("SASL"):
        for name in ("sasl_username", "sasl_password"):
            if getattr(kafka, name) is None:
                yield "kafka", f"{_variable(('kafka', name))}: is not set; {protocol} needs it"
    if not protocol.endswith("SSL"):
        for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file", "ssl_key_password"):
            if getattr(kafka, name) is not None:
                # Who sets these believes that the connection is encrypted.
                yield (
                    "kafka",
                    (
                        f"{_variable(('kafka', name))}: is set, but {protocol} is not encrypted: "
                        "SSL and SASL_SSL are"
                    ),
                )
    for name, other in (("ssl_cert_file", "ssl_key_file"), ("ssl_key_file", "ssl_cert_file")):
        if getattr(kafka, name) is not None and getattr(kafka, other) is None:
            yield "kafka", f"{_variable(('kafka', other))}: is not set, but {name} is"
    key = stripe.api_key.get_secret_value() if stripe.api_key else ""
    address = urlsplit(stripe.base_url or "")
    if "_live_" in key and address.scheme == "http" and not is_loopback(address.hostname or ""):
        yield (
            "stripe",
            (
                f"{_variable(('stripe', 'base_url'))}: is not encrypted: a live key is sent over "
                "https:// only"
            ),
        )


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _variable(location: tuple[Any, ...]) -> str:
    return PREFIX + "__".join(str(part) for part in location).upper()


def read_variable(name: str) -> str | None:
    """Return an environment variable that the tenant file names; None where it is not set."""
    return os.environ.get(name) or None


def describe_settings() -> Iterator[tuple[str, str, str]]:
    """Yield (variable, default, meaning) for each setting, in the order of the stages."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, _Section):
            for key, inner in section.model_fields.items():
                yield _variable((name, key)), _shown(inner.default), inner.description or ""
        else:
            yield _variable((name,)), _shown(field.default), field.description or ""


def _shown(default: object) -> str:
    return "" if default is None else str(default)
