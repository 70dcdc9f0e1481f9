"""A worker decides nothing that an unknown entry of the catalog, or a missing secret, may change."""

import asyncio

import msgspec
import pytest

from pipeline.catalog.entry import Additions, Assigned, Entry, Grant, encode_entry, entries_of
from pipeline.catalog.log import Appended, read
from pipeline.catalog.policies import preset
from pipeline.catalog.producers import Producer
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
        self.cut = 0
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


def test_a_record_ahead_of_the_brokers_clock_waits_and_the_time_is_known() -> None:
    topic = Topic()
    following = Following(topic, dict, 10**12, end=lambda *_: None)
    following.begin()

    async def read_clock() -> int:
        return topic.now

    async def swap(tenants: Tenants, keys: KeyRing) -> None:
        following.follow(tenants, keys)

    assert following.ahead_ms(T0 + 10**9) == 0  # nobody has read the clock yet
    asyncio.run(following.refresh(read_clock, swap))
    waits_ms = following.ahead_ms(T0 + 10**9)

    assert following.ahead_ms(T0 + MINUTE - 1) == 0
    assert not following.may_decide(T0 + 10**9, T0 + 10**9)
    topic.now += waits_ms - 1
    asyncio.run(following.refresh(read_clock, swap))
    assert not following.may_decide(T0 + 10**9, T0 + 10**9)
    topic.now += 1
    asyncio.run(following.refresh(read_clock, swap))
    assert following.may_decide(T0 + 10**9, T0 + 10**9)


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


def test_what_arrived_before_a_key_was_revoked_waits_for_its_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = Topic()
    producers: dict[str, Producer] = {}
    following = Following(topic, lambda: producers, 10**12, end=lambda *_: None)
    revoked_ms = topic.now + 2 * LEAD_MS_MIN
    for grant in (Grant(None, topic.now + LEAD_MS_MIN), Grant((), revoked_ms)):
        keys = {"chat-1": grant}
        parent = topic.refresh().digest
        topic.append(encode_entry(Entry(parent=parent, who="ada", why="", form=1, keys=keys)))
    following.begin()

    async def read_clock() -> int:
        return revoked_ms + MINUTE

    async def swap(tenants: Tenants, keys: KeyRing) -> None:
        following.follow(tenants, keys)

    asyncio.run(following.refresh(read_clock, swap))

    assert following.may_decide(revoked_ms, revoked_ms)
    assert following.problems() == []
    assert not following.may_decide(revoked_ms - 1, revoked_ms)
    (problem,) = following.problems()
    assert "producers.chat-1: RESMETER_CONFIG says nothing about its secret" in problem

    # The operator brings the secret back; the worker reads it with the next refresh.
    monkeypatch.setenv("THE_SECRET", "0123456789abcdef" * 2)
    producers["chat-1"] = Producer("chat-1", None, "THE_SECRET")
    asyncio.run(following.refresh(read_clock, swap))
    assert following.may_decide(revoked_ms - 1, revoked_ms)
    assert following.problems() == []
