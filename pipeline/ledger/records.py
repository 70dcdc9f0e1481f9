"""Store each usage record once, in the transaction that moves the offsets."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.catalog.prices import FixedPrices
from pipeline.ledger import months, pending
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import (
    ConsumedRecord,
    Moved,
    Quarantined,
    QuarantineReason,
    Stored,
)
from pipeline.ledger.pricing import FixedPrice, PriceSource, fixed_price
from pipeline.ledger.tables import (
    awaited_record,
    consumed_topic,
    consumer_offset,
    meter_event_record,
    refused_record,
    usage_record,
)
from pipeline.usage.record import UsageRecord, decode_origin, decode_record

DETAIL_CHARACTERS_MAX = 500
_LOOKUP_IDS_MAX = 500
_BIGINT_MAX = 2**63 - 1
# PostgreSQL refuses an index entry of more than about 2,700 bytes. Ours have less than half of it.
_INDEXED_BYTES_MAX = 1_250

# Name and PostgreSQL type of each column, in the order of a row. The content, which comes first,
# distinguishes a conflict from a duplicate: one in any of its columns. The position in Kafka may
# differ, because a worker may write a record twice.
_CONTENT = (
    ("id", "text"),
    ("tenantid", "text"),
    ("conversation", "text"),
    ("outcome", "text"),
    ("quantity", "int"),
    ("kind", "text"),
    ("reason", "text"),
    ("occurred_at", "bigint"),
    ("policy", "text"),
    ("policy_version", "bigint"),
    ("evidence", "text"),
    ("supersedes", "text"),
)
_POSITION = (
    ("record_topic", "text"),
    ("record_partition", "int"),
    ("record_offset", "bigint"),
    ("origin_topic", "text"),
    ("origin_partition", "int"),
    ("origin_offsets", "text"),
)
_STORED = (
    ("stored_at", "bigint"),
    ("price", "text"),
    ("currency", "text"),
    ("priced_by", "text"),
)
_COLUMNS = _CONTENT + _POSITION + _STORED
_NAMES = ", ".join(name for name, _ in _COLUMNS)
_CONTENT_SIZE = len(_CONTENT)
_PARTITION_AT, _OFFSET_AT = _CONTENT_SIZE + 1, _CONTENT_SIZE + 2
_QUANTITY_AT, _SUPERSEDES_AT = (
    [name for name, _ in _CONTENT].index(name) for name in ("quantity", "supersedes")
)

_PENDING = f"pending_record ({pending.COLUMNS})"
_INSERT_SQLITE = (
    f"INSERT INTO usage_record ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (id) DO NOTHING"
)
_PENDING_SQLITE = (
    f"INSERT INTO {_PENDING} SELECT tenantid, outcome, occurred_at, seq, quantity, ?, "  # noqa: S608
    f"{pending.MISSING_CHARGE} FROM usage_record WHERE seq > ?"
)
_ARRAYS = ", ".join(f"%s::{kind}[]" for _, kind in _COLUMNS)
_INSERT_POSTGRESQL = (
    f"WITH added AS (INSERT INTO usage_record ({_NAMES}) SELECT * FROM unnest({_ARRAYS}) "  # noqa: S608
    "ON CONFLICT (id) DO NOTHING "
    "RETURNING tenantid, outcome, occurred_at, seq, quantity, supersedes) "
    f"INSERT INTO {_PENDING} SELECT tenantid, outcome, occurred_at, seq, quantity, %s, "
    f"{pending.MISSING_CHARGE} FROM added"
)

_Row = tuple[Any, ...]


def offsets(ledger: Ledger, topic: str) -> dict[int, int]:
    """Return the next offset of each partition that has one."""
    with ledger.reading() as connection:
        return _offsets(connection, topic)


def is_known_topic(ledger: Ledger, topic: str, topic_id: str) -> bool:
    """Return whether the offsets of a topic are of the one with this id, or are taken for that.

    If they are of another one, forget them: the topic was made again, and its offsets mean other
    records. It is read from its beginning; the ledger recognises what it has.
    """
    c = consumed_topic.c
    insert_ = sqlite.insert if ledger.is_sqlite else postgresql.insert
    with ledger.writing() as connection:
        before = connection.scalar(select(c.topic_id).where(c.topic == topic))
        # Of several sinks, one notes it.
        added = connection.execute(
            insert_(consumed_topic).values(topic=topic, topic_id=topic_id).on_conflict_do_nothing()
        ).rowcount
        moved = connection.execute(
            update(consumed_topic)
            .where(c.topic == topic, c.topic_id != topic_id)
            .values(topic_id=topic_id)
        ).rowcount
        if moved:
            connection.execute(delete(consumer_offset).where(consumer_offset.c.topic == topic))
        if added or moved:
            months.restart(connection, topic_id=topic_id, before_id=before)
        return not moved


def is_same_topic(ledger: Ledger, topic: str, topic_id: str) -> bool:
    """Return whether the ledger's offset of a topic is of the one with this id, or has none yet."""
    c = consumed_topic.c
    insert_ = sqlite.insert if ledger.is_sqlite else postgresql.insert
    with ledger.writing() as connection:
        connection.execute(
            insert_(consumed_topic).values(topic=topic, topic_id=topic_id).on_conflict_do_nothing()
        )
        known = connection.scalar(select(c.topic_id).where(c.topic == topic))
        return known == topic_id


