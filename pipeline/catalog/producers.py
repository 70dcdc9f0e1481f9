"""Read which producers may write events, and for which tenants: `[producers]` of the tenant file.

The file says where each secret is, and never contains the secret. Only a process that makes or
verifies signatures reads the secrets, with `load_keys`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.catalog.value import NEVER, START, DatedGrant
from pipeline.config import read_variable
from pipeline.errors import ConfigurationError
from pipeline.events.model import TENANT_ID
from pipeline.events.signature import KEY_ID, SECRET_BYTES_MIN, Key, KeyRing

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_KEYS = ("tenants", "secret_env", "secret_file")
ALL_TENANTS = "*"


class Producer(msgspec.Struct, frozen=True):
    """An entry of `[producers]`. Messages name it by `where`; one of the two sources is set."""

    where: str
    tenants: frozenset[str] | None  # None: all
    secret_env: str | None = None
    secret_file: Path | None = None


def read_producers(path: Path, table: Any) -> dict[str, Producer]:
    """Return the producers by key id.

    Args:
        path: the tenant file. Paths of secret files are relative to its folder.
        table: its table `producers`.

    Raises:
        ConfigurationError: with all problems of the table.
    """
    if not isinstance(table, dict) or not table:
        raise ConfigurationError([f"{path}: producers: must be a table: write [producers.KEYID]"])
    problems: list[str] = []
    producers: dict[str, Producer] = {}
    for key_id, entry in table.items():
        where = f"{path}: producers.{key_id}"
        problems_of_entry = _problems_of(where, key_id, entry)
        problems += problems_of_entry
        if not problems_of_entry:
            tenants, file = entry["tenants"], entry.get("secret_file")
            producers[key_id] = Producer(
                where,
                None if tenants == ALL_TENANTS else frozenset(tenants),
                entry.get("secret_env"),
                None if file is None else path.parent / file,
            )
    if problems:
        raise ConfigurationError(problems)
    return producers


def _problems_of(where: str, key_id: str, entry: Any) -> list[str]:
    # No message repeats a value: it may be a secret in the wrong place.
    problems = []
    if not KEY_ID.fullmatch(key_id):
        problems.append(f"{where}: the key id must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(entry, dict):
        return [*problems, f"{where}: must be a table: write [producers.{key_id}]"]
    problems += [f"{where}.{name}: unknown key" for name in entry if name not in _KEYS]
    if ("secret_env" in entry) == ("secret_file" in entry):
        problems.append(f"{where}: set exactly one of secret_env and secret_file")
    variable = entry.get("secret_env", "NAME")
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        problems.append(f"{where}.secret_env: must be the name of an environment variable")
    file = entry.get("secret_file", "path")
    if not isinstance(file, str) or not file:
        problems.append(f"{where}.secret_file: must be the path of a file")
    tenants = entry.get("tenants")
    if tenants != ALL_TENANTS and not (
        isinstance(tenants, list)
        and tenants
        and all(isinstance(t, str) and TENANT_ID.fullmatch(t) for t in tenants)
    ):
        problems.append(f'{where}.tenants: must be a list of tenants, such as ["acme"], or "*"')
    return problems


def load_keys(
    producers: Mapping[str, Producer], only: Iterable[str] | None = None
) -> dict[str, Key]:
    """Read the producers' secrets, and return the keys by key id.

    Args:
        producers: by key id.
        only: the key ids that are needed; None means all.

    Raises:
        ConfigurationError: with every secret that is missing or too short.
    """
    problems: list[str] = []
    keys: dict[str, Key] = {}
    for key_id in producers if only is None else only:
        producer = producers.get(key_id)
        if producer is None:
            known = ", ".join(producers) or "none"
            problems.append(f"the tenant file has no producer {key_id!r}; it has: {known}")
            continue
        try:
            keys[key_id] = Key(_secret(producer), producer.tenants)
        except ValueError as error:
            problems.append(f"{producer.where}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return keys


class MissingSecret(NamedTuple):
    """A secret that a process lacks for records that arrive between two times, ms, and why."""

    from_ms: int
    until_ms: int  # NEVER, unless the key signs for nobody from then on
    text: str

    @property
    def is_revoked(self) -> bool:
        return self.until_ms != NEVER


def load_ring(
    granted: Mapping[str, Sequence[DatedGrant]], producers: Mapping[str, Producer]
) -> tuple[KeyRing, list[MissingSecret]]:
    """Read the secrets of the keys in the catalog; return the keys, and which secrets are missing.

    Args:
        granted: for whom each key signs, by key id and in the order of the dates.
        producers: where this process finds the secrets, by key id.
    """
    secrets: dict[str, bytes] = {}
    missing: list[MissingSecret] = []
    for key_id, grants in granted.items():
        why = "RESMETER_CONFIG says nothing about its secret"
        if key_id in producers:
            try:
                secrets[key_id] = _secret(producers[key_id])
                continue
            except ValueError as error:
                why = str(error)
        missing += [
            MissingSecret(from_ms, until_ms, f"producers.{key_id}: {why}")
            for from_ms, until_ms in _signing(grants)
        ]
    times = sorted({_since(grant) for grants in granted.values() for grant in grants})
    return KeyRing([(at_ms, _keys_at(granted, secrets, at_ms)) for at_ms in times]), missing


def _keys_at(
    granted: Mapping[str, Sequence[DatedGrant]], secrets: Mapping[str, bytes], at_ms: int
) -> dict[str, Key] | None:
    in_force: dict[str, tuple[str, ...] | None] = {}
    for key_id, grants in granted.items():
        begun = [grant.tenants for grant in grants if _since(grant) <= at_ms]
        if begun and begun[-1] != ():
            in_force[key_id] = begun[-1]
    if not in_force:
        return None
    return {
        key_id: Key(secrets[key_id], None if tenants is None else frozenset(tenants))
        for key_id, tenants in in_force.items()
        if key_id in secrets
    }


def _signing(grants: Sequence[DatedGrant]) -> list[tuple[int, int]]:
    """Return the times, ms, between which a key signs for somebody without a break."""
    times: list[tuple[int, int]] = []
    since_ms: int | None = None
    for grant in grants:
        if grant.tenants == () and since_ms is not None:
            times.append((since_ms, _since(grant)))
            since_ms = None
        elif grant.tenants != () and since_ms is None:
            since_ms = _since(grant)
    return times if since_ms is None else [*times, (since_ms, NEVER)]


def _since(grant: DatedGrant) -> int:
    return START if grant.from_ms is None else grant.from_ms


def _secret(producer: Producer) -> bytes:
    if producer.secret_env is not None:
        value = read_variable(producer.secret_env)
        if value is None:
            raise ValueError(f"the environment variable {producer.secret_env} is not set")
        secret = value.strip().encode()
    else:
        assert producer.secret_file is not None
        try:
            # Editors and `echo` add a newline at the end.
            secret = producer.secret_file.read_bytes().strip()
        except OSError as error:
            raise ValueError(f"{producer.secret_file}: {error.strerror}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(
            f"the secret has {len(secret)} bytes; make one of at least {SECRET_BYTES_MIN}, "
            "for example with `openssl rand -hex 32`"
        )
    return secret
