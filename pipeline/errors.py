"""The exceptions of resmeter, by who must act.

::

    ResmeterError
    ├── ConfigurationError       the operator: the settings, a policy or the tenant file are wrong
    ├── UnavailableError         the platform: Kafka, the database or Stripe cannot be reached
    ├── TooManyDeadLettersError  the authors of a producer: most of its records are rejected
    ├── DamagedTopicError        the platform: a disk has changed what a broker stored
    ├── CutTopicError            the platform: brokers have lost what they had acknowledged
    ├── UnknownStateError        the operator: a newer version wrote the changelog; run that version
    ├── FencedError              nobody: another worker owns the partition; this one starts again
    ├── UnknownEntryError        the operator: a newer version wrote the catalog; run that version
    └── BrokenInvariantError     the authors of resmeter: an assumption does not hold

If one of them is raised, the worker or sink exits without committing, so nothing is lost. Bad input
raises no exception: reading a bad event returns a `pipeline.events.model.Rejected`.
"""

from collections.abc import Sequence


class ResmeterError(Exception):
    """The base class. A command prints the message and exits with 1 (2: `ConfigurationError`)."""


class ConfigurationError(ResmeterError):
    """Settings, a policy or the tenant file are wrong. `problems` has every problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UnavailableError(ResmeterError):
    """Kafka, the database or Stripe cannot be reached; the message says which, and where."""


class BrokenInvariantError(ResmeterError):
    """An assumption of the code does not hold. Nothing may be committed afterwards."""


class TooManyDeadLettersError(ResmeterError):
    """Most records are rejected: a producer is broken, and its authors must act."""


class DamagedTopicError(ResmeterError):
    """A batch is not what was written: the states in the changelog cannot be read back."""

    def __init__(self, topic: str, partition: int, offset: int, why: str) -> None:
        super().__init__(
            f"{topic}[{partition}] is damaged from offset {offset} on: {why}. Restore the partition "
            "from a replica; if there is none, delete the topic, run `resmeter topics create`, and "
            "start the worker: it says how to rebuild the states"
        )


class CutTopicError(ResmeterError):
    """The changelog has lost records that a worker had written to it."""

    def __init__(self, place: str, known_end: int, end: int) -> None:
        super().__init__(
            f"{place} ended at offset {known_end}, and our next record has offset {end}: the topic was "
            "made again, or lost its end in an unclean election of a leader. Start the worker: it "
            "says how to rebuild the states"
        )


class UnknownStateError(ResmeterError):
    """A stored state has a form that this version cannot read: a newer version wrote it."""


class FencedError(ResmeterError):
    """Kafka rejects our writes to a partition of the changelog, because another worker owns it."""


class UnknownEntryError(ResmeterError):
    """An entry of the catalog has a form that this version cannot read: a newer version wrote it."""
