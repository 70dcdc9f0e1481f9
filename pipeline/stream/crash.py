"""End the process at once, so that nothing is committed after a failure."""

import os
import sys
from typing import Any, NoReturn

from pipeline.logs import get_logger


def crash(event: str, error: BaseException | None, **facts: Any) -> NoReturn:
    """Log the failure and end the process with status 1, without cleanup: cleanup would commit.

    The worker's supervisor (Kubernetes, systemd, compose) starts it again.
    """
    get_logger("worker").error(
        event,
        error=f"{type(error).__name__}: {error}",
        consequence="the process ends without a commit; nothing is lost; start it again",
        exc_info=error,
        **facts,
    )
    sys.stderr.flush()
    os._exit(1)
