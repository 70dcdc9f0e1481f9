"""Configure structlog: columns on a terminal, JSON lines elsewhere, always on standard error.

How to log: name the event by a constant such as `batch_delivered`, and pass facts as keyword
arguments: ids, never the content of an event. Write one line for a unit of work, such as a batch,
and none for a single record that is valid. `error` means that somebody must act. Lines of libraries,
librdkafka's too, have the same format; `lasting` holds back lines that repeat.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog
from rich.console import Console
from structlog.typing import EventDict, Processor

from pipeline.config import LogSettings
from pipeline.lasting import LastingFaults, is_of_library

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(log: LogSettings) -> None:
    """Set up structlog and `logging` for the process; a second call replaces the first."""
    console = Console(stderr=True)  # honours NO_COLOR
    on_terminal = not writes_json(log)
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
            # No local variables in tracebacks: they could contain secrets.
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
    handler.addFilter(LastingFaults())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _soften],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[log.level])
    # These log every request at `info`.
    for chatty in ("stripe", "aiohttp.access", "alembic", "httpx"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, _LEVELS[log.level]))
    # At `debug`, botocore logs what it signs, with the session's token.
    logging.getLogger("botocore").setLevel(max(logging.INFO, _LEVELS[log.level]))
    # At `debug`, aiokafka logs the content of every request, with the SASL password.
    logging.getLogger("aiokafka.conn").setLevel(max(logging.INFO, _LEVELS[log.level]))


def writes_json(log: LogSettings) -> bool:
    """Return whether the log consists of JSON lines, and not of columns."""
    return log.format == "json" or (log.format == "auto" and not Console(stderr=True).is_terminal)


def log_uncaught_exceptions() -> None:
    """Log uncaught exceptions of all threads instead of printing them."""

    def log(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and issubclass(kind, Exception):
            get_logger("resmeter").error(
                "uncaught_exception",
                error=f"{kind.__name__}: {error}",
                exc_info=(kind, error, trace),
            )

    sys.excepthook = log
    threading.excepthook = lambda args: log(args.exc_type, args.exc_value, args.exc_traceback)


def _soften(_: Any, __: str, event: EventDict) -> EventDict:
    # A Kafka client logs each failed attempt as an error, and then retries by itself.
    if event.get("level") in {"error", "critical"} and is_of_library(str(event.get("logger"))):
        event["level"] = "warning"
    return event


def get_logger(name: str) -> Any:
    """Return a logger. Call this where you log, so that importing a module does nothing."""
    return structlog.stdlib.get_logger(name)
