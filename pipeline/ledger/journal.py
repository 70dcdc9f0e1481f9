"""The journal's entries: what they say, and which of them are valid. Pure.

The journal is a topic with one partition, and its order decides. All ledgers apply the same entries in
the same order, so all of them agree on which meter event holds a usage record.

A meter event may be called until the biller may have forgotten a call that nobody knows of. An entry
*vouches* for it: no call before the entry counted. Its plan vouches, and later a renewal may: by the
run that vouched last, as long as no other run has taken the meter event over. A run is one life of a
sink process; a ledger that was restored cannot mislead it, because it remembers its calls itself.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from pipeline.ledger.entries import Decided, MeterEvent
from pipeline.ledger.lineage import lineage
from pipeline.ledger.month_entries import AccountStanding, Closing, MonthItem, judge
from pipeline.ledger.standing import BEFORE, HANDED_OVER, ConcludedState, JournalState, Standing

_CLOSED = "its period is closed: nothing more is sent for it"


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag="plan", omit_defaults=True):
    """A meter event and the ids of its usage records. A value of 0: they cancel out, nothing is sent."""

    identifier: str
    tenant_id: str
    customer: str
    outcome: str
    event_name: str
    hour: int
    value: int
    timestamp: int
    body_sha256: str
    records: tuple[str, ...] = ()
    # Calls since this time may have counted, ms; None: no call before the entry has.
    called_since: int | None = None

    @property
    def event(self) -> MeterEvent:
        """The meter event, as it is planned."""
        return MeterEvent(
            identifier=self.identifier,
            tenant_id=self.tenant_id,
            customer=self.customer,
            outcome=self.outcome,
            event_name=self.event_name,
            hour=self.hour,
            value=self.value,
            timestamp=self.timestamp,
            body_sha256=self.body_sha256,
            state="planned" if self.value else "netted",
        )


class Conclusion(msgspec.Struct, frozen=True, tag="conclusion"):
    """The biller counted a meter event, or rejected it for good; it cancelled one, or kept it."""

    identifier: str
    state: ConcludedState


class Withdrawal(msgspec.Struct, frozen=True, tag="withdrawal"):
    """The biller is asked to cancel a meter event, for the first time before `until`, ms."""

    identifier: str
    until: int


class Decision(msgspec.Struct, frozen=True, tag="decision"):
    """An operator released or settled a meter event; a release names the one that replaces it."""

    decided: Decided
    replacement: Plan | None = None


class Takeover(msgspec.Struct, frozen=True, tag="takeover"):
    """The run calls meter events for which another run vouched."""

    identifiers: tuple[str, ...]


class Renewal(msgspec.Struct, frozen=True, tag="renewal"):
    """The run vouches again: no call before `at`, ms, counted.

    With `is_final`, it makes no call after that time either.
    """

    identifiers: tuple[str, ...]
    at: int
    is_final: bool = False


Item = Plan | Conclusion | Decision | Takeover | Renewal | Withdrawal | MonthItem


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one run writes at once: one record of the topic."""

    format: int = 1  # see `journal_encoding`
    run: str
    items: tuple[Item, ...]


class Placed(NamedTuple):
    """An entry and its place: offset, and the broker's time of the append, ms. None: not an entry."""

    offset: int
    at: int
    entry: Entry | None


def plan_of(
    event: MeterEvent, records: Iterable[str] = (), called_since: int | None = None
) -> Plan:
    """Return the plan of a meter event with the ids of its records."""
    return Plan(
        identifier=event.identifier,
        tenant_id=event.tenant_id,
        customer=event.customer,
        outcome=event.outcome,
        event_name=event.event_name,
        hour=event.hour,
        value=event.value,
        timestamp=event.timestamp,
        body_sha256=event.body_sha256,
        records=tuple(sorted(records)),
        called_since=called_since,
    )


# --- validity -------------------------------------------------------------------------------------


class View(msgspec.Struct):
    """The part of the journal's result that some entries touch; `apply` changes it."""

    standings: dict[str, Standing]  # by the identifier of the meter event
    holders: dict[str, str]  # id of a usage record → identifier that held it first
    accounts: dict[str, AccountStanding] = {}  # by name
    closed_until: dict[str, int] = {}  # customer → end of the last period that is closed, ms


class Verdict(NamedTuple):
    """Whether an item took effect: `why` is None, or says why it is void."""

    run: str
    item: Item
    why: str | None


def touched(entries: Iterable[Entry]) -> tuple[set[str], set[str]]:
    """Return the identifiers and the ids of usage records that the validity of entries depends on."""
    identifiers: set[str] = set()
    records: set[str] = set()
    for entry in entries:
        for item in entry.items:
            if isinstance(item, Plan):
                identifiers.add(item.identifier)
                records.update(item.records)
            elif isinstance(item, Conclusion | Withdrawal):
                identifiers.add(item.identifier)
            elif isinstance(item, Decision):
                identifiers.add(item.decided.identifier)
                if item.replacement is not None:
                    identifiers.add(item.replacement.identifier)
            elif not isinstance(item, MonthItem):
                identifiers.update(item.identifiers)
    return identifiers, records


def customers_of(entries: Iterable[Entry]) -> set[str]:
    """Return the customers whose closed periods the validity of entries depends on."""
    customers: set[str] = set()
    for entry in entries:
        for item in entry.items:
            if isinstance(item, Plan | Closing):
                customers.add(item.customer)
            elif isinstance(item, Decision) and item.replacement is not None:
                customers.add(item.replacement.customer)
    return customers


