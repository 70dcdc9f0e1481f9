"""What the journal says of accounts: closings, grants and approvals, and which of them are valid. Pure.

All ledgers read the same entries in the same order. So they have the same closings, grants and
approvals, and make the same final statements of the same usage records.
"""

from collections.abc import Iterable
from decimal import Decimal

import msgspec
from msgspec.structs import astuple

from pipeline.billing.approvals import Verdict, What
from pipeline.billing.money import plain_amount
from pipeline.billing.reading import GrantLine, created_ms, read_grant_lines, time_ms
from pipeline.decoding import json_decoder
from pipeline.ledger.invoice_entries import (
    InvoiceConcluded,
    InvoicePlanned,
    InvoiceStates,
    judge_invoice,
)


class Closing(msgspec.Struct, frozen=True, kw_only=True, tag="closing", omit_defaults=True):
    """A closed period: what its statement knew, and the statement as it was printed.

    It knew the usage records with an offset below those of `offsets`, and all that the ledger had from
    the topics before this one.
    """

    account: str
    period_start: int
    period_end: int
    closed_at: int  # ms
    topic: str  # of the usage records
    offsets: dict[int, int]  # partition → next offset
    grants: int  # how many grants and voids it knew
    statement: str  # the JSON object
    topic_id: str = ""  # "": unknown
    customer: str = ""  # of this account alone; "": none
    waived: tuple[int, ...] = ()  # starts of the earlier periods whose adjustment is not charged
    rejections: int = 0  # how many persons' rejections about its period it knew


class Granted(msgspec.Struct, frozen=True, tag="granted"):
    """A pack, a credit or a void of an account: a line of docs/reference/money.md §5.1."""

    account: str
    line: str


class Approval(msgspec.Struct, frozen=True, kw_only=True, tag="approval"):
    """What a person says about an adjustment, or an unmatched reversal, before a close.

    `id` is that of `billing.approvals`. `amount` is in minor units; an unmatched reversal has none.
    """

    id: str
    account: str
    period_start: int  # of the period that is to be closed
    what: What
    of_period: (
        int  # the start of the period that is adjusted; of unmatched, of the one to be closed
    )
    amount: int
    verdict: Verdict
    who: str
    reason: str
    at: int  # ms


MonthItem = Closing | Granted | Approval | InvoicePlanned | InvoiceConcluded


class GrantStanding(msgspec.Struct, frozen=True):
    """A grant as the journal knows it."""

    created_at: int
    is_void: bool = False
    gives_back: Decimal = Decimal(0)  # a credit note


class AccountStanding(msgspec.Struct):
    """What the journal says of an account; `judge` changes it."""

    period_start: int | None = None  # of the last closing
    closed_at: int = 0
    carried: Decimal = Decimal(0)  # above zero: what its statement leaves, less credit notes
    grants: dict[str, GrantStanding] = {}
    approvals: set[str] = set()
    rejections: dict[int, int] = {}  # by the start of the period that is to be closed
    invoices: InvoiceStates = {}

    @property
    def entered(self) -> int:
        """How many grants and voids have entered."""
        return len(self.grants) + sum(grant.is_void for grant in self.grants.values())


def accounts_of(items: Iterable[object]) -> set[str]:
    """Return the accounts that the validity of items depends on."""
    return {item.account for item in items if isinstance(item, MonthItem) and is_storable(item)}


def is_storable(item: MonthItem) -> bool:
    """Return whether every database can store the text of an item."""
    return not any("\0" in each for each in astuple(item) if isinstance(each, str))


def judge(account: AccountStanding, item: MonthItem) -> str | None:
    """Let an item take effect, or return why it is void."""
    if not is_storable(item):
        return "it has a NUL character, which PostgreSQL cannot store"
    if isinstance(item, Closing):
        return _close(account, item)
    if isinstance(item, Granted):
        return _grant(account, item)
    if isinstance(item, InvoicePlanned | InvoiceConcluded):
        return judge_invoice(account.invoices, account.period_start, item)
    if item.id in account.approvals:
        return "it is decided already"
    if account.period_start is not None and item.period_start <= account.period_start:
        return "the period is closed already"
    account.approvals.add(item.id)
    rejections = account.rejections.get(item.period_start, 0)
    account.rejections[item.period_start] = rejections + (item.verdict == "rejected")
    return None


def _close(account: AccountStanding, item: Closing) -> str | None:
    if account.period_start is not None:
        if item.period_start <= account.period_start:
            return "the period is closed already"
        if item.closed_at <= account.closed_at:
            return "its time is not after that of the last close"
    if item.grants != account.entered:
        return "a grant has entered meanwhile, which its statement does not know"
    if item.rejections != account.rejections.get(item.period_start, 0):
        return "a person has rejected a correction meanwhile, which its statement charges"
    account.period_start, account.closed_at = item.period_start, item.closed_at
    account.carried = _carried_by(item.statement)
    return None


def _grant(account: AccountStanding, item: Granted) -> str | None:
    parsed, problems = read_grant_lines([("grant", item.line.encode())])
    if problems:
        return problems[0]
    line = parsed[0][1]
    name = grant_id(line)
    if name is None or "\0" in name:
        return "it names no grant"
    created_at, known = created_ms(line), account.grants.get(name)
    if account.period_start is not None and created_at < account.closed_at:
        return "it was created before the last close, and never changes a final statement"
    if line.kind != "void":
        if known is not None:
            return f"the account has a grant {name!r} already"
        if line.kind == "credit_note":
            return _give_back(account, name, line)
        account.grants[name] = GrantStanding(created_at)
        return None
    if known is None or created_at < known.created_at:
        return f"no grant {name!r} was created before this void"
    if known.is_void:
        return f"{name!r} is void already"
    account.grants[name] = GrantStanding(known.created_at, is_void=True)
    account.carried += known.gives_back
    return None


def _give_back(account: AccountStanding, name: str, line: GrantLine) -> str | None:
    """Accept a credit note over what the last final statement carries, and no more."""
    if line.of_period is None or time_ms(line.of_period) != account.period_start:
        return "its period is not the last that is closed"
    amount = plain_amount(line.amount)
    if not amount or amount > account.carried:
        return f"it gives back {line.amount}, and {account.carried} is carried"
    account.grants[name] = GrantStanding(created_ms(line), gives_back=amount)
    account.carried -= amount
    return None


class _Left(msgspec.Struct, frozen=True):
    carried: str


class _Final(msgspec.Struct, frozen=True):
    closing: _Left


_read_final = json_decoder(_Final)


def _carried_by(statement: str) -> Decimal:
    """Return what a final statement carries, as an amount above zero."""
    try:
        carried = _read_final(statement).closing.carried
    except ValueError:
        return Decimal(0)  # it is not a statement of ours
    return plain_amount(carried.removeprefix("-")) or Decimal(0)


def grant_id(line: GrantLine) -> str | None:
    """Return the id of a grant; of a void, that of the grant that it ends."""
    return line.grant if line.kind == "void" else line.id
