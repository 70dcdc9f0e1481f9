"""What producers send: generated conversations, sent again, late, out of order, with garbage."""

import random
from typing import NamedTuple

from pipeline.dev.load import events

_GRACE_MS = 600_000
_GARBAGE = (b"", b"{", b"\xff\xfe", b"[]", b'{"specversion":"1.0"}', b'{"hello":"world"}')


class Mess(NamedTuple):
    """How much goes wrong on the way; each a share of the events."""

    repeated: float = 0.05  # sent twice or three times
    late_within: float = 0.05  # within the grace
    late_beyond: float = 0.01
    garbage: float = 0.01
    everything_repeated: bool = False  # every event one to three times


class Sent(NamedTuple):
    """A record of the events topic; `at` is its timestamp, the arrival, ms."""

    at: int
    key: bytes
    value: bytes


def draw(size: int, seed: int, mess: Mess) -> list[Sent]:
    """Return about `size` records in the order of their arrival."""
    chance = random.Random(seed)
    each = 2.0 if mess.everything_repeated else 1.0 + 1.5 * mess.repeated
    sent: list[Sent] = []
    for event in events(int(size / (each + mess.garbage)), seed=seed):
        at = event.timestamp_ms
        lot = chance.random()
        if lot < mess.late_beyond:
            at += chance.randrange(_GRACE_MS, 48 * 3_600_000)
        elif lot < mess.late_beyond + mess.late_within:
            at += chance.randrange(_GRACE_MS)
        times = 1
        if mess.everything_repeated or chance.random() < mess.repeated:
            times = chance.randint(1 if mess.everything_repeated else 2, 3)
        for _ in range(times):
            sent.append(Sent(at, event.key, event.value))
            at += chance.randrange(120_000)
        if chance.random() < mess.garbage:
            sent.append(Sent(event.timestamp_ms, event.key, chance.choice(_GARBAGE)))
    return sorted(sent, key=lambda record: record.at)
