"""Say what of a statement a person decides about before the period is closed. Pure.

docs/reference/money.md §4.5. A decision names exactly what the person has seen: an id is a function of
the amounts, so another late record makes another id.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol

import msgspec
import orjson

from pipeline.billing.money import digits_of, price_text
from pipeline.billing.periods import Period
from pipeline.billing.statement import Adjustment, Statement
from pipeline.events.times import format_time

AMOUNT_MAX = Decimal(100)  # unless a setting says another limit
What = Literal["adjusted", "unmatched"]
Verdict = Literal["approved", "rejected"]


class Decision(Protocol):
    """What a person said, and about what."""

    @property
    def id(self) -> str: ...
    @property
    def period_start(self) -> int: ...
    @property
    def of_period(self) -> int: ...
    @property
    def verdict(self) -> Verdict: ...


class Decisions:
    """What people said about an account; the first verdict on an id counts."""

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._verdicts: dict[str, Verdict] = {}
        self._adjusted: set[tuple[int, int]] = set()
        self._rejections: Counter[int] = Counter()
        for decision in decisions:
            self._verdicts.setdefault(decision.id, decision.verdict)
            self._adjusted.add((decision.period_start, decision.of_period))
            self._rejections[decision.period_start] += decision.verdict == "rejected"

    def verdict_on(self, id_: str) -> Verdict | None:
        return self._verdicts.get(id_)

    def rejections(self, period: Period) -> int:
        """Return how many rejections are about the statement of a period."""
        return self._rejections[period.start_ms]

    def know(self, period: Period, adjusted: Period) -> bool:
        """Return whether a person has decided what the statement of a period adjusts of another."""
        return (period.start_ms, adjusted.start_ms) in self._adjusted


class Approvable(msgspec.Struct, frozen=True, kw_only=True):
    """An adjustment of an earlier period, or a reversal whose charge is not known."""

    id: str
    period: Period  # whose statement has it
    what: What
    adjustment: Adjustment | None = None
    reversal: str | None = None  # the id of its usage record
    needs_approval: bool  # the period is not closed before a person approves
    verdict: Verdict | None = None

    @property
    def blocks(self) -> bool:
        return self.needs_approval and self.verdict is None

    @property
    def of_period(self) -> Period:
        """The period that is adjusted; of a reversal, the one that is to be closed."""
        return self.period if self.adjustment is None else self.adjustment.period

    @property
    def amount(self) -> int:
        """Of an adjustment, in minor units. A reversal whose charge is not known costs nothing."""
        return 0 if self.adjustment is None else self.adjustment.amount


class Blocked(NamedTuple):
    """What waits for a person: how many things, and how much money, in minor units."""

    number: int
    amount: int  # of all adjustments, each without its sign


def approvables(
    account: str, statement: Statement, amount_max: Decimal, decisions: Decisions
) -> list[Approvable]:
    """Return what a person may decide about before the period of a statement is closed.

    An adjustment needs approval if it comes to more than the limit, or if a person has decided about
    it before and it has changed since. Each unmatched reversal needs it, once.

    Args:
        account: whose statement it is.
        statement: as it would be now.
        amount_max: the limit, in major units of the account's currency.
        decisions: what people have said.
    """
    return [
        *_adjustments(account, statement, amount_max, decisions),
        *_reversals(account, statement, decisions),
    ]


def blocked(found: Iterable[Approvable]) -> Blocked:
    """Add up what waits for a person."""
    waiting = [each for each in found if each.blocks]
    return Blocked(len(waiting), sum(abs(each.amount) for each in waiting))


def _adjustments(
    account: str, statement: Statement, amount_max: Decimal, decisions: Decisions
) -> Iterator[Approvable]:
    for adjustment in statement.adjustments:
        id_ = adjustment_id(account, statement.currency, statement.period, adjustment)
        major = Decimal(abs(adjustment.amount)).scaleb(-digits_of(statement.currency))
        yield Approvable(
            id=id_,
            period=statement.period,
            what="adjusted",
            adjustment=adjustment,
            needs_approval=major > amount_max
            or decisions.know(statement.period, adjustment.period),
            verdict=decisions.verdict_on(id_),
        )


def _reversals(account: str, statement: Statement, decisions: Decisions) -> Iterator[Approvable]:
    for reversal in statement.unmatched:
        id_ = _digest(["unmatched", account, reversal])
        yield Approvable(
            id=id_,
            period=statement.period,
            what="unmatched",
            reversal=reversal,
            needs_approval=True,
            verdict=decisions.verdict_on(id_),
        )


def adjustment_id(account: str, currency: str, period: Period, adjustment: Adjustment) -> str:
    """Return the id of an adjustment: a function of everything that a person sees of it."""
    lines = [
        (
            line.kind,
            line.outcome,
            line.quantity,
            None if line.price is None else price_text(line.price),
            line.amount,
        )
        for line in adjustment.lines
    ]
    periods = [format_time(each.start_ms) for each in (period, adjustment.period)]
    return _digest(["adjusted", account, currency, *periods, lines])


def _digest(content: object) -> str:
    return hashlib.sha256(orjson.dumps(content)).hexdigest()[:16]
