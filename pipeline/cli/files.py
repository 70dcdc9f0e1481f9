"""Read lines from plain files, .gz and .zst files, and standard input."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from pipeline.errors import UnavailableError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors and spreadsheets begin a file with it
_LINE_BYTES_MAX = 16 * 1024 * 1024
# How much of a packed file to read at a time: one byte may unpack to 30,000 bytes in memory.
_CHUNK_BYTES = 4 * 1024


def read_lines(paths: tuple[str, ...]) -> Iterator[tuple[str, int, bytes]]:
    """Yield (path, line number from 1, line without its end) of each line that is not blank.

    `-` is standard input; `.gz` and `.zst` files are unpacked. A byte order mark is left out.

    Raises:
        UnavailableError: a file cannot be read; the message names it.
    """
    for path in paths:
        number = 0
        try:
            with _opened(path) as stream:
                while line := stream.readline(_LINE_BYTES_MAX):
                    number += 1
                    # Also within a file: `cat` puts several together.
                    stripped = line.removeprefix(_BYTE_ORDER_MARK).strip()
                    if stripped:
                        yield path, number, stripped
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
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
            yield io.BufferedReader(_Unpacked(packed))
    else:
        with Path(path).open("rb") as plain:
            yield plain


class _Unpacked(io.RawIOBase):
    """An unpacked .zst file. Unlike the library's reader, it detects a truncated file."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._left = memoryview(b"")
        self._is_within = False  # a frame has begun and not ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._is_within = False
            chunk = chunk or self._packed.read(_CHUNK_BYTES)
            if not chunk:
                if self._is_within:
                    raise EOFError("the file is truncated: its last frame does not end")
                return 0
            self._is_within = True
            # A view: taking bytes off its front copies nothing.
            self._left = memoryview(self._frame.decompress(chunk))
            self._is_within = not self._frame.eof
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
