"""Apply the journal's entries to the ledger, in the transaction that moves the journal's offset.

Meter events enter the ledger here, and only here: a plan of our own like one of another ledger. Only
the usage records of an operator's doubt (`holds`) are planned in the ledger first.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Update, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.errors import BrokenInvariantError
from pipeline.ledger import journal, months, pending
from pipeline.ledger.batches import parts
from pipeline.ledger.database import Ledger
from pipeline.ledger.decisions import move_records
from pipeline.ledger.entries import Decided, MeterEvent, State
from pipeline.ledger.journal import (
    Conclusion,
    Decision,
    Placed,
    Plan,
    Takeover,
    Verdict,
    Withdrawal,
)
from pipeline.ledger.lineage import lineage
from pipeline.ledger.month_entries import MonthItem, accounts_of
from pipeline.ledger.records import move_offset
from pipeline.ledger.standing import Standing
from pipeline.ledger.stating import delete_stated
from pipeline.ledger.tables import (
    awaited_record,
    consumed_topic,
    consumer_offset,
    delivery_decision,
    delivery_takeover,
    meter_event,
    meter_event_record,
    usage_record,
)
from pipeline.ledger.withdrawals import begin_withdrawal, forget_withdrawals, free_records

_PARTITION = 0  # the journal has one


class Applied(NamedTuple):
    """The verdicts on the items of some entries, in their order, and the journal's next offset."""

    verdicts: list[Verdict]
    next_offset: int


def position(ledger: Ledger, topic: str) -> int | None:
    """Return the journal's next offset in this ledger; None if the ledger has read none of it."""
    with ledger.reading() as connection:
        return connection.scalar(
            select(consumer_offset.c.next_offset).where(
                consumer_offset.c.topic == topic, consumer_offset.c.partition == _PARTITION
            )
        )


def begin(ledger: Ledger, topic: str) -> None:
    """Note that the ledger follows the journal from its first offset."""
    with ledger.writing() as connection:
        move_offset(connection, ledger, topic, _PARTITION, None, 0)


def forget(ledger: Ledger, topic: str, now_ms: int) -> None:
    """Forget the journal that the ledger followed: the next one that it follows may be another."""
    with ledger.writing() as connection:
        for table in (consumer_offset, consumed_topic):
            connection.execute(delete(table).where(table.c.topic == topic))
        connection.execute(delete(delivery_takeover))
        forget_withdrawals(connection, now_ms)
        months.forget(connection)
        connection.execute(
            update(meter_event)
            .where(meter_event.c.state != "withdrawn")  # it has no records: nothing to write of it
            .values(journal_state=None, vouched_at=None, voucher=None)
        )


def apply(
    ledger: Ledger, topic: str, placed: Sequence[Placed], expected: int | None, now_ms: int
) -> Applied | None:
    """Apply entries, all or nothing; they follow on `expected`, the ledger's position.

    Returns None, and changes nothing, if the ledger's position is another one: another sink has
    applied entries, or the database has lost commits.

    Raises:
        BrokenInvariantError: the ledger has a meter event that the journal has not, with the same
            records.
    """
    next_offset = placed[-1].offset + 1
    entries = [each.entry for each in placed if each.entry is not None]
    with ledger.writing() as connection:
        if not move_offset(connection, ledger, topic, _PARTITION, expected, next_offset):
            connection.rollback()
            return None
        view, stored = _view(connection, entries)
        before = dict(view.standings)
        verdicts = []
        for each in placed:
            if each.entry is not None:
                verdicts += journal.apply(view, each.entry, each.at)
        _Writing(connection, ledger, stored, now_ms).write(view, before, verdicts)
    return Applied(verdicts, next_offset)


class _Stored(NamedTuple):
    """A usage record of the ledger, with the key that its pending row has: the time is its unit's."""

    seq: int
    tenant_id: str
    outcome: str
    occurred_at: int