def awaits_any(ledger: Ledger) -> bool:
    """Return whether the journal has put records into meter events that this ledger has not stored."""
    with ledger.reading() as connection:
        return connection.scalar(select(awaited_record.c.id).limit(1)) is not None


def store(
    ledger: Ledger,
    topic: str,
    consumed: Sequence[ConsumedRecord],
    expected: Mapping[int, int | None],
    stored_at: int,
    prices: FixedPrices | None = None,
) -> Stored | Moved:
    """Store a batch and move the offsets past it, all or nothing.

    `consumed` ascends by offset within each partition. `expected` is the next offset that the
    caller expects in the ledger for each partition of the batch, None if it expects none.
    `stored_at` is in milliseconds. The price of a record is fixed now; without `prices`, or if they
    have none, it has the price of its policy version whenever it is asked for.

    A record that does not decode or contradicts a stored record is quarantined in `refused_record`.
    """
    rows: list[_Row] = []
    quarantined: list[tuple[Quarantined, bytes | None]] = []
    after: dict[int, int] = {}
    known: dict[PriceSource, FixedPrice] = {}
    for record in consumed:
        after[record.partition] = record.offset + 1
        try:
            usage = _decoded(record)
            rows.append(
                (*_row(topic, record, usage), stored_at, *fixed_price(usage, prices, known))
            )
        except ValueError as error:
            quarantined.append((_quarantined("unreadable", record, str(error)), record.value))
    with ledger.writing() as connection:
        # 1. The offsets: this locks their rows, so that no other sink stores the same records.
        if not all(
            move_offset(connection, ledger, topic, partition, expected[partition], offset)
            for partition, offset in sorted(after.items())
        ):
            moved = _offsets(connection, topic)
            connection.rollback()
            return Moved({partition: moved.get(partition) for partition in after})
        # 2. The records. Usually all are new. If not, compare those that exist already.
        added = _insert(connection, ledger, rows, stored_at) if rows else 0
        if added < len(rows):
            by_position = {(record.partition, record.offset): record for record in consumed}
            for row, stored in _conflicts(connection, rows):
                record = by_position[row[_PARTITION_AT], row[_OFFSET_AT]]
                conflict = _quarantined("conflict", record, _difference(row, stored))
                quarantined.append((conflict, record.value))
        if added:
            _match(connection, rows)
            _link_awaited(connection, [row[0] for row in rows])
        # 3. The quarantined records, in the same transaction as the offset that passes them.
        if quarantined:
            _store_quarantined(connection, ledger, topic, quarantined)
    conflicts = sum(entry.reason == "conflict" for entry, _ in quarantined)
    return Stored(
        records=added,
        duplicates=len(rows) - added - conflicts,
        quarantined=tuple(entry for entry, _ in quarantined),
        offsets=after,
    )


