"""Open the journal for a command that writes entries to it."""

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

from prometheus_client import CollectorRegistry

from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.kafka.single import SingleTopic
from pipeline.ledger import Ledger
from pipeline.metrics import SinkMetrics
from pipeline.sink.journal import Journal


@contextmanager
def open_journal(settings: Settings, ledger: Ledger) -> Iterator[Journal]:
    """Open the journal that the ledger follows, and read it to its end; close it at the end.

    Raises:
        ConfigurationError: the ledger does not follow the journal.
        UnavailableError: Kafka or the ledger cannot be reached.
    """
    with closing(SingleTopic(settings.kafka, settings.topics.journal)) as topic:
        metrics = SinkMetrics(CollectorRegistry())
        journal = Journal(ledger, topic, settings.topics.journal, uuid.uuid4().hex, metrics)
        journal.open()
        if not journal.is_followed():
            raise ConfigurationError(
                [f"the ledger does not follow {settings.topics.journal} yet: start the sink first"]
            )
        yield journal
