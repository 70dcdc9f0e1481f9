"""Write an operator's decision to step over damaged records of the events topic."""

import time
from contextlib import closing

from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, committed_offsets
from pipeline.kafka.stepover import StepOver, StepOvers, encode_step_over
from pipeline.kafka.writer import TopicWriter


def decided_end(settings: Settings, partition: int, offset: int) -> int | None:
    """Return where to continue after damage at an offset of the events topic; None if undecided.

    Raises:
        ConfigurationError: there is no changelog topic, or the broker rejects us.
        UnavailableError: no broker responds.
    """
    options = librdkafka_options(settings.kafka)
    decided = StepOvers()
    with closing(TopicReader(options, settings.topics.changelog)) as reader:
        low, _ = reader.bounds.get(partition, (0, 0))
        for message in reader.records({partition: low}):
            decided.take(message.key() or b"", message.value())
    return decided.end_after(offset)


def step_over_damage(
    settings: Settings, partition: int, first_offset: int, end_offset: int, *, by: str, reason: str
) -> StepOver:
    """Let workers step over damaged batches from `first_offset` to `end_offset`; return the decision.

    A worker reads the decision when it starts. It steps over damaged batches only.

    Raises:
        ConfigurationError: there is no such partition, or the offsets are not in it, or the workers
            have passed them.
        UnavailableError: no broker responds, or the decision was not acknowledged.
    """
    topics = settings.topics
    options = librdkafka_options(settings.kafka)
    with closing(TopicReader(options, topics.events)) as reader:
        bounds = reader.bounds
    place = f"{topics.events}[{partition}]"
    if partition not in bounds:
        raise ConfigurationError([f"there is no partition {place}; it has 0 to {len(bounds) - 1}"])
    low, high = bounds[partition]
    if not low <= first_offset < end_offset <= high:
        problem = (
            f"{place} has the offsets {low} to {high - 1}, and --to must be after the first offset: "
            f"{first_offset} to {end_offset} is not within"
        )
        raise ConfigurationError([problem])
    committed = committed_offsets(settings.kafka, settings.worker.group, topics.events, [partition])
    if committed[partition] >= end_offset:
        problem = (
            f"the workers have read {place} up to offset {committed[partition]}: there is nothing "
            f"to step over before {end_offset}"
        )
        raise ConfigurationError([problem])
    step = StepOver(first_offset, end_offset, by, reason, int(time.time() * 1000))
    key, value = encode_step_over(step)
    with TopicWriter(options, topics.changelog) as writer:
        writer.write(key, value, [], partition=partition)
    return step
