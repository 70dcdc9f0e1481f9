"""Remember under which entry of the catalog the ledger was priced, and refuse a catalog without it.

A catalog that lacks the entry would price past usage otherwise, or not at all. Its log is read like
a topic, so its place is kept where the places in topics are: `next_offset` is the number of its
entries, and `topic_id` is the digest of the last. No topic of Kafka can have this name.
"""

from collections.abc import Sequence

from sqlalchemy import and_, delete, false, func, or_, select, true
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.catalog.value import Catalog, Touched
from pipeline.errors import ConfigurationError
from pipeline.ledger.database import Ledger
from pipeline.ledger.tables import consumed_topic, consumer_offset, usage_record

_NAME = "(catalog)"


def head(ledger: Ledger) -> tuple[int, str]:
    """Return number and digest of the newest entry that the ledger was priced under; 0 if none."""
    o, t = consumer_offset.c, consumed_topic.c
    query = select(o.next_offset, t.topic_id).where(o.topic == _NAME, t.topic == o.topic)
    with ledger.reading() as connection:
        row = connection.execute(query).first()
    return (0, "") if row is None else (row.next_offset, row.topic_id)


def check(ledger: Ledger, catalog: Catalog) -> None:
    """Check that a catalog has the entry that the ledger was priced under.

    Raises:
        ConfigurationError: it does not; the message says what to do.
        UnavailableError: the ledger cannot be reached.
    """
    known = head(ledger)
    if catalog.has(known):
        return
    number, digest = known
    count = conversations(ledger, [Touched()])
    raise ConfigurationError(
        [
            (
                f"the ledger {ledger.redacted_url} was priced under entry {number} ({digest[:12]}) of "
                f"the catalog, {count:,} of its conversations are billed, and this catalog does not "
                f"have the entry: it ends with entry {catalog.number} ({catalog.digest[:12] or 'none'}). "
                "If RESMETER_CATALOG_EXPORT names an export, it is older: export the catalog again. "
                "Otherwise RESMETER_TOPICS__CATALOG names another topic, or the topic was made again: "
                "run `resmeter catalog restore FILE` with the newest export. If no export is left, "
                "begin a catalog with the files that were in force, and run `resmeter ledger follow`: "
                "see docs/operate/catalog.md"
            )
        ]
    )


def remember(ledger: Ledger, catalog: Catalog) -> None:
    """Note that the ledger is priced under a catalog; nothing is noted if it knows a later entry.

    Raises:
        ConfigurationError: the catalog lacks the entry that the ledger was priced under.
        UnavailableError: the ledger cannot be reached.
    """
    known = head(ledger)
    if catalog.number < known[0]:
        return  # another sink has read further
    check(ledger, catalog)
    if known == catalog.head:
        return
    insert_ = sqlite.insert if ledger.is_sqlite else postgresql.insert
    place = insert_(consumer_offset).values(topic=_NAME, partition=0, next_offset=catalog.number)
    name = insert_(consumed_topic).values(topic=_NAME, topic_id=catalog.digest)
    with ledger.writing() as connection:
        moved = connection.execute(
            place.on_conflict_do_update(
                index_elements=["topic", "partition"],
                set_={"next_offset": catalog.number},
                where=consumer_offset.c.next_offset < catalog.number,
            )
        )
        if moved.rowcount:
            connection.execute(
                name.on_conflict_do_update(
                    index_elements=["topic"], set_={"topic_id": catalog.digest}
                )
            )


def forget(ledger: Ledger) -> None:
    """Forget the catalog: the next one may be another."""
    with ledger.writing() as connection:
        for table in (consumer_offset, consumed_topic):
            connection.execute(delete(table).where(table.c.topic == _NAME))


def conversations(ledger: Ledger, touched: Sequence[Touched]) -> int:
    """Return how many conversations have usage that changes of the past would touch."""
    c = usage_record.c
    touches = [
        and_(
            true(),
            *(
                column == wanted
                for column, wanted in (
                    (c.tenant_id, each.tenant_id),
                    (c.policy, each.policy),
                    (c.policy_version, each.version),
                )
                if wanted is not None
            ),
            *([] if each.from_ms is None else [c.occurred_at >= each.from_ms]),
        )
        for each in touched
    ]
    found = select(c.tenant_id, c.conversation).distinct().where(or_(false(), *touches)).subquery()
    with ledger.reading() as connection:
        return connection.scalar(select(func.count()).select_from(found)) or 0
