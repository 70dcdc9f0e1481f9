"""Build a ledger from the journal and the usage records, without sending anything."""

from contextlib import closing
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from pipeline.catalog.prices import FixedPrices
from pipeline.catalog.topic import current_tenants
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.headers import ORIGIN_HEADER
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.positions import Positions, topic_id_of
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.kafka.single import SingleTopic
from pipeline.ledger import Ledger, records
from pipeline.ledger.entries import ConsumedRecord, Moved
from pipeline.metrics import SinkMetrics
from pipeline.progress import OnRecord, ignore_progress
from pipeline.sink.journal import Journal

_BATCH_RECORDS = 5_000


class Rebuilt(NamedTuple):
    """What was read: usage records stored and quarantined, and those that Kafka has deleted."""

    stored: int
    quarantined: int
    deleted: int


def rebuild(
    settings: Settings, ledger: Ledger, now_ms: int, on_record: OnRecord = ignore_progress
) -> Rebuilt:
    """Fill an empty ledger: first what was sent, then the usage records.

    Raises:
        ConfigurationError: the journal is empty, or not complete.
        UnavailableError: Kafka or the ledger cannot be reached, or a sink fills the ledger too.
    """
    topic = settings.topics.records
    prices = current_tenants(settings)
    with closing(SingleTopic(settings.kafka, settings.topics.journal)) as log:
        metrics = SinkMetrics(CollectorRegistry())
        journal = Journal(ledger, log, settings.topics.journal, "rebuild", metrics)
        journal.open()
    if not journal.is_followed():
        raise ConfigurationError(
            [
                f"{settings.topics.journal} is empty: a ledger cannot be built without it. Restore a backup"
            ]
        )
    if topic_id := topic_id_of(Positions(settings.kafka), topic):
        records.is_known_topic(ledger, topic, topic_id)
    with closing(TopicReader(librdkafka_options(settings.kafka), topic)) as reader:
        result = Rebuilt(0, 0, sum(low for low, _ in reader.bounds.values()))
        expected: dict[int, int | None] = dict.fromkeys(reader.bounds)
        batch: list[ConsumedRecord] = []
        for number, message in enumerate(reader.records(), 1):
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            origin = dict(headers_of(message)).get(ORIGIN_HEADER)
            batch.append(ConsumedRecord(partition, offset, message.value(), origin))
            on_record(number, reader.size)
            if len(batch) == _BATCH_RECORDS:
                result = _store(ledger, topic, batch, expected, now_ms, prices, result)
                batch = []
        if batch:
            result = _store(ledger, topic, batch, expected, now_ms, prices, result)
    return result


def _store(
    ledger: Ledger,
    topic: str,
    batch: list[ConsumedRecord],
    expected: dict[int, int | None],
    now_ms: int,
    prices: FixedPrices,
    result: Rebuilt,
) -> Rebuilt:
    stored = records.store(ledger, topic, batch, expected, now_ms, prices)
    if isinstance(stored, Moved):
        raise UnavailableError(
            f"a sink stores usage records in {ledger.redacted_url} too: stop it, and rebuild a new ledger"
        )
    expected.update(stored.offsets)
    return Rebuilt(
        result.stored + stored.records,
        result.quarantined + len(stored.quarantined),
        result.deleted,
    )