def _decoded(consumed: ConsumedRecord) -> UsageRecord:
    if not consumed.value:
        raise ValueError("the message has no value")
    return decode_record(consumed.value)


def _row(topic: str, consumed: ConsumedRecord, record: UsageRecord) -> _Row:
    origin_topic = origin_partition = origin_offsets = None
    if consumed.origin is not None:
        try:
            origin = decode_origin(consumed.origin)
        except ValueError:
            pass  # the record still bills; its receipt has no position of the evidence
        else:
            origin_topic, origin_partition = origin.topic, origin.partition
            origin_offsets = orjson.dumps(origin.offsets).decode()
    row = (
        record.id,
        record.tenant_id,
        record.conversation,
        record.outcome,
        record.quantity,
        record.kind,
        record.reason,
        record.occurred_at,
        record.policy,
        record.policy_version,
        orjson.dumps(record.evidence).decode(),
        record.supersedes,
        topic,
        consumed.partition,
        consumed.offset,
        origin_topic,
        origin_partition,
        origin_offsets,
    )
    # `explain` finds a conversation by this prefix.
    if not record.id.startswith(f"{record.tenant_id}:{record.conversation}:"):
        raise ValueError("id does not begin with the tenant and conversation - at `$.id`")
    for name in ("id", "outcome", "supersedes"):
        if len((getattr(record, name) or "").encode()) > _INDEXED_BYTES_MAX:
            raise ValueError(f"{name} has more than {_INDEXED_BYTES_MAX} bytes - at `$.{name}`")
    if not 0 <= record.policy_version <= _BIGINT_MAX:
        raise ValueError("policy_version is out of range - at `$.policy_version`")
    if b"\\u0000" in (consumed.value or b"") and any("\0" in v for v in row if isinstance(v, str)):
        raise ValueError("contains a NUL character, which PostgreSQL cannot store as text")
    return row


def _quarantined(reason: QuarantineReason, consumed: ConsumedRecord, detail: str) -> Quarantined:
    return Quarantined(
        reason,
        consumed.partition,
        consumed.offset,
        detail.replace("\0", "\\0")[:DETAIL_CHARACTERS_MAX],
    )


def _offsets(connection: Connection, topic: str) -> dict[int, int]:
    query = select(consumer_offset.c.partition, consumer_offset.c.next_offset)
    rows = connection.execute(query.where(consumer_offset.c.topic == topic))
    return {row.partition: row.next_offset for row in rows}


def move_offset(
    connection: Connection,
    ledger: Ledger,
    topic: str,
    partition: int,
    expected: int | None,
    next_offset: int,
) -> bool:
    """Move the next offset of a partition; return False if it is not the expected one."""
    if expected is None:
        insert_ = sqlite.insert if ledger.is_sqlite else postgresql.insert
        statement: Any = (
            insert_(consumer_offset)
            .values(topic=topic, partition=partition, next_offset=next_offset)
            .on_conflict_do_nothing()
        )
    else:
        statement = (
            update(consumer_offset)
            .where(
                consumer_offset.c.topic == topic,
                consumer_offset.c.partition == partition,
                consumer_offset.c.next_offset == expected,
            )
            .values(next_offset=next_offset)
        )
    preserved = statement.execution_options(preserve_rowcount=True)
    return connection.execute(preserved).rowcount == 1


