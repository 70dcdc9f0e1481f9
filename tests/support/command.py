"""Run `resmeter` commands in the test's own process, which saves the imports of a new process."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping

import structlog
from click.testing import CliRunner

from pipeline.cli import main


def resmeter(
    *arguments: str, env: Mapping[str, str], given: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command that ends by itself; `env` is its whole environment, `given` its input."""
    whole_env = {**dict.fromkeys(os.environ), **env}  # None removes a variable
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    with CliRunner().isolation(given, whole_env) as (out, err, _):
        try:
            main(arguments)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            root.handlers[:], root.level = handlers, level
            sys.excepthook, threading.excepthook = hooks
            structlog.reset_defaults()
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
