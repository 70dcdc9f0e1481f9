"""Run `limit_arenas` in a process of its own, because a process cannot remove the limit again."""

import platform
import subprocess
import sys

_THREADS = """
import ctypes, threading
from pipeline.memory import limit_arenas
{limit}
threads, met = [], threading.Barrier(6)
def hold():
    taken = [bytearray(1000) for _ in range(1000)]
    met.wait()
for _ in range(6):
    threads.append(threading.Thread(target=hold))
    threads[-1].start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
getattr(libc, "malloc_stats", lambda: None)()
"""


def _arenas(limit: str) -> int:
    code = _THREADS.format(limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return sum(line.startswith("Arena ") for line in done.stderr.splitlines())


def test_six_threads_share_two_arenas() -> None:
    assert _arenas("limit_arenas()") <= 2
    if platform.libc_ver()[0] == "glibc":  # other libraries have no arenas
        assert _arenas("") > 2
