"""Limit glibc to two malloc arenas, so that a process with many threads uses less memory."""

import ctypes
import os
import sys

_M_ARENA_MAX = -8  # glibc: malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two malloc arenas. Call this before threads are started.

    By default, glibc gives each thread an arena of its own, up to eight for each core, and an arena
    seldom returns memory: each thread of a sink would keep what its largest query took. Without
    glibc, or if `MALLOC_ARENA_MAX` is set, do nothing.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has no mallopt
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, _ARENAS)
