"""Stripe's own `stripe-mock`, which knows the parameters of every call, and Stripe's specification.

No Python package brings them. `python -m tests.support.stripe_mock` builds the program with Go and puts
it into the virtual environment, with the specification that it was made from.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from tests.support.programs import ensure

VERSION = "0.203.0"  # of the specification 2026-08-26
MISSING = (
    "The calls to Stripe are not compared with its specification: stripe-mock needs Go to be built"
)
_MODULE = f"github.com/stripe/stripe-mock@v{VERSION}"
_BIN = Path(sys.prefix) / "bin"
_PROGRAM = _BIN / f"stripe-mock-{VERSION}"
_SPECIFICATION = _BIN / f"stripe-mock-{VERSION}.json"


class StripeMock(NamedTuple):
    """Where the program is, and the specification (OpenAPI)."""

    program: Path
    specification: Path


def find() -> StripeMock | None:
    """Return where both are, in this virtual environment, or None."""
    if _PROGRAM.is_file() and _SPECIFICATION.is_file():
        return StripeMock(_PROGRAM, _SPECIFICATION)
    return None


def fetch() -> None:
    """Build the program, and copy the specification out of its source.

    Raises:
        OSError: the machine has no `go`, or the environment cannot be written.
        subprocess.CalledProcessError: the module cannot be fetched or built.
    """
    go = shutil.which("go") or "/usr/local/go/bin/go"
    with tempfile.TemporaryDirectory(dir=_BIN) as folder:
        env = {**os.environ, "GOBIN": folder}
        described = subprocess.run(
            [go, "mod", "download", "-json", _MODULE],
            check=True,
            cwd=folder,
            stdout=subprocess.PIPE,
        )
        subprocess.run([go, "install", _MODULE], check=True, cwd=folder, env=env)
        source = Path(json.loads(described.stdout)["Dir"])
        shutil.copyfile(source / "embedded" / "openapi" / "spec3.json", _SPECIFICATION)
        (Path(folder) / "stripe-mock").replace(_PROGRAM)


@contextmanager
def running(found: StripeMock) -> Iterator[str]:
    """Run the program on free loopback ports; yield its address."""
    any_port = "127.0.0.1:0"
    process = subprocess.Popen(
        [found.program, "-http-addr", any_port, "-https-addr", any_port],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://{_address(process.stdout)}"
    finally:
        process.terminate()
        process.stdout.close()
        process.wait()


def _address(output: IO[str]) -> str:
    """Return the address that the program prints; the pipe ends if the program does."""
    seen = ""
    for line in output:
        seen += line
        if match := re.search(r"Listening for HTTP at address: (\S+)", line):
            return match[1]
    raise AssertionError(f"stripe-mock did not start: {seen}")


if __name__ == "__main__":
    sys.exit(ensure(find, fetch, MISSING))
