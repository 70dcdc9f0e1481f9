"""Limit glibc to two malloc arenas, so that threads do not spread a process's memory."""

import ctypes
import os
import sys

_M_ARENA_MAX = -8  # glibc: malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two malloc arenas; to be called before threads are started.

    glibc gives each thread an arena of its own, up to eight a core, and an arena keeps the most
    that it ever held: a sink's threads held six times what one query takes. Without glibc, or if
    `MALLOC_ARENA_MAX` is set, do nothing.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, _ARENAS)
