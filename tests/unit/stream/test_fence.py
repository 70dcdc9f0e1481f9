"""Batches carry the identity of their partition's owner, and errors of the brokers are told apart."""

from typing import Any

import pytest
from aiokafka.errors import InvalidTransactionTimeout
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.transaction import InitProducerIdResponse_v0
from aiokafka.record.default_records import DefaultRecordBatch

from pipeline.errors import ConfigurationError
from pipeline.stream.fence import Owner, init_producer_id

LAST = 2**31 - 2


def _signed(owner: Owner, count: int) -> DefaultRecordBatch:
    """Return what is sent for a batch of `count` records that an owner signed."""
    builder = BatchBuilder(100_000, 0)
    for _ in range(count):
        builder.append(key=b"key", value=b"value", timestamp=None)
    owner.sign(builder, count)
    return DefaultRecordBatch(bytes(builder._build()))


def test_a_batch_has_the_producer_id_the_epoch_and_the_next_sequence_number() -> None:
    owner = Owner(7, 3)

    first, second = _signed(owner, 2), _signed(owner, 5)

    assert [(b.producer_id, b.producer_epoch, b.base_sequence) for b in (first, second)] == [
        (7, 3, 0),
        (7, 3, 2),
    ]
    assert not first.is_transactional
    assert first.validate_crc()


def test_a_signed_batch_takes_no_other_record() -> None:
    builder = BatchBuilder(100_000, 0)
    builder.append(key=b"key", value=b"value", timestamp=None)

    Owner(7, 3).sign(builder, 1)

    assert builder.append(key=b"key", value=b"value", timestamp=None) is None


def test_sequence_numbers_begin_again_after_the_greatest_one() -> None:
    owner = Owner(7, 3)
    owner._sequence = LAST

    assert [_signed(owner, 3).base_sequence, _signed(owner, 1).base_sequence] == [LAST, 1]


class _Coordinator:
    """Answers each request with the next of a list of error codes."""

    def __init__(self, *codes: int) -> None:
        self._codes = list(codes)

    async def coordinator_lookup(self, _kind: object, _key: str) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> InitProducerIdResponse_v0:
        return InitProducerIdResponse_v0(0, self._codes.pop(0), 7, 3)

    async def force_metadata_update(self) -> bool:
        return True


@pytest.mark.parametrize("code", [14, 15, 16, 51])  # loading, not available, moved, still ending
async def test_a_coordinator_that_is_not_ready_is_asked_again(code: int) -> None:
    owner = await init_producer_id(_Coordinator(code, 0), "resmeter-0")

    assert (owner.producer_id, owner.epoch) == (7, 3)


async def test_missing_rights_are_an_error_of_the_configuration_that_names_them() -> None:
    with pytest.raises(ConfigurationError) as raised:
        await init_producer_id(_Coordinator(53), "resmeter-eu-12")

    (problem,) = raised.value.problems
    assert "the transactional id resmeter-eu-12" in problem
    assert "--transactional-id resmeter-eu- --resource-pattern-type prefixed" in problem


async def test_an_error_that_does_not_pass_is_raised() -> None:
    with pytest.raises(InvalidTransactionTimeout):
        await init_producer_id(_Coordinator(50), "resmeter-0")
