"""Prometheus' own checker of rules, `promtool`.

No Python package brings it: a machine has it from Prometheus, from Debian's package of that name, or from
Homebrew. `python -m tests.support.promtool` takes the program out of Debian's package and puts it into
the virtual environment, without installing or starting anything else.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.programs import ensure

HOW_TO_INSTALL = "`apt-get install prometheus` or `brew install prometheus` brings it"
MISSING = f"The alarms' rules are not tested: there is no promtool; {HOW_TO_INSTALL}"
_IN_ENVIRONMENT = Path(sys.prefix) / "bin" / "promtool"


def find() -> str | None:
    """Return the path of promtool: on PATH, or in this virtual environment."""
    if found := shutil.which("promtool"):
        return found
    return str(_IN_ENVIRONMENT) if _IN_ENVIRONMENT.is_file() else None


def fetch() -> None:
    """Take promtool out of Debian's package.

    Raises:
        OSError: the machine has no `apt-get`, or the environment cannot be written.
        subprocess.CalledProcessError: the package cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            # A new machine knows no packages yet. If the update fails, an older list may do.
            subprocess.run(["apt-get", "update", "-qq"], check=False)
        # As root, apt would fetch as another user, who cannot write this folder.
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "prometheus"]
        subprocess.run(download, check=True, cwd=folder)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
        shutil.copy(Path(folder) / "usr" / "bin" / "promtool", _IN_ENVIRONMENT)


if __name__ == "__main__":
    sys.exit(ensure(find, fetch, MISSING))
