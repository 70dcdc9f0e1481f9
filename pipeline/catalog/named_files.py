"""Read the files that a tenant file names: policies and contracts."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.catalog.policies import PRESETS, preset, read_policies
from pipeline.errors import ConfigurationError
from pipeline.resolve.policy import Policy

Versions = dict[str, tuple[Policy, ...]]  # of each policy, by its name


def presets() -> Versions:
    """Return the policies that come with resmeter."""
    return {name: (preset(name),) for name in PRESETS}


def read_versions(path: Path, patterns: Any) -> tuple[Versions, list[str]]:
    """Return the versions of all policies, presets first, and the problems."""
    versions = presets()
    texts, problems = read_files(path, "policy_files", patterns)
    labels: dict[tuple[str, int], str] = {(name, preset(name).version): name for name in PRESETS}
    try:
        policies = read_policies(texts)
    except ConfigurationError as error:
        # If a tenant names a policy whose file has problems, do not report the name as well.
        return versions | dict.fromkeys(names_in(texts), ()), [*problems, *error.problems]
    for label, policy in zip(texts, policies, strict=True):
        other = labels.get((policy.name, policy.version))
        if other is not None:
            problems.append(
                f"{label}: {policy.name!r} version {policy.version} already exists in {other}: "
                "change its name or its version"
            )
            continue
        labels[policy.name, policy.version] = label
        versions[policy.name] = (*versions.get(policy.name, ()), policy)
    return versions, problems


def read_files(path: Path, key: str, patterns: Any) -> tuple[dict[str, str], list[str]]:
    """Return the text of each file that a key names by its path, and the problems."""
    if not isinstance(patterns, list) or not all(p and isinstance(p, str) for p in patterns):
        return {}, [f"{path}: {key}: must be a list of paths"]
    texts: dict[str, str] = {}
    problems: list[str] = []
    for pattern in patterns:
        if Path(pattern).is_absolute():
            files = [Path(pattern)]
        else:
            try:
                files = sorted(path.parent.glob(pattern))
            except (IndexError, ValueError, NotImplementedError):
                files = []  # such as ".", which is not a pattern
        if not files:
            problems.append(f"{path}: {key}: no file matches {pattern!r}")
        for file in files:
            try:
                texts[str(file)] = file.read_text("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: cannot be read: {error}")
    return texts, problems


def names_in(texts: Mapping[str, str]) -> list[str]:
    """Return the names in texts, of which some may have problems."""
    names = []
    for text in texts.values():
        with suppress(tomllib.TOMLDecodeError):
            table = tomllib.loads(text)
            versions = table.get("versions", [])
            tables = [table, *versions] if isinstance(versions, list) else [table]
            names += [
                str(each["name"]) for each in tables if isinstance(each, dict) and "name" in each
            ]
    return names
