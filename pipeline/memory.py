"""This file keeps a process's memory together where its threads would spread it."""

import ctypes
import os
import sys

_M_ARENA_MAX = -8  # glibc: malloc.h
_ARENAS = 2


def limit_arenas() -> None:
    """Let threads share two of glibc's heaps; to be called before threads are started.

    glibc gives each thread a heap of its own, up to eight a core, and each keeps the most that it
    ever held: a sink's threads held six times what one query takes. Elsewhere, and where the
    environment says how many, do nothing.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, _ARENAS)
