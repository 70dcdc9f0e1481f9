"""Remember the newest entry of the catalog that a ledger was billed by."""

from sqlalchemy import delete, insert, select

from pipeline.ledger.database import Ledger
from pipeline.ledger.records import move_offset
from pipeline.ledger.tables import consumed_topic, consumer_offset

# In the tables of topics: the number of entries read, and the digest of the last one. The topic may be
# restored under another name, and no topic of Kafka has this one.
_NAME, _PARTITION = "(catalog)", 0


def head(ledger: Ledger) -> tuple[int, str]:
    """Return number and digest of the entry; (0, "") if the ledger remembers none."""
    o, t = consumer_offset.c, consumed_topic.c
    query = select(o.next_offset, t.topic_id).join_from(
        consumer_offset, consumed_topic, t.topic == o.topic
    )
    with ledger.reading() as connection:
        found = connection.execute(query.where(o.topic == _NAME)).one_or_none()
    return (0, "") if found is None else (found.next_offset, found.topic_id)


def remember(ledger: Ledger, known: tuple[int, str], newest: tuple[int, str]) -> bool:
    """Remember a newer entry; return False if the ledger no longer has the one that is known."""
    number, digest = newest
    with ledger.writing() as connection:
        if not move_offset(connection, ledger, _NAME, _PARTITION, known[0] or None, number):
            connection.rollback()
            return False
        connection.execute(delete(consumed_topic).where(consumed_topic.c.topic == _NAME))
        connection.execute(insert(consumed_topic).values(topic=_NAME, topic_id=digest))
    return True


def forget(ledger: Ledger) -> None:
    """Forget the entry: the ledger may be billed by another catalog from now on."""
    with ledger.writing() as connection:
        for table in (consumer_offset, consumed_topic):
            connection.execute(delete(table).where(table.c.topic == _NAME))
