"""Copy the events of a topic to another one, in the order of their timestamps.

A replay of the copy gives the same usage records, because each record keeps its key, value, headers
and timestamp, and the events of a conversation keep their order.
"""

import heapq
from contextlib import ExitStack, closing

from confluent_kafka import Message

from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.kafka.options import ClientOptions, librdkafka_options
from pipeline.kafka.reader import TopicReader, headers_of
from pipeline.kafka.topics import TopicAdmin
from pipeline.kafka.writer import TopicWriter
from pipeline.progress import OnRecord, ignore_progress

_BUFFER_KBYTES = 4_096  # of each partition that is read


def copy_events(
    settings: Settings,
    source: str,
    servers: str | None = None,
    on_record: OnRecord = ignore_progress,
) -> int:
    """Copy all records of `source` to the empty events topic; return how many.

    Args:
        settings: broker and topics; the events topic is the copy.
        source: the topic to copy.
        servers: the cluster of `source`, if it is another one.
        on_record: called for each record.

    Raises:
        ConfigurationError: a topic does not exist or has another configuration than required, or
            the copy has records already.
        UnavailableError: no broker responds, the source is damaged, or not everything was
            acknowledged.
    """
    options = librdkafka_options(settings.kafka)
    _check_copy(settings, source, options)
    from_options: ClientOptions = {**options, "queued.max.messages.kbytes": _BUFFER_KBYTES}
    if servers is not None:
        from_options["bootstrap.servers"] = servers
    with ExitStack() as stack:
        first = stack.enter_context(closing(TopicReader(from_options, source)))
        # A reader for each partition: the order of the timestamps is that of all partitions.
        merged = heapq.merge(
            *(
                stack.enter_context(closing(TopicReader(from_options, source))).records({n: low})
                for n, (low, _) in first.bounds.items()
            ),
            key=_timestamp,
        )
        writer = TopicWriter(options, settings.topics.events, settings.topics.producers_partitioner)
        copied = 0
        with writer:
            for message in merged:
                headers = headers_of(message)
                if not writer.write(message.key(), message.value(), headers, _timestamp(message)):
                    break
                copied += 1
                on_record(copied, first.size)
        return copied


def _timestamp(message: Message) -> int:
    return message.timestamp()[1]


def _check_copy(settings: Settings, source: str, options: ClientOptions) -> None:
    topics = settings.topics
    if topics.events_timestamps != "CreateTime":
        raise ConfigurationError(
            [
                (
                    "RESMETER_TOPICS__EVENTS_TIMESTAMPS must be CreateTime while you copy: with "
                    "LogAppendTime, the copy would have other timestamps, and a replay might decide "
                    "otherwise"
                )
            ]
        )
    if problems := TopicAdmin(settings).problems():
        raise ConfigurationError(problems)
    with closing(TopicReader(options, topics.events)) as copy:
        if any(end for _, end in copy.bounds.values()):
            raise ConfigurationError(
                [
                    (
                        f"topic {topics.events} has records already: copy {source} to a new topic, or "
                        f"delete {topics.events} and run `resmeter topics create`"
                    )
                ]
            )
