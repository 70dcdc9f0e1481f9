"""This file reads lines from the paths that a user would expect to work."""

import gzip
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import zstandard

from pipeline.errors import UnavailableError

_LINE_BYTES_MAX = 16 * 1024 * 1024


def size_of(paths: tuple[str, ...]) -> int | None:
    """Return the bytes of all files together, or None where one is standard input or packed."""
    total = 0
    for path in paths:
        if path == "-" or path.endswith((".gz", ".zst")) or not Path(path).is_file():
            return None
        total += Path(path).stat().st_size
    return total


def read_lines(paths: tuple[str, ...]) -> Iterator[tuple[str, int, bytes]]:
    """Yield (path, line number from 1, line without its end) of each line that is not blank.

    `-` is standard input; `.gz` and `.zst` files are unpacked.

    Raises:
        UnavailableError: a file cannot be read; the message names it.
    """
    for path in paths:
        number = 0
        try:
            with _opened(path) as stream:
                while line := stream.readline(_LINE_BYTES_MAX):
                    number += 1
                    stripped = line.strip()
                    if stripped:
                        yield path, number, stripped
        except (OSError, EOFError, zstandard.ZstdError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnavailableError(f"{path}: cannot be read: {reason}") from error


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as unpacked:
            yield io.BufferedReader(unpacked)
    elif path.endswith(".zst"):
        with Path(path).open("rb") as packed:
            yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(packed))
    else:
        with Path(path).open("rb") as plain:
            yield plain