def _insert(connection: Connection, ledger: Ledger, rows: list[_Row], stored_at: int) -> int:
    """Insert the new records into `usage_record` and `pending_record`; return their number."""
    if not ledger.is_sqlite:
        parameters = (*([row[i] for row in rows] for i in range(len(_COLUMNS))), stored_at)
        return connection.exec_driver_sql(_INSERT_POSTGRESQL, parameters).rowcount
    # Bypass SQLAlchemy: its processing of parameters costs more than the insert.
    driver: Any = connection.connection.driver_connection
    before = driver.execute("SELECT coalesce(max(seq), 0) FROM usage_record").fetchone()[0]
    added = driver.executemany(_INSERT_SQLITE, rows).rowcount
    driver.execute(_PENDING_SQLITE, (stored_at, before))
    return int(added)


def _match(connection: Connection, rows: Sequence[_Row]) -> None:
    """File the reversals of a batch, and those that waited for its charges, with their charges."""
    charges = {row[_SUPERSEDES_AT] for row in rows if row[_QUANTITY_AT] < 0} - {None}
    pending.match_reversals(connection, charges)
    if pending.has_unmatched(connection):
        pending.match_reversals(connection, [row[0] for row in rows if row[_QUANTITY_AT] > 0])


def _link_awaited(connection: Connection, ids: Sequence[str]) -> None:
    """Give records to the meter events that the journal has put them into; they are not pending."""
    a, record, charge = awaited_record.c, usage_record.alias(), usage_record.alias()
    u = record.c
    if connection.scalar(select(a.id).limit(1)) is None:
        return
    for start in range(0, len(ids), _LOOKUP_IDS_MAX):
        part = ids[start : start + _LOOKUP_IDS_MAX]
        at = pending.time_of_unit(record, charge).label("occurred_at")
        query = (
            select(u.seq, u.id, u.tenant_id, u.outcome, at, a.identifier)
            .join_from(record, awaited_record, a.id == u.id)
            .outerjoin(charge, pending.takes_back(record, charge))
        )
        found = connection.execute(query.where(u.id.in_(part))).all()
        if not found:
            continue
        links = [{"record_seq": row.seq, "identifier": row.identifier} for row in found]
        connection.execute(insert(meter_event_record), links)
        pending.delete_pending(connection, found)
        connection.execute(delete(awaited_record).where(a.id.in_([row.id for row in found])))


def _conflicts(connection: Connection, rows: list[_Row]) -> list[tuple[_Row, _Row]]:
    """Pair each row with the content stored under its id, where one of their columns differs.

    The position is not asked: a topic that was made again has another record at the same place.
    """
    by_name = {column.name: column for column in usage_record.c}
    columns = [by_name[name] for name, _ in _CONTENT]
    pairs: list[tuple[_Row, _Row]] = []
    for start in range(0, len(rows), _LOOKUP_IDS_MAX):
        part = rows[start : start + _LOOKUP_IDS_MAX]
        query = select(*columns).where(usage_record.c.id.in_({row[0] for row in part}))
        by_id = {stored[0]: tuple(stored) for stored in connection.execute(query)}
        for row in part:
            stored = by_id[row[0]]
            if row[:_CONTENT_SIZE] != stored:
                pairs.append((row, stored))
    return pairs


def _difference(row: _Row, stored: _Row) -> str:
    parts = [
        f"{name} was {known!r}, is {new!r}"
        for (name, _), known, new in zip(_CONTENT, stored, row, strict=False)
        if known != new
    ]
    return f"{row[0]}: {'; '.join(parts)}"


def _store_quarantined(
    connection: Connection,
    ledger: Ledger,
    topic: str,
    quarantined: list[tuple[Quarantined, bytes | None]],
) -> None:
    insert_ = sqlite.insert if ledger.is_sqlite else postgresql.insert
    values = [
        {
            "topic": topic,
            "partition": entry.partition,
            "offset": entry.offset,
            "value": value,
            "reason": entry.reason,
            "detail": entry.detail,
        }
        for entry, value in quarantined
    ]
    connection.execute(insert_(refused_record).on_conflict_do_nothing(), values)
