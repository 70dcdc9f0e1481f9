"""Programs that no Python package brings, and that some tests need.

Each has a module: `find` says where it is, `fetch` gets it. A test that needs one has its name as a
marker. Without the program the test is left out, and the end of the output says so; CI requires it.
"""

import os
import subprocess
import sys
from collections.abc import Callable


def ensure(find: Callable[[], object], fetch: Callable[[], None], missing: str) -> int:
    """Fetch a program if there is none, and return the exit status.

    Under CI, a program that cannot be fetched is a failure; otherwise `missing` is printed.
    """
    if find() is None:
        try:
            fetch()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{missing} ({error})", file=sys.stderr)
            return 1 if os.environ.get("CI") else 0
    return 0
