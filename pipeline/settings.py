"""Define the settings: names, defaults, bounds and meanings. `config` reads their values."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "RESMETER_"
_MIB = 1024 * 1024


class Section(BaseModel):
    """A group of settings. `resmeter settings` prints each description by itself.

    Where a setting `x` has a setting `x_file` beside it, `config` reads the value from that file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    """The brokers' addresses and the security of the connection."""

    bootstrap_servers: str = Field(
        "127.0.0.1:9092", min_length=1, description="host:port of the brokers, separated by commas"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal[
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"
    ] = Field(
        "PLAIN",
        description="SASL mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM",
    )
    sasl_username: str | None = Field(
        None, description="SASL user name; required with PLAIN and SCRAM"
    )
    sasl_password: SecretStr | None = Field(
        None, description="SASL password; required with PLAIN and SCRAM"
    )
    sasl_password_file: Path | None = Field(None, description="file with the SASL password")
    sasl_oauth_token_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@]+$",
        description="address from which the identity provider gives tokens; required with OAUTHBEARER",
    )
    sasl_oauth_client_id: str | None = Field(
        None, description="client id at the identity provider; required with OAUTHBEARER"
    )
    sasl_oauth_client_secret: SecretStr | None = Field(
        None, description="secret of that client; required with OAUTHBEARER"
    )
    sasl_oauth_client_secret_file: Path | None = Field(None, description="file with that secret")
    sasl_oauth_scope: str | None = Field(
        None, description="scope that the identity provider is asked for"
    )
    sasl_oauth_audience: str | None = Field(
        None, description="audience that the identity provider is asked for"
    )
    sasl_oauth_extensions: str | None = Field(
        None,
        description="what the brokers get beside the token: NAME=VALUE, separated by commas",
    )
    sasl_oauth_ca_file: FilePath | None = Field(
        None,
        description="PEM file of the identity provider's CA; if not set, the system's CAs are trusted",
    )
    sasl_aws_region: str | None = Field(
        None, description="AWS region of the brokers; required with AWS_MSK_IAM"
    )
    ssl_ca_file: FilePath | None = Field(
        None, description="PEM file of the brokers' CA; if not set, the system's CAs are trusted"
    )
    ssl_cert_file: FilePath | None = Field(
        None, description="PEM file of the client certificate, if the brokers ask for one"
    )
    ssl_key_file: FilePath | None = Field(
        None, description="PEM file of the client certificate's private key"
    )
    ssl_key_password: SecretStr | None = Field(
        None, description="password of the client certificate's private key, if it is encrypted"
    )
    ssl_key_password_file: Path | None = Field(None, description="file with that password")


class TopicSettings(Section):
    """The five topics. All processes must agree on them."""

    events: str = Field("conversation.events", description="topic that chat services write to")
    changelog: str = Field(
        "resmeter-conversations-changelog", description="compacted topic of the worker's states"
    )
    records: str = Field(
        "usage.records", description="topic that the worker writes usage records to"
    )
    journal: str = Field(
        "resmeter.journal",
        description="topic in which the sinks write what they are about to send; it has one partition",
    )
    dead_letters: str = Field(
        "conversation.events.dlq", description="topic of rejected records with their reasons"
    )
    catalog: str = Field(
        "resmeter.catalog",
        description="topic of the catalog: who is billed, under which policy, from when",
    )
    partitions: int = Field(
        8,
        ge=1,
        le=1024,
        description="number of partitions of the events topic and of the changelog; never change it later",
    )
    records_partitions: int = Field(
        4, ge=1, le=1024, description="number of partitions of the topic of usage records"
    )
    dead_letter_partitions: int = Field(
        1, ge=1, le=1024, description="number of partitions of the topic of dead letters"
    )
    replication_factor: int = Field(
        1, ge=1, le=7, description="number of replicas of each topic; use 3 in production"
    )
    partitioner: Literal["observe", "murmur2", "crc32"] = Field(
        "observe",
        description="partitioner of all producers: murmur2, crc32, or observe: warn if they differ",
    )
    events_timestamps: Literal["LogAppendTime", "CreateTime"] = Field(
        "LogAppendTime",
        description="timestamp type of the events topic: LogAppendTime, or CreateTime to load history",
    )

    @property
    def producers_partitioner(self) -> Literal["murmur2", "crc32"]:
        """The partitioner by which our own commands write events."""
        return "murmur2" if self.partitioner == "observe" else self.partitioner


