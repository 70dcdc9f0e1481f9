"""Check the versions of the libraries whose private hooks `faust_runtime` uses.

This module imports neither library: a version without one of the hooks cannot be imported by
`faust_runtime`, so the check comes first.
"""

import importlib.metadata
from collections.abc import Callable

from pipeline.errors import ConfigurationError

VERSIONS = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}


def check_versions(installed: Callable[[str], str] = importlib.metadata.version) -> None:
    """Check that the libraries have the versions that we know.

    Raises:
        ConfigurationError: another version is installed; a hook may have moved.
    """
    problems = [
        f"{name} {found} is installed, but resmeter needs {name}=={wanted}, whose internals it "
        f"extends: pip install {name}=={wanted}"
        for name, wanted in VERSIONS.items()
        if (found := installed(name)) != wanted
    ]
    if problems:
        raise ConfigurationError(problems)
