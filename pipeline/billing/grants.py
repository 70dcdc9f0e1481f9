"""Packs of bought units, credits of money, credit notes, and their voids. Pure.

docs/reference/money.md §2.3. A grant is never edited: a void ends it.
"""

from typing import Literal, NamedTuple

import msgspec

from pipeline.billing.periods import NEVER_MS


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """Bought units, drawn down at any time in between."""

    id: str
    created_at: int
    outcomes: frozenset[str]
    units: int
    starts_at: int
    ends_at: int = NEVER_MS


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """Money that pays for metered units."""

    id: str
    created_at: int
    amount: int  # minor units
    starts_at: int
    ends_at: int = NEVER_MS


Goes = Literal["refund", "out_of_band"]


class CreditNote(msgspec.Struct, frozen=True, kw_only=True):
    """Money that was carried, and that a credit note on an earlier invoice gives back instead."""

    id: str
    created_at: int
    amount: int  # minor units
    invoice: str  # the id of the invoice at the biller
    of_period: int  # the start of the closed period that left the money
    goes: Goes | None = None  # where money goes that is paid


class Void(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a grant. It takes units of a pack, or an amount of a credit in minor units.

    A credit note that was never made is void: its whole amount is carried again.
    """

    grant: str
    created_at: int
    takes: int


Grant = Pack | Credit | CreditNote | Void


def entered_order(grant: Grant) -> tuple[int, str, bool]:
    """Return the key that sorts grants as they are taken: by time of entry, then by id."""
    if isinstance(grant, Void):
        return grant.created_at, grant.grant, True
    return grant.created_at, grant.id, False


class OpenPack(msgspec.Struct):
    """A pack as an account has it: what each period has drawn."""

    pack: Pack
    from_ms: int  # from when it works
    void_ms: int = NEVER_MS
    taken: int = 0  # units that a void took
    use: dict[int, int] = {}  # by period's start

    @property
    def is_void(self) -> bool:
        return self.void_ms < NEVER_MS

    def overlaps(self, start_ms: int, end_ms: int) -> bool:
        return self.from_ms < end_ms and start_ms < self.pack.ends_at

    def left_at(self, ms: int) -> int:
        """Return how many units are left for the periods that start at a time or later."""
        used = sum(units for start_ms, units in self.use.items() if start_ms < ms)
        return self.pack.units - self.taken - used


class OpenCredit(msgspec.Struct):
    """A credit as an account has it."""

    credit: Credit
    from_ms: int
    left: int
    is_void: bool = False


class Draw(msgspec.Struct):
    """What a statement took from a credit; `paid` is less what went back since."""

    grant: str
    paid: int


class PackLeft(NamedTuple):
    """What a period may draw from a pack."""

    id: str
    outcomes: frozenset[str]
    from_ms: int
    until_ms: int  # its end, or its void if that is earlier
    left: int


def packs_for(packs: dict[str, OpenPack], start_ms: int, end_ms: int) -> tuple[PackLeft, ...]:
    """Return the packs that a period may draw from, those that end first before the others."""
    overlapping = [each for each in packs.values() if each.overlaps(start_ms, end_ms)]
    return tuple(
        PackLeft(
            each.pack.id,
            each.pack.outcomes,
            each.from_ms,
            min(each.pack.ends_at, each.void_ms),
            each.left_at(start_ms),
        )
        for each in sorted(overlapping, key=lambda each: (each.pack.ends_at, each.pack.id))
    )
