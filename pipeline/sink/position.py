"""Find out whether the ledger is outdated, before anything is delivered from it.

A sink commits to Kafka what its ledger has stored. If the group's committed offset is beyond the
ledger's, or the group has one and the ledger has none, the ledger is an older copy, or another
database. It does not know what was sent since then, and sending that again would bill twice. So all
deliveries of the ledger are held (`pipeline.ledger.holds`), while the intake continues.

This matters only until the ledger follows the journal, which knows what was sent (`journal`): once, at
the upgrade of a deployment that had no journal. The offsets show that a ledger lacks a stored batch.
They do not show that a ledger was copied after the last batch was stored and before its meter events
were sent: the copy has the same offsets.
"""

import threading
import time
from collections.abc import Callable, Mapping

from pipeline.ledger import Ledger, adoption, holds, records
from pipeline.ledger.holds import Hold
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics


class LedgerPosition:
    """Compares the ledger's offsets of one topic with the highest known offsets. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        topic: str,
        group: str,
        metrics: SinkMetrics,
        now: Callable[[], float] = time.time,
        *,
        journal_topic: str,
    ) -> None:
        self._ledger = ledger
        self._journal_topic = journal_topic
        self._topic = topic
        self._group = group
        self._metrics = metrics
        self._now = now
        self._log = get_logger(__name__)
        self._lock = threading.Lock()
        self._reached: dict[int, int] = {}  # partition → the highest known next offset
        self._is_known = False  # whether Kafka has returned the group's offsets
        self._held: list[Hold] = []

    def learn(self, reached: Mapping[int, int], *, committed: bool = False) -> None:
        """Remember offsets that a ledger had reached: the group committed them, or a sink stored them."""
        with self._lock:
            self._is_known |= committed
            for partition, offset in reached.items():
                self._reached[partition] = max(offset, self._reached.get(partition, 0))

    def is_held(self) -> bool:
        """Return whether nothing may be delivered now.

        Raises:
            UnavailableError: the ledger cannot be reached.
        """
        if adoption.position(self._ledger, self._journal_topic) is not None:
            with self._lock:
                self._report([])
                self._held = []
            return False
        with self._lock:
            if not self._is_known:
                return True
            # Copy these before reading the ledger: an offset is in the ledger before it is known here.
            reached = dict(self._reached)
        offsets = records.offsets(self._ledger, self._topic)
        held = holds.place(self._ledger, self._topic, offsets, reached, int(self._now() * 1000))
        with self._lock:
            self._report(held)
            self._held = held
        return bool(held)

    def problem(self) -> str | None:
        """Return why deliveries are held, or None; any thread may call it."""
        with self._lock:
            return self._message(self._held) if self._held else None

    def may_commit(self) -> bool:
        """Return whether the sink may commit the ledger's offsets for the group.

        Not during a hold: the group's offsets show that this ledger is outdated.
        """
        with self._lock:
            return not self._held

    def _report(self, held: list[Hold]) -> None:
        self._metrics.held.set(1 if held else 0)
        if held and not self._held:
            self._log.error("deliveries_held", detail=self._message(held))
        elif self._held and not held:
            # An operator has resumed deliveries, so earlier offsets no longer count.
            self._reached.clear()
            self._log.info("deliveries_resumed", ledger=self._ledger.redacted_url)

    def _message(self, held: list[Hold]) -> str:
        behind = [hold for hold in held if hold.is_behind] or held
        first, more = behind[0], len(behind) - 1
        has = (
            "has no usage records"
            if first.ledger_offset is None
            else f"has {first.topic}[{first.partition}] up to offset {first.ledger_offset}"
        )
        others = f", and {more} more partitions" if more else ""
        return (
            f"the ledger {self._ledger.redacted_url} {has}, but the sinks of {self._group} have stored "
            f"{first.topic}[{first.partition}] up to {first.reached_offset}{others}: it is an older copy or "
            "another ledger, and does not know what was delivered since. Nothing is delivered. If another "
            "ledger is the right one, point RESMETER_LEDGER__URL to it; otherwise run `resmeter ledger resume`"
        )
