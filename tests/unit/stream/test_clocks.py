"""Timers go by the slowest clock that a worker knows, and records show clocks that it cannot read."""

from pipeline.stream.basis import NO_PROMISE, Promise
from pipeline.stream.clocks import Clocks
from pipeline.stream.fetched import NO_TIMESTAMP

NOW = 1_790_000_000_000


def test_the_slowest_of_the_clocks_counts() -> None:
    assert Clocks().slowest([NOW, NOW - 90_000, NOW + 5], {}) == NOW - 90_000


def test_a_record_beyond_the_end_that_is_older_than_the_clock_shows_a_slow_clock() -> None:
    clocks = Clocks()
    clocks.slowest([NOW], {})
    clocks.reached(0, 7)

    shown = clocks.read(0, 7, NOW - 60_000)

    assert shown == 60_000
    assert clocks.slowest([NOW + 10_000], {}) == NOW - 50_000


def test_a_record_before_the_end_may_be_older_than_the_clock() -> None:
    clocks = Clocks()
    clocks.slowest([NOW], {})
    clocks.reached(0, 8)

    assert clocks.read(0, 7, NOW - 60_000) == 0


def test_each_record_is_compared_with_the_last_end_before_it() -> None:
    clocks = Clocks()
    for seconds, end in ((0, 5), (10, 8), (20, 8), (30, 9)):
        clocks.slowest([NOW + seconds * 1000], {})
        clocks.reached(0, end)

    assert clocks.read(0, 6, NOW - 1) == 1
    assert clocks.read(0, 8, NOW + 20_000 - 500) == 500
    assert clocks.read(0, 8, NOW + 20_000 - 400) == 0  # known already
    assert clocks.read(0, 9, NOW + 31_000) == 0


def test_a_newer_record_shows_that_the_clocks_agree_again() -> None:
    clocks = Clocks()
    clocks.slowest([NOW], {})
    clocks.reached(0, 7)
    clocks.read(0, 7, NOW - 60_000)

    later = NOW + 300_000

    assert clocks.slowest([later], {0: NOW - 60_000}) == later - 60_000
    assert clocks.slowest([later], {0: later - 200}) == later - 200


def test_a_partition_that_another_worker_owns_holds_up_no_timer() -> None:
    clocks = Clocks()
    clocks.slowest([NOW], {})
    clocks.reached(3, 7)
    clocks.read(3, 7, NOW - 60_000)

    clocks.forget(3)

    assert clocks.slowest([NOW], {}) == NOW


def test_what_the_last_owner_has_settled_is_compared_with_the_first_records() -> None:
    clocks = Clocks()

    clocks.start(0, Promise(7, NOW))
    clocks.start(0, NO_PROMISE)

    assert clocks.read(0, 6, NOW - 60_000) == 0
    assert clocks.read(0, 7, NOW - 60_000) == 60_000


def test_a_partition_without_a_promise_and_a_batch_without_records_show_nothing() -> None:
    clocks = Clocks()
    clocks.start(0, NO_PROMISE)

    assert clocks.read(0, 0, 0) == 0
    assert clocks.read(0, 1, NO_TIMESTAMP) == 0
