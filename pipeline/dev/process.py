"""Run `resmeter` commands as child processes, with a deadline for every wait.

The demo, the benchmarks and most tests start `resmeter` with this module. On Linux, a child process
ends with its parent. A background process writes its output to a log file, and an error about the
process shows the last lines of that log.
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
_STOP_SECONDS_MAX = 30.0  # longer than the shutdown deadlines of worker and sink
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
        """Start the process.

        Args:
            name: the name of the process in errors.
            arguments: the arguments of the command.
            env: the whole environment of the process.
            log: the file to which the output is appended.
            module: the Python module to run; the default is `resmeter`.
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
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its children
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._process.poll()

    # --- waiting ----------------------------------------------------------------------------------

    def find(self, pattern: str, seconds_max: float) -> str:
        """Wait until the log matches a pattern, and return the first group.

        Raises:
            UnavailableError: the process ended first, or the wait took too long.
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
            UnavailableError: the process ended first, or the wait took too long.
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
        """Check that the process still runs.

        Raises:
            UnavailableError: the process has ended.
        """
        status = self._process.poll()
        if status is not None:
            raise UnavailableError(
                f"the {self.name} ended with status {status}; its log ends with:\n{self._tail()}"
            )

    def wait(self, seconds_max: float) -> int:
        """Wait until the process ends by itself, and return its exit status.

        Raises:
            UnavailableError: the wait took too long.
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
        """Stop the process with SIGTERM, and kill it if that takes too long."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the process with SIGKILL; it cannot clean up."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Suspend the process with SIGSTOP until `resume`."""
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
    """Run a `resmeter` command, or another module, to its end; the caller checks the exit status.

    Args:
        arguments: the arguments of the command.
        env: the whole environment of the command.
        module: the Python module to run; the default is `resmeter`.
        seconds_max: a command that runs longer is killed.

    Raises:
        UnavailableError: the command took too long.
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
        if isinstance(output, bytes):  # at a timeout, subprocess has not decoded the text yet
            output = output.decode("utf-8", "replace")
        raise UnavailableError(
            f"{_command_line(module, arguments)} did not end within {seconds_max:.0f} s; "
            f"it wrote:\n{output[-_TAIL_CHARACTERS:].strip()}"
        ) from error


def run_or_raise(
    arguments: Sequence[str],
    env: Mapping[str, str],
    *,
    module: str = "pipeline",
    seconds_max: float = _RUN_SECONDS_MAX,
) -> str:
    """Run a command like `run`, and return its standard output.

    Raises:
        UnavailableError: the command failed or took too long; the message has its standard error.
    """
    completed = run(arguments, env, module=module, seconds_max=seconds_max)
    if completed.returncode:
        raise UnavailableError(
            f"{_command_line(module, arguments)} ended with status {completed.returncode}:\n"
            f"{completed.stderr.strip()}"
        )
    return completed.stdout


def _command_line(module: str, arguments: Sequence[str]) -> str:
    return " ".join(("resmeter" if module == "pipeline" else module, *arguments))


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends; on Linux only.

    Pass this function as `preexec_fn`, so that it runs in the child between fork and exec.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
