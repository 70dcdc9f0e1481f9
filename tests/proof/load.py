"""Generate the records that producers send: repeated, late, out of order, and some invalid."""

import random
from typing import NamedTuple

from pipeline.dev.load import EventRecord, events

_GRACE_MS = 600_000
_GARBAGE = (b"", b"{", b"\xff\xfe", b"[]", b'{"specversion":"1.0"}', b'{"hello":"world"}')


class Disorder(NamedTuple):
    """The shares of events that are repeated, late, or followed by an invalid record."""

    repeated: float = 0.05  # sent two or three times
    late_within: float = 0.05  # late by less than the grace period
    late_beyond: float = 0.01  # later than the grace period
    garbage: float = 0.01  # followed by an invalid record; above 1, by several
    everything_repeated: bool = False  # send every event one to three times
    damage: bool = False  # in the middle, a batch that the broker's disk will change
    transactions: bool = False  # the second half is left for the row to write, in transactions


def draw(size: int, seed: int, disorder: Disorder) -> list[EventRecord]:
    """Return about `size` records in order of arrival. The timestamp of each is its arrival."""
    chance = random.Random(seed)
    repeats = 2.0 if disorder.everything_repeated else 1.0 + 1.5 * disorder.repeated
    records: list[EventRecord] = []
    for event in events(int(size / (repeats + disorder.garbage)), seed=seed):
        at = event.timestamp_ms
        lot = chance.random()
        if lot < disorder.late_beyond:
            at += chance.randrange(_GRACE_MS, 48 * 3_600_000)
        elif lot < disorder.late_beyond + disorder.late_within:
            at += chance.randrange(_GRACE_MS)
        times = 1
        if disorder.everything_repeated or chance.random() < disorder.repeated:
            times = chance.randint(1 if disorder.everything_repeated else 2, 3)
        for _ in range(times):
            records.append(event._replace(timestamp_ms=at))
            at += chance.randrange(120_000)
        invalid = int(disorder.garbage) + (chance.random() < disorder.garbage % 1)
        records += [event._replace(value=chance.choice(_GARBAGE)) for _ in range(invalid)]
    return sorted(records, key=lambda record: record.timestamp_ms)
