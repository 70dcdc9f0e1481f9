"""A fault of everybody's does not spoil every meter event."""

import asyncio

import pytest

from pipeline.ledger.entries import Conclusion, Result
from pipeline.sink.breaker import PROBES_MAX, Breaker

FOREIGN = Conclusion(result="foreign", http_status=404, detail="a page")
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


async def test_only_a_run_of_rejections_halts() -> None:
    breaker = Breaker(3)
    rejected = Conclusion(result="rejected", http_status=400)
    for conclusion in (rejected, rejected, DELIVERED, rejected, rejected, FOREIGN):
        breaker.observe(key(0), conclusion)
    assert not breaker.is_run_of_rejections

    breaker.observe(key(0), Conclusion(result="collision", http_status=400))

    assert breaker.is_run_of_rejections


async def test_when_deliveries_end_no_queue_waits() -> None:
    breaker = Breaker(3)
    breaker.open()
    for n in range(9):
        breaker.observe(key(n), FOREIGN)

    assert await callers(breaker) == 20
