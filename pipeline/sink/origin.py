"""Check that the topic of usage records is the one that the ledger was filled from, and complete."""

from collections.abc import Callable

from pipeline.errors import BrokenInvariantError, ConfigurationError, UnavailableError
from pipeline.ledger import Ledger, continuation, records
from pipeline.ledger.entries import ConsumedRecord
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics


class RecordsOrigin:
    """The topic of usage records, as a ledger knows it.

    `topic_id` asks for the topic's id, and returns "" if it is unknown.
    """

    def __init__(
        self,
        ledger: Ledger,
        topic: str,
        servers: str,
        topic_id: Callable[[], str],
        metrics: SinkMetrics,
    ) -> None:
        self._ledger = ledger
        self._topic = topic
        self._servers = servers
        self._topic_id = topic_id
        self._metrics = metrics
        self._log = get_logger(__name__)
        self._read_topic_id = ""
        self._is_made_again = (
            False  # the ledger has records of a topic of this name before this one
        )

    def check_identity(self) -> None:
        """Check that the ledger's offsets are of this topic, and not of one that had its name.

        Raises:
            UnavailableError: the topic was made again while we read it. The next start reads it again.
        """
        topic_id = self._topic_id()
        if not topic_id or topic_id == self._read_topic_id:
            return
        if self._read_topic_id:
            raise UnavailableError(
                f"{self._topic} at {self._servers} was made again: the sink must start again, to read "
                "it from its beginning"
            )
        self._read_topic_id = topic_id
        self._is_made_again = not records.is_known_topic(self._ledger, self._topic, topic_id)
        if self._is_made_again:
            self._metrics.records_missing.inc()
            self._log.error(
                "usage_topic_is_another",
                topic=self._topic,
                topic_id=topic_id,
                consequence="the ledger's offsets are of a topic that is gone: this one is read from "
                "its beginning, and what the ledger has counts once; what nobody had read is lost",
                todo="run `resmeter audit`: it names what is missing",
            )

    def check_bounds(self, partition: int, expected: int | None, low: int, high: int) -> None:
        """Check that a partition has what follows on the ledger's offset; report what is deleted.

        Raises:
            ConfigurationError: a newer ledger had what is deleted, or this one is new: units that were
                never sent may be lost.
            BrokenInvariantError: the partition ends before the ledger's offset.
        """
        if low > (expected or 0):
            self._check_complete(partition, expected, low)
        if expected is None:
            return
        if expected > high:
            raise BrokenInvariantError(
                f"the ledger {self._ledger.redacted_url} has {self._topic}[{partition}] up to offset "
                f"{expected}, but at {self._servers} the partition ends at {high}: the ledger belongs "
                "to another Kafka or topic, or Kafka has lost records. Set RESMETER_LEDGER__URL to the "
                "ledger of this Kafka"
            )
        if expected < low:
            self._metrics.records_missing.inc(low - expected)
            self._log.error(
                "usage_records_missing",
                topic=self._topic,
                partition=partition,
                first_offset=expected,
                last_offset=low - 1,
            )

    def _check_complete(self, partition: int, expected: int | None, low: int) -> None:
        """Check that no newer ledger had the records between `expected` and `low`, which are deleted."""
        if self._is_made_again:
            return
        if expected is None or records.awaits_any(self._ledger):
            raise ConfigurationError(
                [
                    (
                        f"the ledger {self._ledger.redacted_url} has {self._topic}[{partition}] up to "
                        f"offset {expected or 0}, and Kafka has deleted what is before {low}: restore a "
                        "newer backup of the ledger. If there is none, `resmeter ledger rebuild` makes a "
                        "ledger of what Kafka has"
                    )
                ]
            )

    def check_last(self, record: ConsumedRecord, low: int) -> None:
        """Check that the last record that the ledger has read of a partition is still there.

        If it is another, the partition was cut and filled again: an unclean election of a leader, or
        a restored disk. The ledger reads the partition from its beginning then: what it has counts
        once, and what came in place of other records is not passed over.
        """
        if continuation.has_read(self._ledger, self._topic, record):
            return
        end = record.offset + 1
        if continuation.rewind(self._ledger, self._topic, record.partition, end, low):
            self._metrics.records_missing.inc()
            self._log.error(
                "usage_records_replaced",
                topic=self._topic,
                partition=record.partition,
                offset=record.offset,
                consequence="the partition has lost its end, and other records are in its place: it is "
                "read from its beginning, and what the ledger has counts once; what nobody had read "
                "is lost",
                todo="run `resmeter audit`: it names what is missing",
            )
