"""This file reads a topic from its beginning to the end that it has now, in no group."""

from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.connect import Refusals, list_topics, open_client, quiet

_SECONDS_MAX = 10.0  # for an answer
_BATCH = 1_000
_WAIT_SECONDS = 1.0
_SILENCE_MAX = 30  # waits without a record before we give up


class Source:
    """A topic as it is now. Close it in the end.

    Raises:
        ConfigurationError: there is no such topic, or the broker refuses us.
        UnavailableError: no broker answers.
    """

    def __init__(self, options: Mapping[str, str | int | float | bool], topic: str) -> None:
        self.topic = topic
        self._servers = str(options["bootstrap.servers"])
        refusals = Refusals()
        self._consumer = open_client(
            Consumer,
            {
                **options,
                "group.id": "resmeter-reads",  # none is joined, nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "earliest",
                "error_cb": refusals.hear,
                **quiet(),
            },
        )
        try:
            self.bounds = self._look(refusals)
        except KafkaException as error:
            self.close()
            raise self._unavailable(error) from error
        except ConfigurationError:
            self.close()
            raise

    def _look(self, refusals: Refusals) -> dict[int, tuple[int, int]]:
        found = list_topics(
            self._consumer, refusals, self._servers, self.topic, seconds=_SECONDS_MAX
        ).topics[self.topic]
        if found.error is not None:
            raise ConfigurationError(
                [
                    f"Kafka at {self._servers} has no topic {self.topic}: run `resmeter topics create`"
                ]
            )
        return {
            number: self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, number), timeout=_SECONDS_MAX
            )
            for number in found.partitions
        }

    @property
    def size(self) -> int:
        """How many offsets there are, at most as many records."""
        return sum(high - low for low, high in self.bounds.values())

    def records(self, places: Mapping[int, int] | None = None) -> Iterator[Message]:
        """Yield the records up to the end, each partition in its order.

        Args:
            places: partition → offset to begin at; none means all, from their first.

        Raises:
            UnavailableError: the broker does not answer any more.
        """
        begin = {n: low for n, (low, _) in self.bounds.items()} if places is None else places
        ends = {n: self.bounds[n][1] for n, at in begin.items() if at < self.bounds[n][1]}
        self._consumer.assign([TopicPartition(self.topic, n, begin[n]) for n in ends])
        silence = 0
        while ends:
            try:
                messages = self._consumer.consume(_BATCH, timeout=_WAIT_SECONDS)
            except KafkaException as error:
                raise self._unavailable(error) from error
            silence = 0 if messages else silence + 1
            if silence >= _SILENCE_MAX:
                raise UnavailableError(f"Kafka at {self._servers} sends no more of {self.topic}")
            for message in messages:
                number, offset = message.partition(), message.offset()
                if message.error() is not None or number is None or offset is None:
                    continue
                if number in ends and offset < ends[number]:
                    yield message
            self._drop_those_read(ends)

    def _drop_those_read(self, ends: dict[int, int]) -> None:
        # By position, not by record: the last offsets may hold a transaction's markers alone.
        places = [TopicPartition(self.topic, number) for number in ends]
        for place in self._consumer.position(places):
            if place.offset >= ends[place.partition]:
                del ends[place.partition]

    def close(self) -> None:
        self._consumer.close()

    def _unavailable(self, error: KafkaException) -> UnavailableError:
        return UnavailableError(
            f"Kafka at {self._servers}: {error.args[0].str()}; "
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS names it"
        )
