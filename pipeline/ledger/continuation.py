"""Find out whether a topic of usage records continues where the ledger has read it."""

from sqlalchemy import select

from pipeline.ledger import months
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import ConsumedRecord
from pipeline.ledger.records import move_offset
from pipeline.ledger.tables import refused_record, usage_record
from pipeline.usage.record import decode_record


def has_read(ledger: Ledger, topic: str, consumed: ConsumedRecord) -> bool:
    """Return whether the ledger has a record that is before its offset: stored, or quarantined."""
    r = refused_record.c
    refused = select(r.offset).where(
        r.topic == topic, r.partition == consumed.partition, r.offset == consumed.offset
    )
    with ledger.reading() as connection:
        if connection.scalar(refused) is not None:
            return True
        try:
            record_id = decode_record(consumed.value or b"").id
        except ValueError:
            return False
        stored = select(usage_record.c.seq).where(usage_record.c.id == record_id)
        return connection.scalar(stored) is not None


def rewind(ledger: Ledger, topic: str, partition: int, expected: int, to: int) -> bool:
    """Move the next offset of a partition back; return False if it is not the expected one.

    From there on, its offsets mean other records.
    """
    with ledger.writing() as connection:
        moved = move_offset(connection, ledger, topic, partition, expected, to)
        if moved:
            months.restart(connection, partition)
        return moved
