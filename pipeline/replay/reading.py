"""This file reads the whole log anew, a partition at a time, for the audit and for a plan.

First where the worker stands, then what was written by then, then the sink must have taken that: so
whatever is missing in the ledger afterwards had its time to come.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader, committed_offsets
from pipeline.ledger import Ledger, records
from pipeline.replay.audit import Audit
from pipeline.replay.redrive import read_letter

_LOOK_SECONDS = 0.5


class _Named(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_Named).decode


class Letters(NamedTuple):
    """Where the records lay that have a dead letter, by partition of the events topic."""

    there: dict[int, set[int]]
    refused: dict[int, set[int]]  # those of them that were not authorized
    are_whole: bool  # none of them has been deleted yet


class Reading:
    """The events topic as it is now, and what was written of it. Close it in the end.

    Args:
        settings: of worker and sink.
        tenants: whose policies and producers hold.
        ledger: to be held against the log.
        wait_seconds: for the sink to take what has been written.

    Raises:
        ConfigurationError: a topic is not there, or the broker refuses us.
        UnavailableError: no broker answers, or the sink is behind.
    """

    def __init__(
        self, settings: Settings, tenants: Tenants, ledger: Ledger, wait_seconds: float
    ) -> None:
        self._settings = settings
        self._tenants = tenants
        options = librdkafka_options(settings.kafka)
        self.source = TopicReader(options, settings.topics.events)
        try:
            self._committed = committed_offsets(
                settings.kafka, settings.worker.group, settings.topics.events, self.source.bounds
            )
            # A dead letter is written before its record is committed: all of those are there.
            self.letters = _letters(settings)
            written = TopicReader(options, settings.topics.records)
            try:
                if left := await_sink(ledger, written, wait_seconds):
                    raise UnavailableError(
                        f"the sink is {left} usage records behind: see that it runs, and try again"
                    )
                self.written = _ids(written)
            finally:
                written.close()
        except BaseException:
            self.source.close()
            raise

    def partitions(self, told: Callable[[], object]) -> Iterator[tuple[int, Audit]]:
        """Yield each partition once it was read, so that memory holds no more than one.

        `told` is called for each record.
        """
        keys = load_keys(self._tenants.producers)
        for number, (low, _) in sorted(self.source.bounds.items()):
            audit = Audit(
                self._committed.get(number, 0),
                self._tenants.timeline_for,
                keys,
                self._settings.worker.seal_after_ms,
                is_whole=low == 0,
                refused=self.letters.refused.get(number, set()),
                letters_are_whole=self.letters.are_whole,
            )
            for message in self.source.records({number: low}):
                headers: Any = message.headers() or []
                audit.take(
                    message.offset() or 0,
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    headers,
                )
                told()
            yield number, audit

    def close(self) -> None:
        self.source.close()


def _letters(settings: Settings) -> Letters:
    source = TopicReader(librdkafka_options(settings.kafka), settings.topics.dead_letters)
    there: dict[int, set[int]] = {}
    refused: dict[int, set[int]] = {}
    try:
        are_whole = all(low == 0 for low, _ in source.bounds.values())
        for message in source.records():
            headers: Any = message.headers() or []
            letter = read_letter((0, 0), 0, message.key(), message.value(), headers)
            if letter.origin is None or letter.origin[0] != settings.topics.events:
                continue
            _, number, offset = letter.origin
            there.setdefault(number, set()).add(offset)
            if letter.reason == "not_authorized":
                refused.setdefault(number, set()).add(offset)
    finally:
        source.close()
    return Letters(there, refused, are_whole)


def await_sink(ledger: Ledger, written: TopicReader, seconds: float) -> int:
    """Wait until the ledger has what stood in the topic of usage records when we asked.

    Return how many offsets of it the sink has not passed when the time is up.
    """
    deadline = time.monotonic() + seconds
    while (left := _left(ledger, written)) and time.monotonic() <= deadline:
        time.sleep(_LOOK_SECONDS)
    return left


def _left(ledger: Ledger, written: TopicReader) -> int:
    stands = records.offsets(ledger, written.topic)
    return sum(
        max(0, high - stands.get(number, low)) for number, (low, high) in written.bounds.items()
    )


def _ids(written: TopicReader) -> set[str]:
    found: set[str] = set()
    for message in written.records():
        try:
            found.add(_decode_id(message.value() or b"").id)
        except ValueError:
            continue  # the sink has refused it, and keeps it
    return found
