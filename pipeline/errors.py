"""This file holds the exceptions; each says who must act.

::

    ResmeterError
    ├── ConfigurationError     the operator: settings, policy or tenant file; carries *all* problems
    ├── UnavailableError       the platform: a broker, database or Stripe cannot be reached
    ├── TooManyDeadLettersError  whoever made the producer: most of what comes is no event
    ├── UnknownStateError      the operator: a newer version wrote the changelog; run that version
    └── BrokenInvariantError   us: an assumption does not hold; the process ends without a commit

Bad input is never an exception: the codec returns a value, `events.Rejected`.
"""

from collections.abc import Sequence


class ResmeterError(Exception):
    """The root: what the command line turns into one clear message and an exit status."""


class ConfigurationError(ResmeterError):
    """Settings, a policy or the tenant file are wrong. `problems` lists every one of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UnavailableError(ResmeterError):
    """Something that we depend on cannot be reached; the message says what and where."""


class BrokenInvariantError(ResmeterError):
    """What must be true is not. Nothing may be committed after this."""


class TooManyDeadLettersError(ResmeterError):
    """Most of what comes is no event: whoever made the producer must look."""


class UnknownStateError(ResmeterError):
    """A stored state has a form that this version cannot read; a newer version wrote it."""
