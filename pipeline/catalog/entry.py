"""What one entry of the catalog's log has. Pure.

An entry is the value of one record, in JSON. It adds to the entries before it, and has everything
written out: policies without a base, so that a release that changes a preset changes no past.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import msgspec

from pipeline.billing.contract import Terms
from pipeline.errors import ConfigurationError
from pipeline.resolve.policy import Policy

# A version that knows no amendments, or no accounts, must not pass over one.
_PLAIN_FORM, AMENDING_FORM, _ACCOUNTS_FORM = 1, 2, 3
FORM = _ACCOUNTS_FORM  # the newest that this version reads
ENTRY_BYTES_MAX = 512 * 1024
_PARTS_OF_ACCOUNTS = ("contracts", "accounts", "members")
# Policies and contracts before who has them.
_PARTS = ("policies", "default", "meters", "keys", *_PARTS_OF_ACCOUNTS, "tenants")
_ROOM_BYTES = 4_096  # for everything but the parts: who, why and the digests


class Assigned(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy, and from when it is assigned, ms; None: from the start."""

    name: str = msgspec.field(name="policy")
    from_ms: int | None = None


class Dated(msgspec.Struct, frozen=True, omit_defaults=True):
    """A contract or an account, and from when it holds, ms; None: from the start.

    An empty name ends what was in force before.
    """

    name: str = ""
    from_ms: int | None = None


class ContractVersion(msgspec.Struct, frozen=True):
    """One version of a contract, with its amounts in minor units of its currency."""

    name: str
    version: int
    currency: str
    terms: Terms


class Grant(msgspec.Struct, frozen=True):
    """For which tenants a producer's key signs, and from when. None: for all; empty: for none."""

    tenants: tuple[str, ...] | None
    from_ms: int | None = None


class TenantTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an entry adds to a tenant. `customer` acts at once; empty: the tenant has none now.

    An account has the customer of the tenant that has its name.
    """

    assigned: tuple[Assigned, ...] = ()
    customer: str | None = None


class Amendment(msgspec.Struct, frozen=True):
    """What a rebill plan decides a past time by, instead of what was in force: `from_ms <= t < to_ms`.

    Workers do not follow it: what they decided stays, and the plan corrects it.
    """

    policy: Policy
    from_ms: int
    to_ms: int
    tenant_id: str | None  # None: all tenants
    plan: str  # the id of the rebill plan
    made_ms: int  # when the plan was made: its corrections have this time

    def covers(self, tenant_id: str) -> bool:
        return self.tenant_id in {None, tenant_id}


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an entry adds. Times are in milliseconds since the epoch."""

    parent: str  # the digest of the entry before; empty: this one begins the catalog
    who: str
    why: str
    form: int = 0  # never omitted: `entries_of`, `withdrawal` and `amending` set it
    goes_on: bool = False  # the beginning goes on in the next entry
    lead_ms: int = 0  # set in the first entry
    policies: tuple[Policy, ...] = ()
    default: tuple[Assigned, ...] = ()  # the policies of tenants that have none of their own
    tenants: dict[str, TenantTerms] = {}
    meters: dict[str, str] = {}  # event names by outcome, at once; empty: the usual name
    keys: dict[str, Grant] = {}  # of producers, by key id; no secret
    withdraws: str = ""  # the digest of an entry whose dated parts are taken back
    amends: Amendment | None = None
    contracts: tuple[ContractVersion, ...] = ()
    accounts: dict[str, tuple[Dated, ...]] = {}  # the contracts of each account
    members: dict[str, tuple[Dated, ...]] = {}  # the accounts of each tenant


class Additions(msgspec.Struct):
    """The parts of an entry before it is cut, with the same names."""

    policies: list[Policy] = []
    default: list[Assigned] = []
    meters: dict[str, str] = {}
    keys: dict[str, Grant] = {}
    tenants: dict[str, TenantTerms] = {}
    contracts: list[ContractVersion] = []
    accounts: dict[str, tuple[Dated, ...]] = {}
    members: dict[str, tuple[Dated, ...]] = {}

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, part) for part in _PARTS)


def encode_entry(entry: Entry) -> bytes:
    return msgspec.json.encode(entry)


def digest_of(value: bytes) -> str:
    return sha256(value).hexdigest()


def uncut(additions: Additions, parent: str, lead_ms: int) -> Entry:
    """Return one entry that adds all of it, for a catalog that nobody publishes."""
    parts: dict[str, Any] = {
        name: tuple(of) if isinstance(of, list) else of
        for name, of in ((name, getattr(additions, name)) for name in _PARTS)
    }
    return Entry(parent=parent, who="", why="", lead_ms=lead_ms, **parts)


def entries_of(
    additions: Additions, parent: str, who: str, why: str, lead_ms: int = 0
) -> list[bytes]:
    """Return the values of the entries that add all of it, each of at most 512 KiB.

    Args:
        additions: what to add.
        parent: the digest of the catalog's last entry; empty: these entries begin a catalog.
        who: who publishes them.
        why: the reason.
        lead_ms: the lead of a catalog that begins.

    Raises:
        ConfigurationError: something alone is too large for an entry.
    """
    begins = not parent
    parts = list(_cut(additions)) or [{}]
    values: list[bytes] = []
    for number, part in enumerate(parts):
        entry = Entry(
            parent=parent,
            who=who,
            why=why,
            form=_PLAIN_FORM if part.keys().isdisjoint(_PARTS_OF_ACCOUNTS) else _ACCOUNTS_FORM,
            goes_on=begins and number < len(parts) - 1,
            lead_ms=lead_ms if number == 0 else 0,
            **part,
        )
        values.append(encode_entry(entry))
        parent = digest_of(values[-1])
    return values


def withdrawal(parent: str, withdraws: str, who: str, why: str) -> bytes:
    """Return the value of an entry that takes back what another entry dated."""
    return encode_entry(
        Entry(parent=parent, who=who, why=why, form=_PLAIN_FORM, withdraws=withdraws)
    )


def amending(parent: str, amendment: Amendment, who: str, why: str) -> bytes:
    """Return the value of an entry that says what a rebill plan decides a past time by."""
    return encode_entry(
        Entry(parent=parent, who=who, why=why, form=AMENDING_FORM, amends=amendment)
    )


def _cut(additions: Additions) -> Iterator[dict[str, Any]]:
    part: dict[str, Any] = {}
    room = ENTRY_BYTES_MAX - _ROOM_BYTES
    left = room
    for name, key, item in _items(additions):
        size = len(msgspec.json.encode((key, item))) + 16
        if size > room:
            raise ConfigurationError(
                [
                    (
                        f"{name} {key}: has {size:,} bytes in the catalog; an entry has at most "
                        f'{ENTRY_BYTES_MAX:,}. List fewer tenants, or "*"'
                    )
                ]
            )
        if size > left:
            yield part
            part, left = {}, room
        left -= size
        if isinstance(getattr(additions, name), dict):
            part.setdefault(name, {})[key] = item
        else:
            part[name] = (*part.get(name, ()), item)
    if part:
        yield part


def _items(additions: Additions) -> Iterable[tuple[str, str, Any]]:
    for name in _PARTS:
        of = getattr(additions, name)
        if isinstance(of, dict):
            yield from ((name, key, item) for key, item in of.items())
        else:
            yield from ((name, "", item) for item in of)
