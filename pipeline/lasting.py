"""Let a lasting fault into the log once, and then at growing intervals with a count.

While a broker is away, its clients log each attempt to connect: thousands of lines a minute that say
the same. A fault is known by its logger and its text without numbers.
"""

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

# Clients of Kafka. What they log as an error is one attempt of many, so nobody must act on it.
LIBRARIES = ("aiokafka", "faust", "mode", "librdkafka")
# Our own log events that repeat for as long as a fault lasts.
LASTING_EVENTS = ("kafka_unreachable", "delivery_retried")
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 3600.0
FAULTS_MAX = 500  # known at once; the oldest is forgotten, and logged again as a new one

_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f]*", re.IGNORECASE)


class _Fault(msgspec.Struct):
    logged_at: float
    seen_at: float
    interval_seconds: float
    held_back: int = 0


class Faults:
    """The faults that last, and when each was logged. Any thread may use it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Fault] = OrderedDict()

    def note(self, fault: str) -> int | None:
        """Note a fault; return how often it came since it was logged last, or None: do not log it.

        The first time it is 1. A fault that was absent for a whole interval is a new one.
        """
        now = self._now()
        with self._lock:
            known = self._known.get(fault)
            if known is None or now - known.seen_at > known.interval_seconds:
                self._known[fault] = _Fault(now, now, FIRST_SECONDS)
                self._known.move_to_end(fault)
                if len(self._known) > FAULTS_MAX:
                    self._known.popitem(last=False)
                return 1
            known.seen_at = now
            known.held_back += 1
            if now - known.logged_at < known.interval_seconds:
                return None
            times, known.held_back, known.logged_at = known.held_back, 0, now
            known.interval_seconds = min(known.interval_seconds * 2, LONGEST_SECONDS)
            return times


class LastingFaults(logging.Filter):
    """Hold back the lines of faults that last, and put `times` into those that pass."""

    def __init__(self, faults: Faults | None = None) -> None:
        super().__init__()
        self._faults = faults or Faults()

    def filter(self, record: logging.LogRecord) -> bool:
        fault = _fault_of(record)
        if fault is None:
            return True
        times = self._faults.note(fault)
        if times is None:
            return False
        if times > 1:
            if isinstance(record.msg, dict):  # of structlog
                record.msg["times"] = times
            else:
                record.times = times
        return True


def is_of_library(name: str) -> bool:
    """Return whether a logger is one of a Kafka client."""
    return name.split(".", 1)[0] in LIBRARIES


def _fault_of(record: logging.LogRecord) -> str | None:
    if isinstance(record.msg, dict):
        event = str(record.msg.get("event"))
        return f"{record.name} {event}" if event in LASTING_EVENTS else None
    if record.levelno < logging.WARNING or not is_of_library(record.name):
        return None
    return f"{record.name} {_NUMBER.sub('#', record.getMessage())}"
