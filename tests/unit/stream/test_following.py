"""A worker decides nothing that an entry of the catalog which it does not know may change."""

import asyncio

import msgspec

from pipeline.catalog.entry import Additions, Assigned, Entry, encode_entry, entries_of
from pipeline.catalog.log import Appended, read
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.events.signature import KeyRing
from pipeline.stream.following import Following

T0 = 1_790_000_000_000
MINUTE = 60_000
FIN = preset("fin-2026")
OTHER = msgspec.structs.replace(FIN, name="other", effective_from=0)


class Topic:
    """The catalog's topic, and the clock of its broker."""

    def __init__(self) -> None:
        self.now = T0
        self._records: list[Appended] = []
        additions = Additions(policies=[FIN, OTHER], default=[Assigned(FIN.name)])
        for value in entries_of(additions, "", "ada", "start", LEAD_MS_MIN):
            self.append(value)

    def append(self, value: bytes) -> None:
        self._records.append(Appended(len(self._records), self.now, value))

    def refresh(self) -> Catalog:
        catalog = Catalog()
        for record in self._records:
            catalog, verdict = read(catalog, record)
            assert not verdict.reason
        return catalog


def test_an_entry_that_is_published_between_the_clock_and_the_catalog_is_known_by_its_date() -> (
    None
):
    topic = Topic()
    following = Following(topic, dict, 10**12, end=lambda *_: None)
    following.begin()
    date = topic.now + LEAD_MS_MIN

    async def read_clock() -> int:
        # Somebody publishes at the last moment at which this date is valid, and then time goes on.
        moved = Entry(
            parent=topic.refresh().digest,
            who="ada",
            why="",
            form=1,
            default=(Assigned("other", date),),
        )
        topic.append(encode_entry(moved))
        topic.now += 10 * MINUTE
        return topic.now

    async def swap(tenants: Tenants, keys: KeyRing) -> None:
        following.follow(tenants, keys)

    asyncio.run(following.refresh(read_clock, swap))

    assert following.limit_ms > date
    assert following.tenants.timeline_for("acme").at(date) == OTHER


def test_the_limit_is_the_lead_after_the_clock_less_a_minute_for_the_brokers_clocks() -> None:
    topic = Topic()
    following = Following(topic, dict, 10**12, end=lambda *_: None)
    following.begin()

    async def read_clock() -> int:
        return topic.now

    async def swap(tenants: Tenants, keys: KeyRing) -> None:
        following.follow(tenants, keys)

    asyncio.run(following.refresh(read_clock, swap))

    assert following.limit_ms == topic.now + LEAD_MS_MIN - MINUTE
