"""This file configures structlog: columns on a terminal, JSON elsewhere, always to stderr.

Guide: the event is a constant such as `batch_delivered`, facts are keys, ids never bodies. One
line a unit of work, none a record. `error` means that somebody must act. Libraries that log
through `logging` come out in the same form.
"""

import logging
import sys
from typing import Any

import structlog
from rich.console import Console
from structlog.typing import Processor

from pipeline.config import LogSettings

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(log: LogSettings) -> None:
    """Set up structlog and `logging` for the process; a second call replaces the first."""
    console = Console(stderr=True)  # honours NO_COLOR
    on_terminal = log.format == "console" or (log.format == "auto" and console.is_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=console.is_terminal and not console.no_color,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if on_terminal
        else [
            # Plain: a traceback with local variables would show secrets.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[log.level])
    # These tell of every request at `info`; ours is one line a unit of work.
    for chatty in ("stripe", "aiohttp.access", "alembic", "httpx"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, _LEVELS[log.level]))
    # It tells of every request at `debug`, with all that is in it: the SASL password is in one.
    logging.getLogger("aiokafka.conn").setLevel(max(logging.INFO, _LEVELS[log.level]))


def get_logger(name: str) -> Any:
    """Return a logger; get it where it is used, so that importing `pipeline` does nothing."""
    return structlog.stdlib.get_logger(name)
