"""End the process at once, so that nothing is committed after a failure."""

import os
import sys
from typing import Any, NoReturn

from pipeline.errors import (
    ConfigurationError,
    DamagedTopicError,
    FencedError,
    TooManyDeadLettersError,
    UnknownStateError,
)
from pipeline.logs import get_logger

_NEEDS_AN_OPERATOR = (
    ConfigurationError,
    DamagedTopicError,
    TooManyDeadLettersError,
    UnknownStateError,
)


def crash(event: str, error: BaseException | None, **facts: Any) -> NoReturn:
    """Log the failure and end the process with status 1, without cleanup: cleanup would commit.

    If another worker has taken over, the event is `worker_fenced`, wherever we noticed it.

    The worker's supervisor (Kubernetes, systemd, compose) starts it again.
    """
    get_logger("worker").error(
        "worker_fenced" if isinstance(error, FencedError) else event,
        error=f"{type(error).__name__}: {error}",
        consequence=consequence_of(error),
        exc_info=error,
        **facts,
    )
    sys.stderr.flush()
    os._exit(1)


def consequence_of(error: BaseException | None) -> str:
    """Say what the end of the process means, and whether starting it again is enough."""
    ended = "the process ends without a commit; nothing is lost"
    if isinstance(error, _NEEDS_AN_OPERATOR):
        return f"{ended}; fix the cause first: a restart alone ends in the same way"
    return f"{ended}; start it again"
