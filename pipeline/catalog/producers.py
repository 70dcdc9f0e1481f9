"""This file reads who may write events, and for which tenants: `[producers]` of the tenant file.

The file names where each secret is, never the secret: it is read by whoever checks signatures, or
makes them, and by nobody else.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pipeline.config import read_variable
from pipeline.errors import ConfigurationError
from pipeline.events.signature import KEY_ID, SECRET_BYTES_MIN, Key

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
ALL_TENANTS = "*"


class Producer(msgspec.Struct, frozen=True):
    """An entry of `[producers]`. `where` names it in messages; one of the two sources is set."""

    where: str
    tenants: frozenset[str] | None  # None: all
    secret_env: str | None = None
    secret_file: Path | None = None


def read_producers(path: Path, table: Any, problems: list[str]) -> dict[str, Producer]:
    """Return the producers by key id; what is wrong is added to `problems`.

    Args:
        path: of the tenant file: paths of secrets are relative to it.
        table: what `[producers]` holds.
        problems: of the file so far.
    """
    if not isinstance(table, dict) or not table:
        problems.append(f"{path}: producers: is not a table: write [producers.KEYID]")
        return {}
    producers: dict[str, Producer] = {}
    for key_id, entry in table.items():
        where = f"{path}: producers.{key_id}"
        found = _problems(where, key_id, entry)
        problems.extend(found)
        if not found:
            named, file = entry["tenants"], entry.get("secret_file")
            producers[key_id] = Producer(
                where,
                None if named == ALL_TENANTS else frozenset(named),
                entry.get("secret_env"),
                None if file is None else path.parent / file,
            )
    return producers


def _problems(where: str, key_id: str, entry: Any) -> list[str]:
    found = []
    if not KEY_ID.fullmatch(key_id):
        found.append(f"{where}: is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(entry, dict):
        return [*found, f"{where}: is not a table: write [producers.{key_id}]"]
    # Values are not repeated: a secret may stand where its name should.
    found += [
        f"{where}.{name}: is no key of a producer"
        for name in entry
        if name not in {"tenants", "secret_env", "secret_file"}
    ]
    if ("secret_env" in entry) == ("secret_file" in entry):
        found.append(f"{where}: name the secret by one of secret_env and secret_file")
    variable = entry.get("secret_env", "NAME")
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        found.append(f"{where}.secret_env: is not the name of an environment variable")
    file = entry.get("secret_file", "path")
    if not isinstance(file, str) or not file:
        found.append(f"{where}.secret_file: is not the path of a file")
    tenants = entry.get("tenants")
    if tenants != ALL_TENANTS and not (
        isinstance(tenants, list)
        and tenants
        and all(isinstance(t, str) and _TENANT.fullmatch(t) for t in tenants)
    ):
        found.append(f'{where}.tenants: is not a list of tenants, such as ["acme"], nor "*"')
    return found


def load_keys(
    producers: Mapping[str, Producer], only: Iterable[str] | None = None
) -> dict[str, Key]:
    """Return the keys with their secrets, read now; `only` names those that are needed.

    Raises:
        ConfigurationError: with every secret that is not there, or too short.
    """
    problems: list[str] = []
    keys: dict[str, Key] = {}
    for key_id in producers if only is None else only:
        producer = producers.get(key_id)
        if producer is None:
            known = ", ".join(producers) or "none"
            problems.append(f"there is no producer {key_id!r} in the tenant file: {known} is there")
            continue
        secret = _secret(producer, problems)
        if secret is None:
            continue
        if len(secret) < SECRET_BYTES_MIN:
            problems.append(
                f"{producer.where}: the secret has {len(secret)} bytes; make one of at least "
                f"{SECRET_BYTES_MIN}, such as by `openssl rand -hex 32`"
            )
        else:
            keys[key_id] = Key(secret, producer.tenants)
    if problems:
        raise ConfigurationError(problems)
    return keys


def _secret(producer: Producer, problems: list[str]) -> bytes | None:
    if producer.secret_env is not None:
        value = read_variable(producer.secret_env)
        if value is None:
            problems.append(
                f"{producer.where}: the environment variable {producer.secret_env} is not set"
            )
        return None if value is None else value.strip().encode()
    assert producer.secret_file is not None
    try:
        # What an editor or `echo` leaves at the end is no part of it.
        return producer.secret_file.read_bytes().strip()
    except OSError as error:
        problems.append(f"{producer.where}: {producer.secret_file}: {error.strerror}")
        return None