class WorkerSettings(Section):
    """`resmeter worker`."""

    group: str = Field("resmeter", description="consumer group of the workers (Faust's app id)")
    http_host: str = Field(
        "127.0.0.1", description="address on which the worker serves /metrics and /health"
    )
    http_port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="port of the worker's /metrics and /health; 0: any free port",
    )
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="number of processes of a worker; each uses one core and a share of the partitions",
    )
    batch_events_max: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="maximum number of events of one partition that are applied at once",
    )
    inflight_batches_max: int = Field(
        4,
        ge=1,
        le=64,
        description="maximum number of batches of a process that wait for Kafka's acknowledgement",
    )
    fetch_bytes_max: int = Field(
        4 * _MIB,
        ge=_MIB,
        le=1024 * _MIB,
        description="maximum size of a fetch in bytes, compressed as Kafka stores them",
    )
    fetch_partition_bytes_max: int = Field(
        _MIB,
        ge=_MIB // 2,
        le=256 * _MIB,
        description="maximum bytes of one partition in a fetch; with a larger value, fewer states are written",
    )
    dead_letter_share_max: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of rejected records above which the worker raises an alarm; 1: never",
    )
    dead_letters_end_worker: bool = Field(
        False,
        description="exit instead when the share of rejected records is above dead_letter_share_max",
    )
    dead_letter_window_records: int = Field(
        10_000,
        ge=1,
        le=10_000_000,
        description="number of latest records over which the share of rejected records is measured",
    )
    commit_interval_seconds: float = Field(
        0.2, gt=0, le=60, description="seconds between commits of the worker's offsets"
    )
    session_timeout_seconds: float = Field(
        10.0,
        ge=2,
        le=300,
        description="seconds without a heartbeat after which a worker loses its partitions",
    )
    request_timeout_seconds: float = Field(
        60.0,
        ge=1,
        le=600,
        description="seconds that a write may wait for Kafka's acknowledgement before the worker exits",
    )
    settle_interval_seconds: float = Field(
        1.0, gt=0, le=600, description="seconds between checks for windows that have ended"
    )
    settle_margin_seconds: float = Field(
        1.0,
        ge=0,
        le=600,
        description="seconds that the worker waits, by the broker's clock, after a window and its grace period",
    )
    settle_quiet_seconds: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="seconds that a CreateTime partition must stay at its end before windows close",
    )
    seal_after_days: int = Field(
        45,
        ge=1,
        le=3650,
        description="days without a record after which a conversation is sealed",
    )
    stop_seconds_max: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="seconds that a worker may take to stop after SIGTERM; then it exits without a commit",
    )
    recovery_seconds_max: float = Field(
        600.0, gt=0, le=86400, description="seconds without readiness after which the worker exits"
    )

    @property
    def seal_after_ms(self) -> int:
        return self.seal_after_days * 24 * 3_600_000


class LedgerSettings(Section):
    """The database that remembers every usage record and delivery."""

    url: str = Field(
        "sqlite:///resmeter-data/ledger.sqlite",
        repr=False,  # it may contain a password
        description="SQLAlchemy URL of the ledger: sqlite:///PATH or postgresql+psycopg://USER@HOST/DB",
    )
    url_file: Path | None = Field(None, description="file with the URL of the ledger")

    @field_serializer("url")
    def _hide_url(self, url: str) -> str:
        return "**********"  # as a `SecretStr` is dumped


class SinkSettings(Section):
    """`resmeter sink`."""

    group: str = Field("resmeter-sink", description="consumer group of the sinks")
    http_host: str = Field(
        "127.0.0.1", description="address on which the sink serves /metrics and /health"
    )
    http_port: int = Field(
        9465,
        ge=0,
        le=65535,
        description="port of the sink's /metrics and /health; 0: any free port",
    )
    batch_records_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="maximum number of usage records stored in one transaction",
    )
    session_timeout_seconds: float = Field(
        10.0,
        ge=2,
        le=300,
        description="seconds without a heartbeat after which a sink loses its partitions",
    )
    flush_interval_seconds: float = Field(
        60.0, gt=0, le=86400, description="seconds between checks for usage that can be delivered"
    )
    deliveries_concurrent_max: int = Field(
        16,
        ge=1,
        le=1000,
        description="maximum number of concurrent calls to Stripe, with one per customer and meter",
    )
    retry_pause_seconds_max: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="longest pause, in seconds, between two attempts of a delivery",
    )
    call_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="timeout of a call to Stripe, in seconds"
    )
    rejections_in_a_row_max: int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="number of meter events that Stripe may reject in a row; then the customer halts, or all",
    )


