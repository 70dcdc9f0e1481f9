"""Share a server that is slow to start among the processes of one test run.

pytest-xdist documents this pattern for session fixtures that must run only once: a lock file in the
folder of the test run, and a file with the server's address.
"""

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
    """Yield what `start` yields. Only the first process calls `start`; the others get its result.

    The first process also stops the server, once no other process uses it. A process that comes
    later starts it again.
    """
    folder = folders.getbasetemp()
    # With several processes, each has a folder `popen-…` in the folder of the test run.
    if folder.name.startswith("popen-"):
        folder = folder.parent
    address = folder / f"{name}.address"
    with ExitStack() as mine, (folder / f"{name}.use").open("w") as use:
        with _locked(folder / f"{name}.start"):
            is_mine = not address.exists()
            if is_mine:
                address.write_text(mine.enter_context(start()))
            shared_address = address.read_text()
            fcntl.flock(use, fcntl.LOCK_SH)
        try:
            yield shared_address
        finally:
            if is_mine:
                with _locked(folder / f"{name}.start"):
                    fcntl.flock(use, fcntl.LOCK_EX)  # waits until no process uses it
                    address.unlink()
                    mine.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