def apply(view: View, entry: Entry, at: int) -> list[Verdict]:
    """Apply an entry that was appended at a time, ms; return the verdict on each item."""
    return [Verdict(entry.run, item, _apply(view, entry.run, item, at)) for item in entry.items]


def _apply(view: View, run: str, item: Item, at: int) -> str | None:
    if isinstance(item, Plan):
        return _plan(view, run, item, at)
    if isinstance(item, Conclusion):
        return _conclude(view, item)
    if isinstance(item, Decision):
        return _decide(view, run, item, at)
    if isinstance(item, Withdrawal):
        return _withdraw(view, run, item, at)
    if isinstance(item, MonthItem):
        return _judge(view, item)
    if isinstance(item, Takeover):
        _take_over(view, run, item)
    else:
        _renew(view, run, item, at)
    return None


def _plan(view: View, run: str, plan: Plan, at: int) -> str | None:
    """Accept a plan only if no earlier valid plan has one of its records, and its period is open."""
    if plan.identifier in view.standings:
        return "it is known already"
    if _is_closed(view, plan):
        return _CLOSED
    for record in plan.records:
        if record in view.holders:
            return f"the meter event {view.holders[record]} has its usage record {record}"
    if len(set(plan.records)) < len(plan.records) or plan.value < 0:
        return "its records or its value are not those of a meter event"
    view.holders.update(dict.fromkeys(plan.records, plan.identifier))
    view.standings[plan.identifier] = _planned(plan, run, at)
    return None


def _is_closed(view: View, plan: Plan) -> bool:
    return plan.timestamp * 1000 < view.closed_until.get(plan.customer, 0)


def _judge(view: View, item: MonthItem) -> str | None:
    why = judge(view.accounts.setdefault(item.account, AccountStanding()), item)
    if why is None and isinstance(item, Closing) and item.customer:
        until_ms = view.closed_until.get(item.customer, 0)
        view.closed_until[item.customer] = max(until_ms, item.period_end)
    return why


def _planned(plan: Plan, run: str, at: int) -> Standing:
    since = plan.called_since
    return Standing(
        "planned" if plan.value else "netted",
        at if since is None else min(at, since),
        run if since is None else None,
    )


def _conclude(view: View, item: Conclusion) -> str | None:
    standing = view.standings.get(item.identifier)
    if standing is None:
        return "no meter event has this identifier"
    if standing.state not in BEFORE[item.state]:
        return f"it is {standing.state}"
    view.standings[item.identifier] = msgspec.structs.replace(standing, state=item.state)
    if item.state == "withdrawn":
        first = lineage(item.identifier)[0]
        for record in [r for r, holder in view.holders.items() if lineage(holder)[0] == first]:
            del view.holders[record]
    return None


def _withdraw(view: View, run: str, item: Withdrawal, at: int) -> str | None:
    """Accept the first withdrawal of a meter event, unless its time was over when it was appended."""
    standing = view.standings.get(item.identifier)
    if standing is None:
        return "no meter event has this identifier"
    if standing.state != "delivered":
        return f"it is {standing.state}"
    if at >= item.until:
        return "it comes too late"
    view.standings[item.identifier] = Standing("withdrawing", at, run)
    return None


def _decide(view: View, run: str, item: Decision, at: int) -> str | None:
    """Accept the first decision about a meter event that is not concluded with success."""
    identifier, replacement = item.decided.identifier, item.replacement
    standing = view.standings.get(identifier)
    if standing is None:
        return "no meter event has this identifier"
    if standing.state not in ("planned", "rejected", "withdrawing"):
        return f"it is {standing.state}"
    if (item.decided.action == "release") != (replacement is not None):
        return "a release names what replaces the meter event, and a settlement nothing"
    if replacement is not None:
        if replacement.identifier in view.standings or replacement.records:
            return f"{replacement.identifier} cannot replace it"
        if _is_closed(view, replacement):
            return _CLOSED
        view.standings[replacement.identifier] = _planned(replacement, run, at)
    state: JournalState = "settled" if replacement is None else "released"
    view.standings[identifier] = msgspec.structs.replace(standing, state=state)
    return None


def _take_over(view: View, run: str, item: Takeover) -> None:
    for identifier in item.identifiers:
        standing = view.standings.get(identifier)
        if standing is not None and standing.voucher != run:
            voucher = run if standing.voucher == HANDED_OVER else None
            view.standings[identifier] = msgspec.structs.replace(standing, voucher=voucher)


def _renew(view: View, run: str, item: Renewal, at: int) -> None:
    for identifier in item.identifiers:
        standing = view.standings.get(identifier)
        if standing is not None and standing.voucher == run:
            voucher = HANDED_OVER if item.is_final else run
            # Not the time of the append alone: the entry may have been on its way for long.
            vouched_at = max(standing.vouched_at, min(at, item.at))
            view.standings[identifier] = Standing(standing.state, vouched_at, voucher)


def planned_units(verdicts: Sequence[Verdict], run: str) -> tuple[int, int]:
    """Return how many valid meter events of other runs the verdicts have, and their units."""
    values = [
        verdict.item.value
        for verdict in verdicts
        if verdict.why is None and isinstance(verdict.item, Plan) and verdict.run != run
    ]
    return len(values), sum(values)
