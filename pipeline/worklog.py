"""Log what a process did each minute, and when it becomes ready or not ready."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import Counter

INTERVAL_SECONDS = 60.0


class WorkLog:
    """Logs `worked` each minute: the increase of each counter, and the current facts."""

    def __init__(
        self,
        log: Any,
        counters: Mapping[str, Counter],
        facts: Callable[[], Mapping[str, object]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._counters = counters
        self._facts = facts
        self._now = now
        self._totals = self._read()
        self._logged_at = now()

    def tick(self) -> None:
        """Log a line if a minute has passed."""
        if self._now() - self._logged_at >= INTERVAL_SECONDS:
            self.say()

    def say(self) -> None:
        """Log what was done since the last line."""
        totals, now = self._read(), self._now()
        moved = {name: round(total - self._totals[name]) for name, total in totals.items()}
        seconds = round(now - self._logged_at)
        self._totals, self._logged_at = totals, now
        self._log.info("worked", seconds=seconds, **moved, **self._facts())

    def _read(self) -> dict[str, float]:
        return {
            name: sum(
                sample.value
                for metric in counter.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
            )
            for name, counter in self._counters.items()
        }


class ReadinessLog:
    """Logs `ready`, and later `not_ready` with the reasons, each time that this changes."""

    def __init__(self, log: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._reasons: list[str] | None = None  # at the last update; empty: ready
        self._since = now()

    def update(self, problems: Sequence[str]) -> None:
        """Log a line if readiness has changed. `problems` are the current ones; none means ready."""
        reasons = sorted(problems)
        was_ready = self._reasons is not None and not self._reasons
        if not reasons and not was_ready:
            self._log.info("ready", after_seconds=round(self._now() - self._since, 1))
        elif reasons and was_ready:
            self._log.warning("not_ready", reasons=reasons)
            self._since = self._now()
        self._reasons = reasons
