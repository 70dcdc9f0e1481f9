"""When an account's periods were closed, and what each close knew and waived. Pure.

A closing has the offsets up to which its ledger had read the usage records. Where these begin again,
because the topic was made again or a partition lost its end, offsets mean other records: a *restart*.
A closing knows the records from before the last restart before it, and none from after the next.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from pipeline.billing.approvals import Decisions, adjustment_id
from pipeline.billing.contract import Contract
from pipeline.billing.periods import ALWAYS_MS, NEVER_MS, Period
from pipeline.billing.statement import Adjustment


class Closed(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A closed period, as the ledger has it; see `month_entries.Closing`."""

    period_start: int
    period_end: int
    closed_at: int
    seq: int  # in the order of the journal
    topic: str
    topic_id: str
    customer: str
    offsets: Mapping[int, int]
    grants: int
    statement: str
    waived: tuple[int, ...] | None  # None: it is closed now, and persons' decisions say


class Restart(NamedTuple):
    """Where the offsets of all partitions, or of one, begin again."""

    partition: int | None
    topic_id: str | None  # of the topic from then on; None: the same
    before_id: str | None
    after_record: int  # the last usage record of the ledger before
    after_closing: int


class Position(NamedTuple):
    """A place in a partition: how often its offsets began again before, and the offset."""

    restarts: int
    offset: int


_NOWHERE = Position(-1, 0)


class Reading:
    """How far a ledger has read the usage records, now and at each closing."""

    def __init__(
        self,
        topic_ids: Mapping[str, str],
        offsets: Mapping[str, Mapping[int, int]],
        restarts: Sequence[Restart],
    ) -> None:
        """The ids that are known of topics, and the next offsets of their partitions."""
        self._topic_ids = topic_ids
        self._offsets = offsets
        self._restarts = restarts

    def topic_id(self, topic: str) -> str:
        return self._topic_ids.get(topic, "")

    def next_offsets(self, topic: str) -> Mapping[int, int]:
        return self._offsets.get(topic, {})

    def of_record(self, partition: int, seq: int, offset: int) -> Position:
        """Return the position of a stored record."""
        if not self._restarts:
            return Position(0, offset)
        return Position(sum(each.after_record < seq for each in self._of(partition)), offset)

    def of_closing(self, closed: Closed, partition: int) -> Position:
        """Return up to which position of a partition a closing knew the records."""
        number = self._restarts_before(closed, self._of(partition))
        return _NOWHERE if number is None else Position(number, closed.offsets.get(partition, 0))

    def is_behind(self, closed: Closed) -> bool:
        """Return whether a closing knew records that the ledger has not read, and still may."""
        for partition in closed.offsets:
            known = self.of_closing(closed, partition)
            offset = self.next_offsets(closed.topic).get(partition, 0)
            now = Position(len(self._of(partition)), offset)
            if known == _NOWHERE or known > now:
                return True
        return False

    def _of(self, partition: int) -> list[Restart]:
        return [each for each in self._restarts if each.partition in {None, partition}]

    def _restarts_before(self, closed: Closed, restarts: Sequence[Restart]) -> int | None:
        """Return how many restarts are before a closing; None: it is of a topic unknown here.

        The id of the topic says it, however late this ledger noticed; among equal ids, the order.
        """
        topics = [(n, each) for n, each in enumerate(restarts, 1) if each.topic_id is not None]
        first = (topics[0][1].before_id if topics else self.topic_id(closed.topic)) or ""
        begins = [0, *(n for n, _ in topics)]
        ids = [first, *(each.topic_id for _, each in topics)]
        by_order = sum(each.after_closing < closed.seq for each in restarts)
        if not closed.topic_id or "" in ids:
            return by_order
        if closed.topic_id not in ids:
            return None
        at = ids.index(closed.topic_id)
        ends = [*begins[1:], len(restarts) + 1]
        return min(max(by_order, begins[at]), ends[at] - 1)


class Knowledge:
    """Which of the closings of an account, in order, knew a usage record."""

    def __init__(self, closings: Sequence[Closed], reading: Reading) -> None:
        self.closings = sorted(closings)
        self.reading = reading
        self._known: dict[int, list[Position]] = {}

    def first_knowing(self, partition: int, seq: int, offset: int) -> int:
        """Return the number of the first closing that knew a record; all after it knew it too."""
        if (known := self._known.get(partition)) is None:
            each_knew = (self.reading.of_closing(each, partition) for each in self.closings)
            known = self._known[partition] = list(accumulate(each_knew, max))
        return bisect_right(known, self.reading.of_record(partition, seq, offset))


class Closes(Knowledge):
    """When the periods of an account were closed, and what each close knew."""

    def __init__(
        self,
        account: str,
        contract: Contract,
        closings: Sequence[Closed],
        reading: Reading,
        decisions: Decisions,
    ) -> None:
        super().__init__(closings, reading)
        self.decisions = decisions
        self._account = account
        self._contract = contract
        self._by_start = {each.period_start: each for each in closings}
        self._times = [each.closed_at for each in self.closings]

    @property
    def following(self) -> Period | None:
        """The period after the last that is closed; None if none is closed."""
        calendar = self._contract.calendar
        last = self.closings[-1] if self.closings else None
        return None if last is None else calendar.after(calendar.period_at(last.period_start))

    def of(self, period: Period) -> Closed | None:
        return self._by_start.get(period.start_ms)

    def close_of(self, period: Period) -> int:
        if (found := self.of(period)) is not None:
            return found.closed_at
        # What is before the first closed period was closed with it: it had nothing to state.
        first = self.closings[0] if self.closings else None
        return first.closed_at if first and period.start_ms < first.period_start else NEVER_MS

    def oldest_open_at(self, ms: int) -> int:
        closed = bisect_right(self._times, ms)
        if not closed:
            return ALWAYS_MS
        last = self.closings[closed - 1]
        return self._contract.calendar.period_at(last.period_start).end_ms

    def waives(self, period: Period, adjustment: Adjustment) -> bool:
        closed = self.of(period)
        if closed is not None and closed.waived is not None:
            return adjustment.period.start_ms in closed.waived
        id_ = adjustment_id(self._account, self._contract.currency, period, adjustment)
        return self.decisions.verdict_on(id_) == "rejected"

    def also(self, closed: Closed) -> "Closes":
        """Return the closes as they are once a further period is closed."""
        closings = [*self.closings, closed]
        return Closes(self._account, self._contract, closings, self.reading, self.decisions)

    def stored_at(self, partition: int, seq: int, offset: int, stored_at: int) -> int:
        """Return when a record was stored, such that each statement knows what it did know.

        The clock of a sink may differ from that of the process that closed a period, and a ledger
        that was built again stores its records later.
        """
        first = self.first_knowing(partition, seq, offset)
        if first < len(self.closings):
            stored_at = min(stored_at, self._times[first] - 1)
        return max(stored_at, self._times[first - 1]) if first else stored_at
