"""Sign records of the events topic, and verify that a producer may write for a tenant. Pure.

Kafka does not tell a consumer which producer wrote a record, and Kafka's ACLs apply to a whole
topic: any producer of the topic could write for any tenant. To prevent this, give each producer a
key that lists the tenants it may write for.

The header `resmeter-signature` is `v1:<key id>:<64 hex digits>`, with an HMAC-SHA256 under the key's
secret. It covers the following parts, each preceded by its length, so that no two records have the
same signed text:

=============  =============================================================================
part           why
=============  =============================================================================
`v1`           a signature of another version is never valid as version 1
key id         a secret signs only under its own key id
record key     the tenant and the conversation, which must be those of the event
value          the event
some headers   `ce_*` and `content-type`, in their order. They decide the mode, and in binary
               mode they have the event's attributes. Other headers may be added later
=============  =============================================================================

A copy of a signed record is also valid. It has the same event, which counts once.
"""

import hashlib
import hmac
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import msgspec

from pipeline.events.model import Headers, Rejected

SIGNATURE_HEADER = "resmeter-signature"
SECRET_BYTES_MIN = 32
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_ALWAYS = -(2**62)
_SIGNATURE = re.compile(rb"v1:([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")


class Key(msgspec.Struct, frozen=True):
    """A producer's secret, and the tenants that it may write for; None means all."""

    secret: bytes
    tenants: frozenset[str] | None

    def __repr__(self) -> str:
        return f"Key(secret=..., tenants={self.tenants})"


class KeyRing:
    """The keys of the producers, each from the time at which it comes into force.

    Args:
        dated: from when, in ms, which keys are in force, by time. Where that is None, and before
            the first of these times, no signature is required.
    """

    def __init__(self, dated: Sequence[tuple[int, Mapping[str, Key] | None]]) -> None:
        self._from_ms = tuple(from_ms for from_ms, _ in dated)
        self._keys = tuple(keys for _, keys in dated)

    @classmethod
    def of(cls, keys: Mapping[str, Key]) -> "KeyRing":
        """Return a ring of keys that are in force at any time; of no keys: no signature is required."""
        return cls([(_ALWAYS, keys or None)])

    @property
    def requires_signatures(self) -> bool:
        """Whether signatures are required at any time."""
        return any(keys is not None for keys in self._keys)

    def at(self, arrival_ms: int) -> Mapping[str, Key] | None:
        """Return the keys of a record that arrived at a time; None: it needs no signature."""
        number = bisect_right(self._from_ms, arrival_ms)
        return self._keys[number - 1] if number else None


def sign(
    key_id: str, secret: bytes, key: bytes | None, value: bytes | None, headers: Headers
) -> bytes:
    """Return the value of the header `resmeter-signature`, for a record with these headers."""
    digest = hmac.digest(secret, _covered(key_id, key, value, headers), hashlib.sha256)
    return f"v1:{key_id}:{digest.hex()}".encode()


def verify(
    keys: Mapping[str, Key],
    tenant_id: str,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> Rejected | None:
    """Return why the record is not authorized to write for the tenant, or None if it is.

    Args:
        keys: the producers' keys, by key id.
        tenant_id: the event's tenant; `check_record` compares it with the record's key.
        key: the record's key.
        value: the record's value.
        headers: all of the record's headers.
    """
    given = [content for name, content in headers if name == SIGNATURE_HEADER]
    if len(given) != 1:
        return _rejected("is missing" if not given else f"occurs {len(given)} times")
    match = _SIGNATURE.fullmatch(given[0] or b"")
    if match is None:
        return _rejected("must be v1:<key id>:<64 hex digits>")
    key_id = match[1].decode()
    known = keys.get(key_id)
    if known is None:
        return _rejected(f"names the unknown key {key_id!r}; add the producer to the tenant file")
    expected = sign(key_id, known.secret, key, value, headers)
    if not hmac.compare_digest(expected, given[0] or b""):
        return _rejected(f"does not match this record and the secret of key {key_id!r}")
    if known.tenants is not None and tenant_id not in known.tenants:
        return _rejected(f"key {key_id!r} may not write for tenant {tenant_id!r}")
    return None


def signer_of(
    keys: Mapping[str, Key] | None, key: bytes | None, value: bytes | None, headers: Headers
) -> str | None:
    """Return the id of the key that signed a record, whatever it may write; None if no key did."""
    if keys is None:
        return None
    given = [content for name, content in headers if name == SIGNATURE_HEADER]
    found = _SIGNATURE.fullmatch(given[0] or b"") if len(given) == 1 else None
    known = None if found is None else keys.get(found[1].decode())
    if found is None or known is None:
        return None
    key_id = found[1].decode()
    expected = sign(key_id, known.secret, key, value, headers)
    return key_id if hmac.compare_digest(expected, given[0] or b"") else None


def _rejected(why: str) -> Rejected:
    return Rejected("not_authorized", f"{SIGNATURE_HEADER}: {why}")


def _covered(key_id: str, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    parts: list[bytes | None] = [b"v1", key_id.encode(), key, value]
    for name, content in headers:
        lowered = name.lower()
        if lowered == "content-type" or lowered.startswith("ce_"):
            parts += [name.encode("utf-8", "surrogateescape"), content]
    # An absent part gets a length that no real part has, because absent and empty must differ.
    return b"".join(
        b"\xff" * 8 if part is None else len(part).to_bytes(8, "big") + part for part in parts
    )
