"""This file lets the processes of one test run share a server that is slow to start."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO

import pytest


@contextlib.contextmanager
def shared(
    folders: pytest.TempPathFactory, name: str, start: Callable[[], AbstractContextManager[str]]
) -> Iterator[str]:
    """Yield what `start` yields, started by the first process that asks.

    The process that started it ends it, once no other uses it; who asks later starts anew.
    """
    folder = folders.getbasetemp()
    if folder.name.startswith("popen-"):  # one of several processes: the run's own folder is above
        folder = folder.parent
    address = folder / f"{name}.address"
    with ExitStack() as mine, (folder / f"{name}.use").open("w") as use:
        with _locked(folder / f"{name}.start"):
            is_mine = not address.exists()
            if is_mine:
                address.write_text(mine.enter_context(start()))
            said = address.read_text()
            fcntl.flock(use, fcntl.LOCK_SH)
        try:
            yield said
        finally:
            if is_mine:
                with _locked(folder / f"{name}.start"):
                    fcntl.flock(use, fcntl.LOCK_EX)  # waits for those that still use it
                    address.unlink()
                    mine.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
