"""The catalog's valid entries as lines of JSON, with the times at which they were appended. Pure."""

from collections.abc import Iterable

import msgspec

from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.value import Catalog
from pipeline.decoding import json_decoder
from pipeline.errors import ConfigurationError


class ExportedEntry(msgspec.Struct, frozen=True):
    """One line: an entry as it was published, when it was appended, and its number and digest."""

    number: int
    digest: str
    appended_ms: int
    value: str


_encode = msgspec.json.Encoder().encode
_decode = json_decoder(ExportedEntry)


def encode_export(verdicts: Iterable[Verdict]) -> bytes:
    """Return a line for each valid entry of a catalog that is whole; void entries are left out."""
    lines: list[bytes] = []
    for verdict in verdicts:
        if verdict.number == 1:
            lines.clear()  # a beginning that was never finished came before
        if verdict.number:
            exported = ExportedEntry(
                verdict.number, verdict.digest, verdict.appended_ms, verdict.record.value.decode()
            )
            lines.append(_encode(exported) + b"\n")
    return b"".join(lines)


def decode_export(label: str, content: bytes) -> tuple[Catalog, list[ExportedEntry]]:
    """Read an export; return the catalog and its entries.

    Raises:
        ConfigurationError: it is not an export, or its entries do not follow one another.
        UnknownEntryError: a newer version of resmeter wrote it.
    """
    catalog = Catalog()
    entries: list[ExportedEntry] = []
    for number, line in enumerate(content.splitlines(), 1):
        where = f"{label}: line {number}"
        try:
            exported = _decode(line)
        except ValueError as error:
            raise ConfigurationError([f"{where} is no entry of an export: {error}"]) from error
        record = Appended(number - 1, exported.appended_ms, exported.value.encode())
        catalog, verdict = read(catalog, record)
        if verdict.reason or (verdict.number, verdict.digest) != (number, exported.digest):
            why = verdict.reason or "it was changed"
            raise ConfigurationError([f"{where} does not follow the entries before: {why}"])
        entries.append(exported)
    if not catalog.is_whole:
        raise ConfigurationError([f"{label}: the export has no whole catalog; export it again"])
    return catalog, entries
