"""The journal's topic in memory, and a journal on it."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry

from pipeline.kafka.single import LogRecord
from pipeline.ledger import Ledger, adoption, outbox
from pipeline.ledger.journal import Entry, Item, Placed, Takeover, Verdict
from pipeline.metrics import SinkMetrics
from pipeline.sink.journal import Journal

JOURNAL = "resmeter.journal"
T0 = 1_790_000_000_000


class MemoryTopic:
    """A topic with one partition. `first` is the offset of the first record that is not deleted."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.records: list[LogRecord] = []
        self.first = 0
        self.markers: set[int] = set()  # offsets without a record: ends of transactions
        self.id = "first"
        self.now_ms = now_ms

    def topic_id(self) -> str:
        return self.id

    def bounds(self) -> tuple[int, int]:
        return self.first, len(self.records)

    def append(self, values: Sequence[bytes]) -> None:
        for value in values:
            self.records.append(LogRecord(len(self.records), self.now_ms(), value))

    def read(self, start: int, end: int) -> Iterator[list[LogRecord]]:
        for offset in range(start, end, 2):
            batch = self.records[offset : min(offset + 2, end)]
            if read := [each for each in batch if each.offset not in self.markers]:
                yield read

    def end_transaction(self) -> None:
        """Append the marker that ends a transaction."""
        self.markers.add(len(self.records))
        self.append([b""])


def journal_on(ledger: Ledger, topic: MemoryTopic, run: str, now: Callable[[], float]) -> Journal:
    """Return a journal whose ledger follows it."""
    journal = Journal(ledger, topic, JOURNAL, run, SinkMetrics(CollectorRegistry()), now)
    journal.open()
    if not journal.is_followed():
        journal.begin()
    return journal


def journalled(ledger: Ledger, run: str = "a", at: int = T0) -> None:
    """Put everything that a ledger has planned into its journal, as one run would."""
    while items := outbox.unjournalled_items(ledger, 1000):
        written(ledger, items, run, at)


def taken_over(ledger: Ledger, identifier: str, run: str, at: int = T0) -> None:
    """Let a run take over a meter event that it may not call yet."""
    if identifier in outbox.not_ours(ledger, run, 2**62, 1000):
        written(ledger, [Takeover((identifier,))], run, at)


def written(ledger: Ledger, items: Sequence[Item], run: str, at: int = T0) -> list[Verdict]:
    """Apply items as the journal's next entry."""
    position = adoption.position(ledger, JOURNAL)
    placed = Placed(position or 0, at, Entry(run=run, items=tuple(items)))
    applied = adoption.apply(ledger, JOURNAL, [placed], position, at)
    assert applied is not None
    return applied.verdicts