def _view(
    connection: Connection, entries: Sequence[journal.Entry]
) -> tuple[journal.View, dict[str, _Stored]]:
    """Read what the entries touch: the journal's result so far, and the usage records stored."""
    identifiers, ids = journal.touched(entries)
    record, charge = usage_record.alias(), usage_record.alias()
    m, u, link = meter_event.c, record.c, meter_event_record.c
    standings: dict[str, Standing] = {}
    for part in parts(identifiers):
        query: Any = select(m.identifier, m.journal_state, m.vouched_at, m.voucher)
        query = query.where(m.identifier.in_(part), m.journal_state.is_not(None))
        for identifier, *standing in connection.execute(query):
            standings[identifier] = Standing(*standing)
    holders: dict[str, str] = {}
    stored: dict[str, _Stored] = {}
    unjournalled: dict[str, str] = {}  # record → the first meter event that it was in
    awaits = connection.scalar(select(awaited_record.c.id).limit(1)) is not None
    if pending.has_unmatched(connection):
        # On PostgreSQL two sinks may have stored a charge and its reversal at the same moment.
        pending.match_reversals(connection)
    for part in parts(ids):
        query = (
            select(u.id, u.seq, u.tenant_id, u.outcome, pending.time_of_unit(record, charge))
            .add_columns(m.identifier, m.journal_state)
            .select_from(record)
            .outerjoin(charge, pending.takes_back(record, charge))
            .outerjoin(meter_event_record, link.record_seq == u.seq)
            .outerjoin(meter_event, m.identifier == link.identifier)
            .where(u.id.in_(part))
        )
        for record_id, *columns, holder, journal_state in connection.execute(query):
            stored[record_id] = _Stored(*columns)
            if journal_state is not None:
                holders[record_id] = lineage(holder)[0]
            elif holder is not None:
                unjournalled[record_id] = lineage(holder)[0]
        if awaits:
            a = awaited_record.c
            query = select(a.id, a.identifier).join(meter_event, m.identifier == a.identifier)
            query = query.where(a.id.in_(part), m.journal_state.is_not(None))
            holders.update((row[0], row[1]) for row in connection.execute(query))
    # A record of a meter event that is not in the journal is free there; but not if an operator here
    # has released it from one that is.
    for part in parts(set(unjournalled.values())):
        query = select(m.identifier).where(m.identifier.in_(part), m.journal_state.is_not(None))
        known = set(connection.scalars(query))
        holders.update((record, first) for record, first in unjournalled.items() if first in known)
    names = accounts_of(item for entry in entries for item in entry.items)
    accounts = months.standings(connection, names)
    closed_until = months.closed_until(connection, journal.customers_of(entries))
    return journal.View(standings, holders, accounts, closed_until), stored


