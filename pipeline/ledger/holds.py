"""Hold all deliveries of an outdated ledger without a journal, until an operator resumes them.

Once a ledger follows the journal, it knows what was sent, and is never held. This is for the upgrade
of a deployment that had none, whose ledger may be outdated. A ledger is outdated if an old backup was restored, if a replica that lagged took over, or if the
setting names another database. The sink can read the missing usage records again, but the ledger does
not know which of them were sent, and sending them again would bill twice. There is one hold for each
partition: it has the offset of this ledger and the offset that the newer ledger had reached.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, func, insert, select, text, update

from pipeline.ledger.database import Ledger
from pipeline.ledger.tables import delivery_hold, meter_event

# What an operator says about the usage records that the newer ledger may have delivered; or the ledger
# follows the journal now, which knows it.
Answer = Literal["never_sent", "perhaps_sent", "adopted"]


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A partition of an outdated ledger, and the offset that the newer ledger had reached."""

    topic: str
    partition: int
    ledger_offset: int | None  # the next offset in this ledger; None if it has none
    reached_offset: int  # the next offset in the newer ledger
    noticed_at: int  # ms

    @property
    def is_behind(self) -> bool:
        """Whether this partition shows that the ledger is outdated."""
        return (self.ledger_offset or 0) < self.reached_offset


_columns = [delivery_hold.c[name] for name in Hold.__struct_fields__]
_is_open = delivery_hold.c.answered_at.is_(None)


def open_holds(ledger: Ledger) -> list[Hold]:
    """Return the holds that wait for an operator, ordered by topic and partition."""
    with ledger.reading() as connection:
        return _open_holds(connection)


def place(
    ledger: Ledger,
    topic: str,
    offsets: Mapping[int, int],
    reached: Mapping[int, int],
    now_ms: int,
) -> list[Hold]:
    """Hold the deliveries if the ledger's `offsets` are behind `reached`; return all open holds.

    If one partition is behind, the hold covers every partition in `reached`, because the whole ledger
    is outdated. A partition does not count as behind if an operator has already resumed deliveries at
    the same offset or a later one.
    """
    behind = {n: offset for n, offset in reached.items() if offsets.get(n, 0) < offset}
    answered = _answered(ledger, topic) if behind else {}
    if not any(answered.get(partition, 0) < offset for partition, offset in behind.items()):
        return open_holds(ledger)
    found = open_holds(ledger)
    known = {hold.partition: hold.reached_offset for hold in found if hold.topic == topic}
    if all(known.get(partition, -1) >= offset for partition, offset in reached.items()):
        return found
    with ledger.writing() as connection:
        # Those who plan or lease read the holds first: this waits for their transactions. After it,
        # nothing is planned by somebody who does not know of the hold.
        _lock(ledger, connection, "ACCESS EXCLUSIVE")
        held = {hold.partition: hold for hold in _open_holds(connection) if hold.topic == topic}
        for partition, offset in sorted(reached.items()):
            if partition not in held:
                connection.execute(
                    insert(delivery_hold).values(
                        topic=topic,
                        partition=partition,
                        ledger_offset=offsets.get(partition),
                        reached_offset=offset,
                        noticed_at=now_ms,
                    )
                )
            elif held[partition].reached_offset < offset:
                connection.execute(
                    update(delivery_hold)
                    .where(
                        _is_open,
                        delivery_hold.c.topic == topic,
                        delivery_hold.c.partition == partition,
                    )
                    .values(reached_offset=offset)
                )
        return _open_holds(connection)


def mark_uncertain(ledger: Ledger, now_ms: int) -> int:
    """Make the meter events uncertain that this ledger does not know as counted; return their number.

    The newer ledger may have sent them. That includes those rejected or altered here: an operator may
    have released them there. A lease stays: its call may be under way.
    """
    with ledger.writing() as connection:
        marked = connection.execute(
            update(meter_event)
            .where(meter_event.c.state.in_(("planned", "sent", "rejected", "altered")))
            .values(state="uncertain", updated_at=now_ms)
        )
        return marked.rowcount


def answer(
    ledger: Ledger,
    said: Answer,
    *,
    who: str,
    reason: str,
    now_ms: int,
    about: Sequence[Hold] | None = None,
) -> int:
    """End all open holds with an operator's answer, and return their number.

    `about`: the holds that the operator has seen. If there are others by now, none ends: return 0.
    """
    with ledger.writing() as connection:
        _lock(ledger, connection, "SHARE ROW EXCLUSIVE")
        if about is not None and _open_holds(connection) != list(about):
            return 0
        ended = connection.execute(
            update(delivery_hold)
            .where(_is_open)
            .values(answer=said, answered_by=who, reason=reason, answered_at=now_ms)
        )
        return ended.rowcount


def _lock(ledger: Ledger, connection: Connection, mode: str) -> None:
    """Lock the holds until the transaction ends. A transaction of SQLite is alone anyway."""
    if not ledger.is_sqlite:
        connection.execute(text(f"LOCK TABLE {delivery_hold.name} IN {mode} MODE"))


def _open_holds(connection: Connection) -> list[Hold]:
    query = (
        select(*_columns).where(_is_open).order_by(delivery_hold.c.topic, delivery_hold.c.partition)
    )
    return [Hold(**row._mapping) for row in connection.execute(query)]


def _answered(ledger: Ledger, topic: str) -> dict[int, int]:
    h = delivery_hold.c
    query: Any = (
        select(h.partition, func.max(h.reached_offset))
        .where(h.topic == topic, h.answered_at.is_not(None))
        .group_by(h.partition)
    )
    with ledger.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}
