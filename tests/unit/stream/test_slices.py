"""Work that takes long lets the event loop run others, and its errors are not lost."""

import asyncio
from collections.abc import Generator
from itertools import count

import pytest

from pipeline.stream.slices import Slices


def _ignore(error: BaseException) -> None:
    raise AssertionError("nothing fails here") from error


def _work(steps: int, log: list[str], result: str = "done") -> Generator[None, None, str]:
    for n in range(steps):
        log.append(f"step {n}")
        yield
    return result


def test_short_work_is_done_at_once() -> None:
    slices, log = Slices(lambda: 0.0, _ignore), list[str]()

    slices.start(_work(1_000, log), log.append)

    assert log[-1] == "done"
    assert not slices.is_running


def test_long_work_lets_others_run_between_its_steps() -> None:
    log: list[str] = []

    async def other() -> None:
        for n in range(2):
            log.append(f"other {n}")
            await asyncio.sleep(0)

    async def run() -> None:
        slices = Slices(count().__next__, _ignore)
        others = asyncio.ensure_future(other())
        slices.start(_work(3, log), log.append)
        assert slices.is_running
        await slices.wait()
        await others

    asyncio.run(run())

    assert log == ["step 0", "other 0", "other 1", "step 1", "step 2", "done"]


def test_an_error_of_the_first_slice_is_raised() -> None:
    def broken() -> Generator[None, None, str]:
        yield from ()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        Slices(lambda: 0.0, _ignore).start(broken(), print)


def test_an_error_of_a_later_slice_is_told_and_ends_the_wait() -> None:
    errors: list[BaseException] = []

    def broken() -> Generator[None, None, str]:
        yield
        yield
        raise ValueError("later")

    async def run() -> None:
        slices = Slices(count().__next__, errors.append)
        slices.start(broken(), print)
        await slices.wait()
        assert not slices.is_running

    asyncio.run(run())

    assert [str(error) for error in errors] == ["later"]
