"""Fence a partition of the changelog: only its newest owner can write to it.

A transactional id has one producer id, and an epoch that Kafka's transaction coordinator counts up at
each `InitProducerId`. The leader of a partition rejects a batch whose epoch is lower than the highest
that it has stored of the producer id, also outside of transactions. So the owner of a partition takes
a new epoch and writes one record under it, the fence record: from then on, no earlier owner can write.
Its batches stay plain ones, without transactions and without markers.

aiokafka's producer has one producer id for all its partitions. So we call a private method of its
batches, which gives each batch its producer id, epoch and sequence number.
"""

import asyncio
from typing import Any

from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    KafkaError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest

from pipeline.errors import ConfigurationError
from pipeline.kafka.fencing import rights_problem
from pipeline.logs import get_logger

# The fence record: a key that no conversation has, and no value. To every version of a worker this is
# a deleted state. It must not have the key of the clock record: compaction would then keep the fence
# record in place of the basis, which its writer has not read yet.
FENCE_KEY = b"\x00fence"

_TRANSACTION_TIMEOUT_MS = 60_000  # no transaction is ever begun
_SEQUENCES = 2**31
_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.1, 1.0
_ATTEMPTS_UNTIL_WARNING = 8  # about five seconds
_WAITING = (CoordinatorLoadInProgressError, ConcurrentTransactions)


class Owner:
    """The identity under which this process writes to one partition, and its next sequence number."""

    def __init__(self, producer_id: int, epoch: int) -> None:
        self.producer_id = producer_id
        self.epoch = epoch
        self.lock = asyncio.Lock()  # held from the first batch signed to the last one queued
        self._sequence = 0

    def sign(self, batch: Any, count: int) -> None:
        """Give a batch of `count` records its place; it must be the next batch that is queued."""
        batch.close()
        batch._set_producer_state(self.producer_id, self.epoch, self._sequence)
        self._sequence = (self._sequence + count) % _SEQUENCES


async def init_producer_id(client: Any, transactional_id: str) -> Owner:
    """Take the next epoch of a transactional id; wait for the coordinator if necessary.

    Raises:
        ConfigurationError: the brokers do not let us use the id.
        KafkaError: the brokers cannot do it.
    """
    request = InitProducerIdRequest(transactional_id, _TRANSACTION_TIMEOUT_MS)
    pause = _PAUSE_SECONDS
    attempts = 0
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
            response = await client.send(node, request)
            error = for_code(response.error_code)()
            if not response.error_code:
                return Owner(response.producer_id, response.producer_epoch)
        except KafkaError as raised:
            error = raised
        if isinstance(error, TransactionalIdAuthorizationFailed):
            raise ConfigurationError([rights_problem(transactional_id)]) from error
        if not (error.retriable or isinstance(error, _WAITING)):
            raise error
        attempts += 1
        if attempts == _ATTEMPTS_UNTIL_WARNING:
            get_logger("worker").warning(
                "fence_delayed",
                transactional_id=transactional_id,
                error=f"{type(error).__name__}: {error}",
                consequence="the partition waits; nothing is lost",
            )
        await asyncio.sleep(pause)
        pause = min(pause * 2, _PAUSE_SECONDS_MAX)
        await client.force_metadata_update()
