"""Read and write the topic of the catalog. Nothing else does."""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from pipeline.catalog.entry import digest_of, entries_of
from pipeline.catalog.exported import ExportedEntry, decode_export
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.planning import beginning
from pipeline.catalog.tenants import Tenants, read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.connect import AuthFailure, list_topics, open_client, silent_options
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import headers_of
from pipeline.kafka.writer import TopicWriter
from pipeline.logs import get_logger

RESTORED_HEADER = "resmeter-restored"
_RESTORED = re.compile(rb"([0-9a-f]{64}):(\d{1,15})")
_TIMEOUT_SECONDS = 10.0
_WAIT_SECONDS = 0.5
_READ_SECONDS_MAX = 60.0
_BATCH_RECORDS = 500
_RETRY_SECONDS = 0.05
_NO_LEADER = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}


class CatalogTopic:
    """Reads the topic to its end, again and again, without a consumer group. Close it after use.

    `catalog` is what the records read so far add up to.
    """

    def __init__(
        self, settings: Settings, on_verdict: Callable[[Verdict], object] | None = None
    ) -> None:
        self.catalog = Catalog()
        self._topic = settings.topics.catalog
        self._servers = settings.kafka.bootstrap_servers
        self._on_verdict = on_verdict
        self.cut = 0  # how many of the first offsets Kafka has deleted since they were read
        self._next: int | None = None  # the offset to read next
        self._last: tuple[int, str] | None = None  # offset and digest of the last record read
        self._place = Place(self._topic, 0)
        self._failure = AuthFailure()
        self._consumer = open_client(
            Consumer,
            {
                **librdkafka_options(settings.kafka),
                "group.id": "resmeter-catalog",  # never joined, and nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                # An entry counts from its append on. Behind somebody's open transaction it would be
                # seen only when that ends, and workers would have decided without it.
                "isolation.level": "read_uncommitted",
                "auto.offset.reset": "error",
                "check.crcs": True,
                "fetch.wait.max.ms": 50,
                "error_cb": self._failure.on_error,
                **silent_options(),
            },
        )

    def refresh(self) -> Catalog:
        """Read to the end that the topic has when this is called; return the catalog.

        Raises:
            ConfigurationError: the topic does not exist, records of it are gone, or the brokers
                reject us.
            UnavailableError: no broker responds.
            UnknownEntryError: a newer version of resmeter wrote an entry.
        """
        try:
            if self._next is None:
                self._find()
            low, high = self._bounds()
            if self._next is None:
                if low > 0:
                    raise ConfigurationError([self._cut(f"its first {low} offsets are gone")])
                self._consumer.assign([Place(self._topic, 0, 0)])
                self._next = 0
            if low > self._next:
                raise ConfigurationError([self._cut(f"its first {low} offsets are gone")])
            if low > self.cut:
                self._note_cut(low)
            if high < self._next:
                raise ConfigurationError(
                    [self._cut(f"it ends at offset {high}, and was read up to {self._next}")]
                )
            self._check_last(low)
            self._read_to(high)
        except KafkaException as error:
            raise UnavailableError(
                f"the catalog's topic {self._topic} cannot be read from Kafka at {self._servers}: "
                f"{error.args[0].str()}; check RESMETER_KAFKA__BOOTSTRAP_SERVERS"
            ) from error
        return self.catalog

    def _find(self) -> None:
        listed = list_topics(
            self._consumer, self._failure, self._servers, self._topic, seconds=_TIMEOUT_SECONDS
        )
        if listed.topics[self._topic].error is not None:
            problem = f"topic {self._topic} does not exist: run `resmeter topics create`"
            raise ConfigurationError([problem])

    def _bounds(self) -> tuple[int, int]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            try:
                return self._consumer.get_watermark_offsets(self._place, timeout=_TIMEOUT_SECONDS)
            except KafkaException as error:
                # Just after the topic is created or moved, the client asks the wrong broker.
                if error.args[0].code() not in _NO_LEADER or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _cut(self, what: str) -> str:
        return (
            f"topic {self._topic} is not the one that the catalog was read from: {what}. Without "
            "the whole catalog nothing may be decided. Create the topic again, and run `resmeter "
            "catalog restore FILE` with the newest export: docs/operate/catalog.md"
        )

    def _note_cut(self, low: int) -> None:
        """Say that Kafka has deleted entries that this process knows: another one cannot start."""
        self.cut = low
        get_logger("catalog").error(
            "catalog_cut",
            topic=self._topic,
            offsets=low,
            consequence="this process knows the whole catalog, and goes on; no process can start",
            todo="do not restart anything: set retention.ms and retention.bytes of the topic to -1, "
            "create another topic, and run `resmeter catalog restore FILE` with the newest export: "
            "docs/operate/runbooks/ResmeterCatalogCut.md",
        )

    def _check_last(self, low: int) -> None:
        """Check that the last record that was read is still there: it may be another log by now."""
        if self._last is None or self._last[0] < low:
            return
        offset, digest = self._last
        self._consumer.assign([Place(self._topic, 0, offset)])
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for message in self._consumer.consume(1, timeout=_WAIT_SECONDS):
                error = message.error()
                if error is None:
                    if (message.offset(), digest_of(message.value() or b"")) != (offset, digest):
                        what = f"it has another record at offset {offset}"
                        raise ConfigurationError([self._cut(what)])
                    return
                # The fetch from the position before may have failed: that of this one counts.
                if error.code() != KafkaError._AUTO_OFFSET_RESET:
                    raise KafkaException(error)
        raise self._silent()

    def _read_to(self, end: int) -> None:
        deadline = time.monotonic() + _READ_SECONDS_MAX
        while (self._next or 0) < end:
            for message in self._consumer.consume(_BATCH_RECORDS, timeout=_WAIT_SECONDS):
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
                self._take(message)
            # Use the position, not the last record: the topic may end with a transaction's marker.
            (position,) = self._consumer.position([self._place])
            self._next = max(self._next or 0, position.offset)
            if time.monotonic() > deadline:
                raise self._silent()

    def _silent(self) -> UnavailableError:
        return UnavailableError(
            f"Kafka at {self._servers} has stopped sending records of {self._topic}"
        )

    def _take(self, message: Message) -> None:
        kind, timestamp = message.timestamp()
        appended = Appended(
            message.offset() or 0,
            timestamp if kind == TIMESTAMP_LOG_APPEND_TIME else -1,
            message.value() or b"",
            _restored(message),
        )
        self.catalog, verdict = read(self.catalog, appended)
        self._last = appended.offset, verdict.digest
        if self._on_verdict is not None:
            self._on_verdict(verdict)

    def close(self) -> None:
        self._consumer.close()