class CloseSettings(Section):
    """The close of periods, by `resmeter sink` and `resmeter close`."""

    automatic: bool = Field(
        True, description="whether sinks close periods and make their invoices final by themselves"
    )
    after_minutes: float = Field(
        45.0, ge=0, le=4320, description="minutes after its end from which a period is closed"
    )
    every_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="seconds between two looks of a sink at what can be closed and invoiced",
    )


class StripeSettings(Section):
    """The Stripe account in which tenants are billed."""

    api_key: SecretStr | None = Field(None, description="Stripe's secret or restricted API key")
    api_key_file: Path | None = Field(None, description="file with Stripe's API key")
    account: str | None = Field(
        None,
        pattern=r"^acct_[A-Za-z0-9]{1,240}$",
        description="connected account in which customers are billed, such as acct_1; without it, the key's own",
    )
    base_url: str | None = Field(
        None,
        # The address is logged, so it must not have a password, which would be before an @.
        pattern=r"^https?://[^\s;@]+$",
        description="address to use instead of Stripe's, such as the address of `resmeter emulator`",
    )
    proxy: SecretStr | None = Field(
        None,
        description="URL of the proxy through which Stripe is called: http://USER:PASSWORD@HOST:PORT",
    )
    proxy_file: Path | None = Field(None, description="file with the URL of the proxy")
    ca_file: FilePath | None = Field(
        None,
        description="PEM file of CAs to trust in addition, such as that of a proxy that opens TLS",
    )

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        # HTTP allows no such character in a header, so no call could be made with the key.
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise PydanticCustomError(
                "api_key",
                "has a space, a line break or another character that no API key has; often it is "
                "the line break at the end of the file that the key was read from",
            )
        return key

    @field_validator("base_url")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        address = address.rstrip("/")
        parts = urlsplit(address)
        if parts.query or parts.fragment or address.endswith(("?", "#")):
            raise PydanticCustomError("base_url", "must have no query and no fragment")
        if re.search(r"/v[12](/|$)", parts.path):
            raise PydanticCustomError(
                "base_url",
                "must not contain /v1 or /v2, which resmeter adds by itself: write only scheme, host "
                "and port, such as https://api.stripe.com",
            )
        return address


class CorrectionsSettings(Section):
    """How units that are taken back leave the bill, and what a person must approve."""

    amount_max: Decimal = Field(
        Decimal(100),
        ge=0,
        le=1_000_000_000,
        allow_inf_nan=False,
        description="amount, in the account's currency, to which an earlier period is adjusted without approval",
    )
    withdraw_after_minutes: float = Field(
        10.0,
        ge=0,
        le=1440,
        description="minutes a reversal waits for later usage to lessen, before its delivered meter event is cancelled at Stripe and sent smaller",
    )


class EmulatorSettings(Section):
    """`resmeter emulator`."""

    control_token: SecretStr | None = Field(
        None,
        description="token that the emulator's /_emulator requires; if not set, it answers loopback only",
    )
    control_token_file: Path | None = Field(None, description="file with that token")


class LogSettings(Section):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged: debug, info, warning or error"
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="log format: console, json, or auto: console on a terminal and json elsewhere",
    )


class Settings(BaseSettings):
    """All settings, by section: `RESMETER_KAFKA__BOOTSTRAP_SERVERS` and so on."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
    )

    config: Path | None = Field(
        None,
        description="path of the tenant file: what begins the catalog, and the producers' secrets",
    )
    catalog_export: FilePath | None = Field(
        None,
        description="an export of the catalog, for commands that only read; not set: they read its topic",
    )
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    worker: WorkerSettings = WorkerSettings()
    ledger: LedgerSettings = LedgerSettings()
    sink: SinkSettings = SinkSettings()
    close: CloseSettings = CloseSettings()
    stripe: StripeSettings = StripeSettings()
    corrections: CorrectionsSettings = CorrectionsSettings()
    emulator: EmulatorSettings = EmulatorSettings()
    log: LogSettings = LogSettings()
