"""A fault of everybody's does not spoil every meter event."""

import asyncio

import pytest

from pipeline.ledger.entries import Conclusion, Result
from pipeline.sink.breaker import PROBE_CALLS_MAX, PROBES_MAX, Breaker

FOREIGN = Conclusion(result="foreign", http_status=404, detail="a page")
REJECTED = Conclusion(result="rejected", http_status=400)
DELIVERED = Conclusion(result="delivered", http_status=200)


def key(n: int) -> tuple[str, str]:
    return f"cus_{n}", "m"


async def may_call(breaker: Breaker, n: int) -> bool:
    waiting = asyncio.ensure_future(breaker.wait(key(n)))
    await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    return done


async def callers(breaker: Breaker) -> int:
    """Return how many of 20 queues may call."""
    return sum([await may_call(breaker, n) for n in range(20)])


async def test_all_queues_call_while_the_biller_answers() -> None:
    breaker = Breaker(3)
    breaker.observe(key(0), DELIVERED)

    assert await callers(breaker) == 20
    assert breaker.doubt is None


async def test_few_queues_call_while_something_else_answers() -> None:
    breaker = Breaker(3)
    breaker.observe(key(0), FOREIGN)

    assert await callers(breaker) == PROBES_MAX
    assert await may_call(breaker, 0)
    assert breaker.doubt == "HTTP 404: a page"


async def test_a_queue_that_ends_makes_room_for_another() -> None:
    breaker = Breaker(3)
    for n in range(PROBES_MAX):
        breaker.observe(key(n), FOREIGN)
    waiting = [asyncio.ensure_future(breaker.wait(key(n))) for n in (8, 9)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)

    breaker.leave(key(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [task.done() for task in waiting] == [True, False]
    breaker.open()
    await asyncio.gather(*waiting)


async def test_queues_that_something_dislikes_keep_nobody_waiting() -> None:
    """A firewall blocks what three customers send, and lets all others through."""
    breaker = Breaker(3)
    for n in range(PROBES_MAX):
        breaker.observe(key(n), FOREIGN)
    waiting = asyncio.ensure_future(breaker.wait(key(8)))
    await asyncio.sleep(0)
    assert not waiting.done()

    for _ in range(PROBE_CALLS_MAX - 1):
        breaker.observe(key(0), FOREIGN)
    await asyncio.wait_for(waiting, 1)
    breaker.observe(key(8), DELIVERED)

    for n in range(PROBES_MAX):
        breaker.observe(key(n), FOREIGN)
    assert await callers(breaker) == 20
    assert breaker.doubt is None


async def test_a_queue_that_had_an_answer_again_is_believed_again() -> None:
    breaker = Breaker(3)
    breaker.observe(key(0), FOREIGN)
    breaker.observe(key(1), DELIVERED)
    breaker.observe(key(0), DELIVERED)

    breaker.observe(key(0), FOREIGN)

    assert await callers(breaker) == PROBES_MAX


@pytest.mark.parametrize("result", ["delivered", "duplicate", "rejected", "refused", "failed"])
async def test_any_answer_of_the_biller_ends_the_doubt(result: Result) -> None:
    breaker = Breaker(3)
    breaker.observe(key(0), FOREIGN)

    breaker.observe(key(1), Conclusion(result=result, http_status=400))

    assert await callers(breaker) == 20


@pytest.mark.parametrize("result", ["refused", "failed"])
async def test_no_answer_does_not_end_the_doubt(result: Result) -> None:
    breaker = Breaker(3)
    breaker.observe(key(0), FOREIGN)

    breaker.observe(key(0), Conclusion(result=result))

    assert await callers(breaker) == PROBES_MAX


def reject(breaker: Breaker, *customers: int) -> None:
    for n in customers:
        breaker.observe(key(n), REJECTED)


def test_only_rejections_in_a_row_halt_a_customer_and_only_that_one() -> None:
    breaker = Breaker(3)
    for conclusion in (REJECTED, REJECTED, DELIVERED, REJECTED, REJECTED, FOREIGN):
        breaker.observe(key(0), conclusion)
    assert not breaker.halted

    breaker.observe(key(0), Conclusion(result="collision", http_status=400))

    assert breaker.halted == {key(0)}
    assert not breaker.is_broad


def test_deliveries_of_others_do_not_end_a_run_of_one_customer() -> None:
    breaker = Breaker(3)
    for _ in range(3):
        reject(breaker, 0)
        breaker.observe(key(1), DELIVERED)

    assert breaker.halted == {key(0)}


def test_one_customer_and_meter_may_halt_while_its_other_meter_delivers() -> None:
    breaker = Breaker(3)
    for _ in range(3):
        reject(breaker, 0)
        breaker.observe(("cus_0", "another meter"), DELIVERED)

    assert breaker.halted == {key(0)}


@pytest.mark.parametrize(
    ("customers", "is_broad"),
    [
        ([0] * 100, False),
        ([0, 1] * 50, False),
        ([0] * 18 + [1, 2], False),  # two others have one rejection each
        ([0, 1, 2] * 7, True),
        ([0] * 50 + [1, 2] * 7, True),
        (list(range(20)), True),
        (list(range(19)), False),
    ],
)
def test_a_run_of_rejections_is_broad_by_its_customers(
    customers: list[int], *, is_broad: bool
) -> None:
    breaker = Breaker(20)

    reject(breaker, *customers)

    assert breaker.is_broad == is_broad


def test_a_delivery_to_anybody_ends_a_broad_run() -> None:
    breaker = Breaker(3)
    reject(breaker, 0, 1)
    breaker.observe(key(7), DELIVERED)
    reject(breaker, 2, 3)

    assert not breaker.is_broad


def test_a_halted_customer_continues_once_none_of_its_meter_events_is_rejected() -> None:
    breaker = Breaker(2)
    reject(breaker, 0, 0, 1, 1)

    breaker.resume_all_but({key(1)})

    assert breaker.halted == {key(1)}
    reject(breaker, 0)
    assert breaker.halted == {key(1)}


async def test_when_deliveries_end_no_queue_waits() -> None:
    breaker = Breaker(3)
    breaker.open()
    for n in range(9):
        breaker.observe(key(n), FOREIGN)

    assert await callers(breaker) == 20