class _Writing:
    """Writes the effects of entries; their items are valid or void already."""

    def __init__(
        self, connection: Connection, ledger: Ledger, stored: dict[str, _Stored], now_ms: int
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._stored = stored
        self._now_ms = now_ms

    def write(
        self, view: journal.View, before: dict[str, Standing], verdicts: Iterable[Verdict]
    ) -> None:
        """Write the meter events and decisions of valid items, then every standing that changed."""
        plans: list[Plan] = []
        for run, item, why in verdicts:
            if isinstance(item, Plan):
                if why is None:
                    plans.append(item)
                elif item.identifier not in view.standings:
                    self._check_void(item, why)
                continue
            self._insert(plans)
            plans = []
            if why is not None:
                if isinstance(item, Decision):
                    self._drop_decision(item.decided, view)
                elif isinstance(item, MonthItem):
                    months.check_void(self._connection, item, why)
                continue
            if isinstance(item, Conclusion):
                self._conclude(item)
            elif isinstance(item, Decision):
                self._decide(item)
            elif isinstance(item, Takeover):
                self._take_over(run, item)
            elif isinstance(item, Withdrawal):
                begin_withdrawal(self._connection, item.identifier, item.until, self._now_ms)
            elif isinstance(item, MonthItem):
                months.enter(self._connection, item)
        self._insert(plans)
        changed = {k: s for k, s in view.standings.items() if before.get(k) != s}
        if changed:
            self._store_standings(changed)

    def _check_void(self, plan: Plan, why: str) -> None:
        m = meter_event.c
        query = select(m.identifier).where(
            m.identifier == plan.identifier, m.journal_state.is_(None)
        )
        if self._connection.scalar(query) is not None:
            raise BrokenInvariantError(
                f"the ledger {self._ledger.redacted_url} has the meter event {plan.identifier}, which is "
                f"void in the journal: {why}. The ledger is not the one that its sinks used before, or an "
                "older version of the sink ran beside this one. Restore the newest backup of the ledger"
            )

    def _insert(self, plans: Sequence[Plan]) -> None:
        """Insert meter events with their records; those that the ledger has get the journal's content."""
        if not plans:
            return
        known = self._known([plan.identifier for plan in plans])
        events: list[dict[str, Any]] = []
        links: list[dict[str, Any]] = []
        planned: list[_Stored] = []
        awaited: list[dict[str, Any]] = []
        for plan in plans:
            if plan.identifier in known:
                self._overwrite(plan)
                continue
            events.append(self._row(plan.event))
            for record_id in plan.records:
                record = self._stored.get(record_id)
                if record is None:
                    awaited.append({"id": record_id, "identifier": plan.identifier})
                    continue
                links.append({"record_seq": record.seq, "identifier": plan.identifier})
                planned.append(record)
        if events:
            self._connection.execute(insert(meter_event), events)
        if planned:
            deleted = pending.delete_pending(self._connection, planned)
            if deleted != len(planned):
                # Stated, and sent by another ledger: its entry came before the closing.
                deleted += delete_stated(self._connection, [each.seq for each in planned])
            if deleted != len(planned):
                raise BrokenInvariantError(
                    f"the ledger {self._ledger.redacted_url} has {len(planned) - deleted} usage records in "
                    "meter events that the journal does not have: an older version of the sink runs "
                    "beside this one. Stop it, and start this one again"
                )
            self._connection.execute(insert(meter_event_record), links)
        if awaited:
            self._connection.execute(insert(awaited_record), awaited)

    def _known(self, identifiers: Collection[str]) -> set[str]:
        m, known = meter_event.c, set[str]()
        for part in parts(identifiers):
            known.update(
                self._connection.scalars(select(m.identifier).where(m.identifier.in_(part)))
            )
        return known

    def _overwrite(self, plan: Plan) -> None:
        row = self._row(plan.event)
        for kept in ("state", "lease_until", "created_at", "updated_at"):
            del row[kept]
        self._connection.execute(_where(plan.identifier).values(row))

    def _row(self, event: MeterEvent) -> dict[str, Any]:
        row = msgspec.structs.asdict(event)
        return row | {
            "lease_until": 0,
            "created_at": self._now_ms,
            "updated_at": self._now_ms,
        }

    def _conclude(self, item: Conclusion) -> None:
        before: tuple[State, ...] = ("planned", "sent")
        if item.state != "rejected":
            # It is certain. A decision of our own came too late.
            self._undo_decision(item.identifier)
            before = (*before, "uncertain", "altered", "rejected", "released", "settled")
            before = (*before, "withdrawing")
        state: State = "delivered" if item.state == "kept" else item.state
        self._connection.execute(
            _where(item.identifier)
            .where(meter_event.c.state.in_(before))
            .values(state=state, lease_until=0, updated_at=self._now_ms)
        )
        if item.state == "withdrawn":
            free_records(self._connection, item.identifier, self._now_ms)
        self._forget_takeovers(item.identifier)

    def _decide(self, item: Decision) -> None:
        """Store a decision in place of one of our own that the journal does not have."""
        decided, replacement, connection = item.decided, item.replacement, self._connection
        self._undo_decision(decided.identifier)
        state: State = "settled" if replacement is None else "released"
        connection.execute(
            _where(decided.identifier)
            .where(meter_event.c.state != "cancelled")
            .values(state=state, lease_until=0, updated_at=decided.at)
        )
        if replacement is not None:
            connection.execute(insert(meter_event).values(**self._row(replacement.event)))
            move_records(connection, decided.identifier, replacement.identifier)
        connection.execute(insert(delivery_decision).values(**msgspec.structs.asdict(decided)))
        self._forget_takeovers(decided.identifier)

    def _drop_decision(self, decided: Decided, view: journal.View) -> None:
        """Forget a decision of our own that is void; its meter event waits for an operator again."""
        standing = view.standings.get(decided.identifier)
        d = delivery_decision.c
        query = select(d.seq).where(d.identifier == decided.identifier, d.at == decided.at)
        is_open = standing is not None and standing.state in ("planned", "rejected", "withdrawing")
        if is_open and self._connection.scalar(query) is not None:
            self._undo_decision(decided.identifier)
            self._connection.execute(
                _where(decided.identifier).values(state=decided.state, updated_at=self._now_ms)
            )

    def _undo_decision(self, identifier: str) -> None:
        """Forget a decision that the journal does not have, with the meter event that it made."""
        d, connection = delivery_decision.c, self._connection
        ours = connection.execute(
            select(d.replaced_by).where(d.identifier == identifier)
        ).one_or_none()
        if ours is None:
            return
        connection.execute(delete(delivery_decision).where(d.identifier == identifier))
        if ours.replaced_by is not None:
            # It was never called, because it is not in the journal.
            move_records(connection, ours.replaced_by, identifier)
            connection.execute(
                delete(meter_event).where(meter_event.c.identifier == ours.replaced_by)
            )

    def _take_over(self, run: str, item: Takeover) -> None:
        known = self._known(item.identifiers)
        insert_ = sqlite.insert if self._ledger.is_sqlite else postgresql.insert
        rows = [{"identifier": each, "run": run} for each in item.identifiers if each in known]
        if rows:
            self._connection.execute(insert_(delivery_takeover).on_conflict_do_nothing(), rows)

    def _forget_takeovers(self, identifier: str) -> None:
        self._connection.execute(
            delete(delivery_takeover).where(delivery_takeover.c.identifier == identifier)
        )

    def _store_standings(self, changed: dict[str, Standing]) -> None:
        """Store standings: those that are equal, which most of one entry are, in one statement."""
        equal: defaultdict[Standing, list[str]] = defaultdict(list)
        for identifier, standing in changed.items():
            equal[standing].append(identifier)
        for standing, identifiers in equal.items():
            for part in parts(identifiers):
                self._connection.execute(
                    update(meter_event)
                    .where(meter_event.c.identifier.in_(part))
                    .values(
                        journal_state=standing.state,
                        vouched_at=standing.vouched_at,
                        voucher=standing.voucher,
                    )
                )


def _where(identifier: str) -> Update:
    return update(meter_event).where(meter_event.c.identifier == identifier)
