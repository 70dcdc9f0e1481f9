"""This file signs records of the events topic, and says whether a producer may write one. Pure.

Kafka tells a consumer nothing of who wrote a record, and its ACLs end at the topic. So a producer
that may write at all could write for any tenant. Where that matters, each producer has a key, and
each key the tenants that it may write for.

The header `resmeter-signature` is `v1:<key id>:<64 hex digits>`: an HMAC-SHA256 under the key's
secret. What it covers, each part with its length before it, so that no two records read the same:

=============  =============================================================================
part           why
=============  =============================================================================
`v1`           no signature of another form is one of this
key id         one producer's secret does not speak for another's key id
record key     tenant and conversation: the codec holds them against the event
value          the event
some headers   `ce_` and `content-type`, in their order: in binary mode they are the event, and
               they decide which mode it is. Others may be added on the way
=============  =============================================================================

A record that is sent again verifies again: its event is the same event, and counts once.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from pipeline.events.model import Rejected

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

HEADER = "resmeter-signature"
SECRET_BYTES_MIN = 32
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SIGNATURE = re.compile(rb"v1:([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


class Key(msgspec.Struct, frozen=True):
    """A producer's secret, and the tenants that it may write for; None: for all."""

    secret: bytes
    tenants: frozenset[str] | None

    def __repr__(self) -> str:
        return f"Key(secret=..., tenants={self.tenants})"


def sign(
    key_id: str, secret: bytes, key: bytes | None, value: bytes | None, headers: Headers
) -> bytes:
    """Return the value of the header `resmeter-signature` for a record with these other headers."""
    digest = hmac.digest(secret, _covered(key_id, key, value, headers), hashlib.sha256)
    return f"v1:{key_id}:{digest.hex()}".encode()


def verify(
    keys: Mapping[str, Key],
    tenant_id: str,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> Rejected | None:
    """Say why a record was not written by somebody who may write for its tenant, or None.

    Args:
        keys: by key id.
        tenant_id: of the event in the record; that the record's key names it too is not looked at.
        key: the record's.
        value: the record's.
        headers: all of the record's.
    """
    given = [content for name, content in headers if name == HEADER]
    if len(given) != 1:
        return _rejected("is absent" if not given else f"stands {len(given)} times")
    found = _SIGNATURE.fullmatch(given[0] or b"")
    if found is None:
        return _rejected("is not v1:<key id>:<64 hex digits>")
    key_id = found[1].decode()
    known = keys.get(key_id)
    if known is None:
        return _rejected(f"names the key {key_id!r}, which is not known")
    expected = sign(key_id, known.secret, key, value, headers)
    if not hmac.compare_digest(expected, given[0] or b""):
        return _rejected(f"was not made with the key {key_id!r} for this record")
    if known.tenants is not None and tenant_id not in known.tenants:
        return _rejected(f"is of the key {key_id!r}, which may not write for {tenant_id!r}")
    return None


def _rejected(why: str) -> Rejected:
    return Rejected("not_authorized", f"{HEADER}: {why}")


def _covered(key_id: str, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    parts: list[bytes | None] = [b"v1", key_id.encode(), key, value]
    for name, content in headers:
        lowered = name.lower()
        if lowered == "content-type" or lowered.startswith("ce_"):
            parts += [name.encode("utf-8", "surrogatepass"), content]
    # Absent is not empty: a length of its own stands for it.
    return b"".join(
        b"\xff" * 8 if part is None else len(part).to_bytes(8, "big") + part for part in parts
    )
