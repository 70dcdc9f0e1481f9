"""The environment of the processes that a test starts."""

import os


def clean_environment() -> dict[str, str]:
    """Return the environment without the settings that the developer's shell has."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RESMETER_")}
