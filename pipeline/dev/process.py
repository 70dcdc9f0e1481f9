"""Run `resmeter` commands as child processes: none outlives its parent, every wait has a deadline.

The demo, the tests and the benchmarks start processes here and nowhere else. A background process
writes its output to a log file; an error about the process ends with the last lines of that log.
"""

import contextlib
import ctypes
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import UnavailableError

_PR_SET_PDEATHSIG = 1
_STOP_SECONDS_MAX = 30.0  # more than worker and sink give themselves
_RUN_SECONDS_MAX = 300.0
_PROBE_SECONDS = 0.1
_TAIL_CHARACTERS = 1_500


class Process:
    """A `resmeter` command, or another module, in the background."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        module: str = "pipeline",
    ) -> None:
        """Start it.

        Args:
            name: how errors call it.
            arguments: of the command.
            env: its whole environment.
            log: the file to which its output is appended.
            module: what runs instead of `resmeter`.
        """
        self.name = name
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop our children in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    # --- waiting ----------------------------------------------------------------------------------

    def find(self, pattern: str, seconds_max: float) -> str:
        """Wait until its log matches a pattern, and return the first group.

        Raises:
            UnavailableError: it ended first, or took too long.
        """
        matches: list[str] = []

        def is_found() -> bool:
            match = re.search(pattern, self.log())
            if match:
                matches.append(match[1])
            return match is not None

        self.wait_until(is_found, seconds_max, f"its log matches {pattern!r}")
        return matches[0]

    def wait_until(
        self,
        is_true: Callable[[], bool],
        seconds_max: float,
        what: str,
        *,
        probe_seconds: float = _PROBE_SECONDS,
    ) -> None:
        """Wait until a condition is true.

        Args:
            is_true: the condition.
            seconds_max: how long to wait.
            what: the condition in words, for the error.
            probe_seconds: the pause between two checks.

        Raises:
            UnavailableError: the process ended first, or it took too long.
        """
        deadline = time.monotonic() + seconds_max
        while not is_true():
            self.check()
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"waited {seconds_max:.0f} s for the {self.name}: {what}; "
                    f"its log ends with:\n{self._tail()}"
                )
            time.sleep(probe_seconds)

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

    def wait(self, seconds_max: float) -> int:
        """Wait until it ends by itself, and return its exit status.

        Raises:
            UnavailableError: it took too long.
        """
        try:
            return self._process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise UnavailableError(
                f"the {self.name} did not end within {seconds_max:.0f} s; "
                f"its log ends with:\n{self._tail()}"
            ) from None

    # --- ending -----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it in order with SIGTERM, and with SIGKILL if that takes too long."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut does."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it in the middle of its work (SIGSTOP) until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def _tail(self) -> str:
        return self.log()[-_TAIL_CHARACTERS:].strip()


@contextlib.contextmanager
def running(
    name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[Process]:
    """Run a `resmeter` command in the background for as long as the context is open."""
    process = Process(name, arguments, env, log)
    try:
        yield process
    finally:
        process.stop()


def run(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    module: str = "pipeline",
    seconds_max: float = _RUN_SECONDS_MAX,
) -> subprocess.CompletedProcess[str]:
    """Run a `resmeter` command, or another module, to its end, whatever its exit status.

    Args:
        arguments: of the command.
        env: its whole environment.
        module: what runs instead of `resmeter`.
        seconds_max: when it is killed.

    Raises:
        UnavailableError: it took too long.
    """
    try:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds_max,
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stderr or ""
        if isinstance(output, bytes):  # the text is not decoded yet when the time is up
            output = output.decode("utf-8", "replace")
        raise UnavailableError(
            f"{_shown(module, arguments)} did not end within {seconds_max:.0f} s; "
            f"it wrote:\n{output[-_TAIL_CHARACTERS:].strip()}"
        ) from error


def run_or_raise(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    module: str = "pipeline",
    seconds_max: float = _RUN_SECONDS_MAX,
) -> str:
    """Run as `run` does, and return what the command printed.

    Raises:
        UnavailableError: it failed or took too long; with what it wrote to standard error.
    """
    done = run(arguments, env, module=module, seconds_max=seconds_max)
    if done.returncode:
        raise UnavailableError(
            f"{_shown(module, arguments)} ended with status {done.returncode}:\n"
            f"{done.stderr.strip()}"
        )
    return done.stdout


def _shown(module: str, arguments: Sequence[str]) -> str:
    return " ".join(("resmeter" if module == "pipeline" else module, *arguments))


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends; Linux only.

    To be called in a child between fork and exec: `preexec_fn`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