def _restored(message: Message) -> tuple[str, int] | None:
    for name, content in headers_of(message):
        found = _RESTORED.fullmatch(content or b"") if name == RESTORED_HEADER else None
        if found is not None:
            return found[1].decode(), int(found[2])
    return None


def read_catalog(settings: Settings) -> tuple[Catalog, list[Verdict]]:
    """Read the whole topic once; return the catalog and what became of each record.

    Raises:
        ConfigurationError: the catalog is not whole.
        UnavailableError: no broker responds, or the topic does not exist.
    """
    verdicts: list[Verdict] = []
    topic = CatalogTopic(settings, verdicts.append)
    try:
        return topic.refresh(), verdicts
    finally:
        topic.close()


def whole_catalog(settings: Settings) -> Catalog:
    """Read the topic once; return the catalog that processes decide by.

    Raises:
        ConfigurationError: the topic has no catalog yet.
        UnavailableError: no broker responds, or the topic does not exist.
    """
    catalog, _ = read_catalog(settings)
    if not catalog.is_whole:
        raise ConfigurationError([no_catalog(settings.topics.catalog)])
    return catalog


def current_tenants(settings: Settings) -> Tenants:
    """Return the tenants by the catalog: by its topic, or by the export that the settings name.

    Raises:
        ConfigurationError: the topic has no catalog, or the export or the tenant file is wrong.
        UnavailableError: no broker responds, or the topic does not exist.
    """
    file = settings.catalog_export
    catalog = whole_catalog(settings) if file is None else _exported(file)
    _, producers = read_declared(settings.config)
    return Tenants(catalog, producers)


def _exported(file: Path) -> Catalog:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{file}: cannot be read: {error.strerror}") from error
    return decode_export(str(file), content)[0]


def no_catalog(topic: str) -> str:
    """Return what to do about a topic that has no whole catalog."""
    return (
        f"topic {topic} has no catalog yet: run `resmeter topics create`, which makes one from "
        "RESMETER_CONFIG"
    )


def publish(settings: Settings, values: Sequence[bytes]) -> list[Verdict]:
    """Write entries, read them back, and return what became of each.

    Raises:
        UnavailableError: the broker did not acknowledge everything, or does not respond.
    """
    return _write(settings, [(value, []) for value in values])


def restore(settings: Settings, entries: Sequence[ExportedEntry]) -> list[Verdict]:
    """Write the entries of an export with the times of their first appending, and read them back.

    Raises:
        ConfigurationError: the topic has a catalog already.
        UnavailableError: the broker did not acknowledge everything, or does not respond.
    """
    catalog, _ = read_catalog(settings)
    if catalog.is_whole:
        raise ConfigurationError(
            [
                (
                    f"topic {settings.topics.catalog} has a catalog with {catalog.number} entries; "
                    "restore into a new topic: set its name in RESMETER_TOPICS__CATALOG"
                )
            ]
        )
    head = entries[-1].digest
    written: list[_Written] = [
        (each.value.encode(), [(RESTORED_HEADER, f"{head}:{each.appended_ms}".encode())])
        for each in entries
    ]
    return _write(settings, written)


_Written = tuple[bytes, list[tuple[str, bytes | None]]]  # value and headers


def _write(settings: Settings, records: Sequence[_Written]) -> list[Verdict]:
    options = {**librdkafka_options(settings.kafka), **silent_options()}
    with TopicWriter(options, settings.topics.catalog) as writer:
        for value, headers in records:
            if not writer.write(None, value, headers, partition=0):
                break
    _, verdicts = read_catalog(settings)
    # A void copy of a valid entry may have come before or after it.
    verdicts.sort(key=lambda verdict: verdict.number > 0)
    found = {verdict.digest: verdict for verdict in verdicts}
    return [found[digest_of(value)] for value, _ in records]


def begin_catalog(settings: Settings, who: str) -> tuple[Catalog, bool]:
    """Begin the catalog from RESMETER_CONFIG, unless there is one; return it, and whether it began.

    Raises:
        ConfigurationError: the tenant file or a policy is wrong.
        UnavailableError: no broker responds.
    """
    catalog, _ = read_catalog(settings)
    if catalog.is_whole:
        return catalog, False
    declared, _ = read_declared(settings.config)
    why = f"from {settings.config}" if settings.config else "no tenant file: the default policy"
    verdicts = publish(settings, entries_of(beginning(declared), "", who, why, LEAD_MS_MIN))
    # Somebody else may have begun it just before.
    return whole_catalog(settings), not verdicts[-1].reason
