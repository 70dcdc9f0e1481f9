"""This file runs `resmeter` commands as child processes: each logs to a file, none outlives us."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import UnavailableError

_PR_SET_PDEATHSIG = 1
_STOP_SECONDS_MAX = 30.0  # more than worker and sink give themselves
_LOOK_SECONDS = 0.1
_TAIL_CHARACTERS = 1_500


class Process:
    """One `resmeter` command in the background, or another module's."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        env: Mapping[str, str],
        log: Path,
        module: str = "pipeline",
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for us: we end them in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )

    def find(self, pattern: str, seconds_max: float) -> str:
        """Wait until a line of its log matches, and return the first group.

        Raises:
            UnavailableError: it ended, or took too long; with the end of its log.
        """
        found: list[str] = []

        def matches() -> bool:
            match = re.search(pattern, self.log())
            if match:
                found.append(match[1])
            return match is not None

        self.wait_until(matches, seconds_max, f"line {pattern!r} in its log")
        return found[0]

    def wait_until(self, holds: Callable[[], bool], seconds_max: float, what: str) -> None:
        """Wait until a condition holds, looking ten times a second.

        Raises:
            UnavailableError: the process ended, or it took too long.
        """
        deadline = time.monotonic() + seconds_max
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"the {self.name} did not come to this within {seconds_max:.0f} s: {what}; "
                    f"its log ends with:\n{self._tail()}"
                )
            time.sleep(_LOOK_SECONDS)

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            UnavailableError: it has ended.
        """
        status = self._process.poll()
        if status is not None:
            raise UnavailableError(
                f"the {self.name} ended with status {status}; its log ends with:\n{self._tail()}"
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it as a power cut does."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds_max: float) -> int:
        """Wait until it ends by itself; return its exit status."""
        return self._process.wait(seconds_max)

    def stop(self) -> None:
        """End it: in order by SIGTERM, by force if that takes too long."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def _tail(self) -> str:
        return self.log()[-_TAIL_CHARACTERS:].strip()


def run(arguments: list[str], env: Mapping[str, str]) -> None:
    """Run a `resmeter` command to its end.

    Raises:
        UnavailableError: it failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"resmeter {' '.join(arguments)} failed:\n{done.stderr.strip()}")


def die_with_parent() -> None:
    """Run in a child before its program: that it ends with us."""
    # On Linux the kernel ends a child when we are gone, however that came.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
