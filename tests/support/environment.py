"""The environment of the processes that a test starts."""

import os


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without the developer's own settings of resmeter."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RESMETER_")}
