"""Keep the calls of an emulator in a file, from which another one gets the same state.

A line of JSON for each call that may change something, and for each setting of the clock. The calls are
answered again, at their times; the answers are the same, because nothing else decides them.
"""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from pipeline.dev.emulator.routes import Call
from pipeline.errors import ConfigurationError, UnavailableError


class Answered(msgspec.Struct, frozen=True, tag=True):
    """A call, and when it was answered."""

    at: float
    call: Call


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """What the emulator was started with."""

    at: float
    customers: list[str]
    event_names: list[str]


class Configured(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A change of a setting, at a time; None leaves one as it is."""

    at: float
    clock_ahead: float | None = None
    lag_seconds: float | None = None
    grace_seconds: int | None = None


Entry = Answered | Prepared | Configured


class History:
    """The file of an emulator; one process writes it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            ConfigurationError: it cannot be opened.
            UnavailableError: another emulator uses it.
        """
        self._path = path
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise ConfigurationError([f"--state {path}: {error.strerror}"]) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UnavailableError(
                f"another emulator uses {path}: stop it, or name another --state"
            ) from error

    def entries(self) -> Iterator[Entry]:
        """Yield what the file has. A last line that is not whole is removed: its call had no answer.

        Raises:
            ConfigurationError: the file has a line of something else.
        """
        self._file.seek(0)
        read = msgspec.json.Decoder(Entry)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(whole)
                break
            whole += len(line)
            try:
                entry = read.decode(line)
            except msgspec.DecodeError as error:
                problem = f"line {number} is not an emulator's ({error})"
                raise ConfigurationError(
                    [f"--state {self._path}: {problem}: delete the file, or name another one"]
                ) from error
            yield entry

    def append(self, entry: Entry) -> None:
        """Write an entry; it is in the file when this returns."""
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
