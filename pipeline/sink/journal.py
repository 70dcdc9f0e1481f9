"""Write the journal, and follow it: a meter event is called only when its plan was read back.

The steps of a flush, and what a crash after each step leads to:

1. Entries are appended: plans, conclusions, decisions. After a crash here, nothing was sent. The next
   run finds the plans in the journal, and sends what they say.
2. The journal is read to its end, and applied to the ledger. A plan that comes after another one of
   the same usage records is void, for every ledger. After a crash here, the next run takes over.
3. The dispatcher makes its calls.

So it does not matter what happens to the ledger: another one that follows the journal knows every meter
event that was sent, and sends the same bytes or nothing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.kafka.single import LogRecord
from pipeline.ledger import Ledger, adoption, holds, months, outbox, records
from pipeline.ledger.entries import PlannedEvent
from pipeline.ledger.journal import (
    Conclusion,
    Entry,
    Item,
    Placed,
    Plan,
    Renewal,
    Takeover,
    Verdict,
    Withdrawal,
    plan_of,
    planned_units,
)
from pipeline.ledger.journal_encoding import (
    NewerFormatError,
    decode_entry,
    encode_entry,
    encode_items,
)
from pipeline.ledger.leases import CLOCKS_DIFFER_MS_MAX
from pipeline.ledger.month_entries import MonthItem
from pipeline.ledger.stating import Stating
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics

BUFFERED_RECORDS_MAX = 100_000  # usage records in plans that are not written yet
_ITEMS_MAX = 5_000
# A meter event that another run planned may be called by its run for this long; then by any.
PATIENCE_MS = 60_000
RENEW_MS = 6 * 3_600_000


class Log(Protocol):
    """The journal's topic: an append-only log with one partition."""

    def topic_id(self) -> str: ...

    def bounds(self) -> tuple[int, int]: ...

    def append(self, values: Sequence[bytes]) -> None: ...

    def read(self, start: int, end: int) -> Iterator[list[LogRecord]]: ...


