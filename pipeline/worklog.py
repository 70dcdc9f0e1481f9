"""Say in the log what a process did each minute, and when it becomes ready or stops to be."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import Counter

INTERVAL_SECONDS = 60.0


class WorkLog:
    """Log `worked` each minute: how far each counter has moved, and what else is true now."""

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
    """Log `ready`, and `not_ready` with the reasons, when that changes."""

    def __init__(self, log: Any, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._reasons: list[str] | None = None  # of the line last logged; empty: it was `ready`
        self._since = now()

    def update(self, problems: Sequence[str]) -> None:
        """Take the problems of this moment; none means ready."""
        reasons = sorted(problems)
        was_ready = self._reasons is not None and not self._reasons
        if not reasons and not was_ready:
            self._log.info("ready", after_seconds=round(self._now() - self._since, 1))
        elif reasons and was_ready:
            self._log.warning("not_ready", reasons=reasons)
            self._since = self._now()
        self._reasons = reasons
