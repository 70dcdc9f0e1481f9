"""Tell the dead letters that are open from those that are dealt with, as the events topic shows it."""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from pipeline.events.model import Headers, Rejected
from pipeline.events.wire import read_event
from pipeline.kafka.headers import REDRIVES_HEADER, redrives_in
from pipeline.replay.deadletters import Identity, Letter, digest_of, identity_of

Status: TypeAlias = Literal["open", "redriven", "accepted"]


class Arrived(msgspec.Struct, frozen=True):
    """A record of the events topic."""

    place: tuple[str, int, int]  # topic, partition, offset
    key: bytes | None
    value: bytes | None
    headers: Headers


def statuses(
    letters: Sequence[Letter], rejected: Iterable[Letter], records: Iterable[Arrived]
) -> list[Status]:
    """Return the status of each dead letter.

    `redriven`: its record was sent again; if that was rejected too, the newest dead letter is open.
    `accepted`: an event with the same tenant, source and id was accepted. `open`: neither.

    Args:
        letters: the dead letters in question.
        rejected: all dead letters there are.
        records: the events topic, from the time of the first of `letters` on.
    """
    places = {letter.origin for letter in rejected}
    by_digest: dict[bytes, list[int]] = {}
    by_identity: dict[Identity, list[int]] = {}
    for number, letter in enumerate(letters):
        by_digest.setdefault(digest_of(letter.key, letter.value, letter.headers), []).append(number)
        if (identity := identity_of(letter)) is not None:
            by_identity.setdefault(identity, []).append(number)
    found: list[Status] = ["open"] * len(letters)
    for record in records:
        redrives, own = _redrives(record.headers)
        if redrives:
            for number in by_digest.get(digest_of(record.key, record.value, own), ()):
                if letters[number].redrives < redrives:
                    found[number] = "redriven"
        if record.place in places or not by_identity:
            continue
        addressed = read_event(record.value, record.headers)
        if not isinstance(addressed, Rejected):
            event = addressed.event
            for number in by_identity.get((addressed.tenant_id, event.source, event.id), ()):
                if found[number] == "open":
                    found[number] = "accepted"
    return found


def _redrives(headers: Headers) -> tuple[int, tuple[tuple[str, bytes | None], ...]]:
    """Return how often a record was redriven, and its headers without ours."""
    own = tuple((name, content) for name, content in headers if name != REDRIVES_HEADER)
    return redrives_in(headers), own