class Journal:
    """The journal as one run of a sink writes and follows it. One thread at a time may use it.

    Raises:
        UnavailableError: from each method, if Kafka or the ledger cannot be reached.
        ConfigurationError: from each method, if the journal is not the one that the ledger knows.
        BrokenInvariantError: from each method, if the journal cannot be understood.
    """

    def __init__(
        self,
        ledger: Ledger,
        log: Log,
        topic: str,
        run: str,
        metrics: SinkMetrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.run = run
        self.ledger = ledger
        self.topic = topic
        self._log_topic = log
        self._metrics = metrics
        self._now = now
        self._logger = get_logger(__name__)
        self._stating = Stating(ledger)
        self._buffer: list[Item] = []
        self._buffered_records = 0
        self._is_first_flush = True
        self._topic_id = ""
        self._concluded: list[str] = []
        self.problem: str | None = None  # why it could not be reached at the last flush
        self.clock_problem: str | None = None  # why nothing may be sent by this clock
        self._written_at = 0  # when our newest entry was appended, by the broker's clock, ms

    # --- the beginning ----------------------------------------------------------------------------

    def is_followed(self) -> bool:
        """Return whether the ledger follows the journal already."""
        return adoption.position(self.ledger, self.topic) is not None

    def open(self) -> None:
        """Check that the journal goes on where the ledger is; let a ledger that is new follow it.

        If the journal has no entry, a ledger follows it only after `begin`: it may be an older copy.
        """
        self._checked_bounds()
        if not self.is_followed() and self._is_begun():
            self.begin()
            holds.answer(
                self.ledger,
                "adopted",
                who="resmeter",
                reason="the journal says what was sent",
                now_ms=self._now_ms(),
            )
        if self.is_followed():
            self.follow()

    def begin(self) -> None:
        """Let the ledger follow the journal from its beginning; one without entries gets the first.

        From then on, no ledger that finds the journal has to ask who sent what before.
        """
        adoption.begin(self.ledger, self.topic)
        if not self._is_begun():
            self._log_topic.append([encode_entry(Entry(run=self.run, items=()))])

    def _is_begun(self) -> bool:
        """Return whether the journal has an entry; what others wrote does not say what was sent."""
        batches = self._log_topic.read(*self._log_topic.bounds())
        return any(self._entry_of(record) is not None for batch in batches for record in batch)

    def _checked_bounds(self) -> tuple[int, int]:
        """Return the journal's bounds.

        Raises:
            ConfigurationError: the journal is another one than the ledger's, or parts are deleted.
        """
        if not self._topic_id:  # a broker may not have said it before
            self._topic_id = self._log_topic.topic_id()
        if self._topic_id and not records.is_same_topic(self.ledger, self.topic, self._topic_id):
            raise ConfigurationError(
                [
                    (
                        f"{self.topic} was made again, and the ledger {self.ledger.redacted_url} follows the "
                        "one before: what was sent to Stripe is known to the ledger alone. Restore the topic "
                        "from its backup. If this one is a copy of it, or it is lost and this is the newest "
                        "ledger, run `resmeter ledger follow`"
                    )
                ]
            )
        first, end = self._log_topic.bounds()
        position = adoption.position(self.ledger, self.topic)
        if first > (position or 0):
            raise ConfigurationError(
                [
                    (
                        f"the ledger {self.ledger.redacted_url} has {self.topic} up to offset {position or 0}, "
                        f"and Kafka has deleted what is before {first}: restore a newer backup of the ledger, "
                        "and set the topic's retention.ms and retention.bytes to -1"
                    )
                ]
            )
        if position is not None and position > end:
            raise ConfigurationError(
                [
                    (
                        f"the ledger {self.ledger.redacted_url} has {self.topic} up to offset {position}, but it "
                        f"ends at {end}: Kafka has lost the end of the journal. Restore the topic from its "
                        "newest backup, or the ledger that belongs to this Kafka"
                    )
                ]
            )
        return first, end

    # --- following --------------------------------------------------------------------------------

    def follow(self) -> list[Verdict]:
        """Apply what is new in the journal, up to its present end; return the verdicts on it."""
        verdicts: list[Verdict] = []
        while True:
            _, end = self._checked_bounds()
            start = position = adoption.position(self.ledger, self.topic)
            if (position or 0) >= end:
                return verdicts
            for batch in self._log_topic.read(position or 0, end):
                placed = [self._placed(record) for record in batch]
                applied = adoption.apply(self.ledger, self.topic, placed, position, self._now_ms())
                if applied is None:
                    break  # another sink was faster, or the database has lost commits: look again
                position = applied.next_offset
                self._report(applied.verdicts)
                verdicts += applied.verdicts
            else:
                if position == start:
                    return verdicts  # the last offsets have no record

    def take_concluded(self) -> list[str]:
        """Return the meter events with a conclusion in the journal, as read since the last call."""
        concluded, self._concluded = self._concluded, []
        return concluded

    def _entry_of(self, record: LogRecord) -> Entry | None:
        try:
            return decode_entry(record.value)
        except NewerFormatError as error:
            raise BrokenInvariantError(
                f"{self.topic}[0] at offset {record.offset} cannot be read: {error}. Run the newer resmeter"
            ) from error

    def _placed(self, record: LogRecord) -> Placed:
        entry = self._entry_of(record)
        if entry is not None and entry.run == self.run:
            self._written_at = record.at
        if entry is None:
            self._metrics.journal_foreign.inc()
            self._logger.error(
                "journal_entry_unreadable",
                topic=self.topic,
                offset=record.offset,
                consequence="it is ignored, by every sink",
                todo="find out who writes to the topic",
            )
        return Placed(record.offset, record.at, entry)

    def _report(self, verdicts: Sequence[Verdict]) -> None:
        adopted, units = planned_units(verdicts, self.run)
        if adopted:
            self._metrics.journal_adopted.inc(adopted)
            self._logger.info("meter_events_adopted", events=adopted, units=units)
        for run, item, why in verdicts:
            if isinstance(item, Conclusion):
                self._concluded.append(item.identifier)
            if run == self.run and why is not None:
                if isinstance(item, Plan):
                    self._metrics.journal_void.inc()
                self._logger.warning(
                    "journal_entry_void", kind=type(item).__name__.lower(), why=why
                )

    def state_pending(self, account_of: Callable[[str, int], str]) -> None:
        """Take off pending what is on a final statement, as the closings that were read say."""
        if records := self._stating.step(account_of):
            self._logger.info("usage_stated", records=records)

    # --- writing ----------------------------------------------------------------------------------

    def add_unjournalled(self) -> None:
        """Add what the ledger knows and the journal does not; a first time may write much."""
        while True:
            items = outbox.unjournalled_items(self.ledger, _ITEMS_MAX)
            self._add(items)
            if len(items) < _ITEMS_MAX and not any(isinstance(item, Plan) for item in items):
                return
            self.commit()

    def plan(self, planned: Iterable[PlannedEvent]) -> bool:
        """Add meter events with their usage records; the journal decides later whether they count."""
        self._add(plan_of(item.event, (record.id for record in item.records)) for item in planned)
        if self._buffered_records >= BUFFERED_RECORDS_MAX:
            self.commit()
        return True

    def withdraw(self, chosen: Sequence[Withdrawal]) -> None:
        """Write that the biller is asked to cancel meter events, and read it back."""
        if chosen:
            self._add(chosen)
            self.commit()

    def commit(self) -> list[Verdict]:
        """Write what was added, and read it back. Compare our clock with the broker's on the way."""
        if not self._buffer and self.clock_problem is None:
            return []
        items, self._buffer, self._buffered_records = self._buffer, [], 0
        before_ms = self._now_ms()
        empty = [encode_entry(Entry(run=self.run, items=()))]  # only the clocks are compared
        self._log_topic.append(encode_items(self.run, items) or empty)
        after_ms = self._now_ms()
        verdicts = self.follow()
        if self._written_at:
            self._compare_clocks(before_ms, after_ms)
        return verdicts

    def write(self, items: Sequence[MonthItem]) -> list[Verdict]:
        """Write items about accounts, read them back, and return the verdict on each."""
        self._add(items)
        verdicts = self.commit()
        return [self._verdict_on(item, verdicts) for item in items]

    def _verdict_on(self, item: MonthItem, verdicts: Iterable[Verdict]) -> Verdict:
        for verdict in verdicts:
            if verdict.run == self.run and verdict.item == item:
                return verdict
        # Another process has applied the entry to this ledger.
        why = None if months.has_entered(self.ledger, item) else "another entry came before"
        return Verdict(self.run, item, why)

    def _compare_clocks(self, before_ms: int, after_ms: int) -> None:
        """Compare our clock with the broker's, which appended our entry between two of our times.

        How old a call is, so that Stripe may have forgotten it, is known by both clocks together.
        """
        at = self._written_at
        ahead_ms = min(after_ms - at, 0) or max(before_ms - at, 0)
        self._metrics.clock_offset.set(ahead_ms / 1000)
        problem = None
        if abs(ahead_ms) > CLOCKS_DIFFER_MS_MAX:
            side = "ahead of" if ahead_ms > 0 else "behind"
            problem = (
                f"the clock of this sink is {abs(ahead_ms) // 60_000} minutes {side} the clock of the "
                f"broker that leads {self.topic}: nothing is sent, because nobody knows what Stripe may "
                "have forgotten. Correct the clock; the sink continues by itself"
            )
            if self.clock_problem is None:
                self._logger.error("sink_clock_wrong", detail=problem)
        self.clock_problem = problem

    def discard(self) -> None:
        """Forget what was added and not written."""
        self._buffer, self._buffered_records = [], 0

    def _add(self, items: Iterable[Item]) -> None:
        for item in items:
            self._buffer.append(item)
            if isinstance(item, Plan):
                self._buffered_records += len(item.records)

    # --- vouching ---------------------------------------------------------------------------------

    def add_takeovers(self) -> None:
        """Take over open meter events of runs that do not call them, or have ended.

        A run that has just started takes over all of them: nobody else may be left to call them.
        """
        now_ms = self._now_ms()
        before = now_ms if self._is_first_flush else now_ms - PATIENCE_MS
        if others := outbox.not_ours(self.ledger, self.run, before, _ITEMS_MAX):
            self._add([Takeover(tuple(others))])
        self._is_first_flush = self._is_first_flush and len(others) == _ITEMS_MAX

    def add_renewals(self, doubtful: Iterable[str]) -> None:
        """Vouch again for open meter events of which no call counted."""
        self._renew(RENEW_MS, doubtful, is_final=False)

    def hand_over(self, doubtful: Iterable[str]) -> None:
        """Write the last conclusions, and vouch for the last time: this run makes no further call."""
        if not self.is_followed():
            return
        self.add_unjournalled()
        self._renew(0, doubtful, is_final=True)
        self.commit()

    def _renew(self, age_ms: int, doubtful: Iterable[str], *, is_final: bool) -> None:
        now_ms = self._now_ms()
        names = outbox.renewable(
            self.ledger, self.run, now_ms - age_ms, _ITEMS_MAX, doubtful=set(doubtful)
        )
        if names:
            self._add([Renewal(tuple(names), now_ms, is_final)])

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
