"""Store the calls of meter events: the lease and the attempt before a call, and its result after it.

Two calls are made for a meter event: one delivers it, and one withdraws it. Both have the same rules. A
state only moves forward.
"""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.decisions import counted_again, take_back_release
from pipeline.ledger.entries import (
    HOUR_MS,
    PERHAPS_COUNTED,
    STUCK,
    Call,
    Conclusion,
    Lease,
    MeterEvent,
    NotLeased,
    Result,
    State,
)
from pipeline.ledger.tables import attempt, delivery_takeover, meter_event

LEASE_MS_MAX = HOUR_MS  # the settings allow ten minutes
# The clocks of two sinks, or of one before and after a correction. Below the hour that the biller
# remembers an identifier longer than the sink relies on it.
CLOCKS_DIFFER_MS_MAX = HOUR_MS // 2
# The state of a meter event after a call, by result. Other results leave the event `sent`.
_STATE_AFTER: dict[Result, State] = {
    "delivered": "delivered",
    "duplicate": "delivered",
    "collision": "rejected",
    "rejected": "rejected",
    "withdrawn": "withdrawn",
}
_RETRIED: tuple[Result, ...] = ("failed", "foreign", "refused")
_OPEN: tuple[State, ...] = ("planned", "sent")
_CALLED: tuple[State, ...] = (*_OPEN, "withdrawing")
# Whatever happened since the call: if it counted, its meter event is delivered, or withdrawn.
_BEFORE_CERTAIN: dict[Call, tuple[State, ...]] = {
    "deliver": (*_OPEN, *STUCK),
    "withdraw": ("withdrawing", "uncertain", "altered"),
}
_event_columns = [meter_event.c[name].label(name) for name in MeterEvent.__struct_fields__]


def due(
    ledger: Ledger,
    now_ms: int,
    events_max: int,
    *,
    run: str | None = None,
    without: Collection[str] = (),
) -> list[MeterEvent]:
    """Return meter events that can be sent now and that no sink has leased.

    Only those that the journal has, and that `run` may call: it planned them, or took them over.
    Leaves out those for the meters of `without`, which are event names.

    First the oldest of each customer and meter, then the second of each, and so on: one with many
    events, or one whose calls fail, holds up no other. Those tried least recently come first.

    An event with a timestamp after `now_ms` waits, because a biller may reject it for good.
    """
    m = meter_event.c
    turn = func.row_number().over(
        partition_by=(m.customer, m.event_name), order_by=(m.hour, m.identifier)
    )
    query = (
        select(*_event_columns)
        .where(m.state.in_(_CALLED), _is_free(now_ms))
        .where(m.timestamp <= now_ms // 1000, m.event_name.not_in(without))
        .where(m.journal_state.is_not(None))
        .order_by(turn, m.updated_at, m.hour, m.identifier)
        .limit(events_max)
    )
    if run is not None:
        query = query.where(or_(m.voucher == run, _taken_over(run)))
    with ledger.reading() as connection:
        return [MeterEvent(**row._mapping) for row in connection.execute(query)]


def _taken_over(run: str) -> ColumnElement[bool]:
    t = delivery_takeover.c
    return exists().where(t.identifier == meter_event.c.identifier, t.run == run)


def _is_free(now_ms: int) -> ColumnElement[bool]:
    """Return whether no sink has leased a meter event. No lease is long: a clock was set back."""
    until = meter_event.c.lease_until
    return or_(until <= now_ms, until > now_ms + LEASE_MS_MAX)


def _earlier_calls(event: MeterEvent, call: Call) -> Select[Any, Any, int]:
    """Select the first and the last call that may have counted, and how many responses were repeated."""
    perhaps_counted = attempt.c.result.in_(PERHAPS_COUNTED)
    return (
        select(
            func.min(attempt.c.at).filter(perhaps_counted),
            func.max(attempt.c.at).filter(perhaps_counted),
            func.count().filter(and_(attempt.c.result.in_(_RETRIED), attempt.c.replayed)),
        )
        .where(attempt.c.identifier == event.identifier, attempt.c.call == call)
        .where(attempt.c.body_sha256 == event.body_sha256)
    )


def lease(
    ledger: Ledger,
    event: MeterEvent,
    owner: str,
    now_ms: int,
    *,
    until_ms: int,
    remembered_from_ms: int,
    perhaps_counted: bool = False,
) -> Lease | NotLeased:
    """Store that a call is about to be made, before the call: to withdraw the event, or to deliver it.

    The lease of `owner`, the run of the sink, ends at `until_ms`; then another sink may send the
    event. An attempt before `remembered_from_ms` that may have been counted makes the event
    UNCERTAIN, for good, because the biller may no longer recognise its identifier. The first such
    attempt decides, not the last: it is the one that the biller forgets first. So does one of a time
    to come: a clock was set back, and nobody knows how old it is. Nobody may have made an attempt that
    the ledger does not have before `vouched_at` (see `journal`): so if that is too long ago, the event
    is UNCERTAIN too.

    If the time to withdraw an event is over, and certainly no call was made, it is KEPT.

    `perhaps_counted`: the caller knows of such an attempt, even if the ledger has lost it.
    """
    m = meter_event.c
    call: Call = "withdraw" if event.state == "withdrawing" else "deliver"
    move = (
        update(meter_event)
        .where(
            m.identifier == event.identifier,
            m.state.in_(_OPEN) if call == "deliver" else m.state == "withdrawing",
            or_(_is_free(now_ms), m.owner == owner),
            or_(m.voucher == owner, _taken_over(owner)),
        )
        .values(
            state="sent" if call == "deliver" else m.state,
            owner=owner,
            lease_until=until_ms,
            updated_at=now_ms,
        )
    )
    with ledger.writing() as connection:
        if connection.execute(move).rowcount != 1:
            return NotLeased.TAKEN
        perhaps_counted_at, last_at, replays = connection.execute(_earlier_calls(event, call)).one()
        vouched = select(m.vouched_at, m.voucher, m.withdraw_until)
        vouched_at, voucher, withdraw_until = connection.execute(
            vouched.where(m.identifier == event.identifier)
        ).one()
        perhaps_counted |= perhaps_counted_at is not None or voucher != owner
        if call == "withdraw" and not perhaps_counted and now_ms >= withdraw_until:
            _move(connection, event, "delivered")
            return NotLeased.KEPT
        is_old = min(vouched_at, perhaps_counted_at or vouched_at) < remembered_from_ms
        if is_old or (last_at or 0) > now_ms + CLOCKS_DIFFER_MS_MAX:
            _move(connection, event, "uncertain")
            return NotLeased.UNCERTAIN
        # For a day the biller repeats the response that it stored for a key. After a repeated failure,
        # only a new key makes a real call.
        key = event.identifier if call == "deliver" else f"{event.identifier}.withdraw"
        key = key if not replays else f"{key}.{replays}"
        written = connection.execute(
            insert(attempt).values(
                identifier=event.identifier,
                at=now_ms,
                owner=owner,
                call=call,
                body_sha256=event.body_sha256,
                idempotency_key=key,
                result="unanswered",
                replayed=False,
            )
        )
        assert written.inserted_primary_key is not None
        return Lease(
            identifier=event.identifier,
            owner=owner,
            attempt=written.inserted_primary_key[0],
            call=call,
            perhaps_counted=perhaps_counted,
            idempotency_key=key,
        )


def _move(connection: Connection, event: MeterEvent, state: State) -> None:
    connection.execute(
        update(meter_event)
        .where(meter_event.c.identifier == event.identifier)
        .values(state=state, lease_until=0)
    )


def conclude(ledger: Ledger, lease: Lease, conclusion: Conclusion, now_ms: int) -> list[str]:
    """Store a call's result, move the event's state if the result decides it, end the lease.

    Returns other identifiers under which the same units were counted: an operator released them
    while a call was under way. Usually there are none.
    """
    m, a = meter_event.c, attempt.c
    with ledger.writing() as connection:
        # A restored ledger may have given the number of this attempt to another one.
        ours = and_(a.seq == lease.attempt, a.identifier == lease.identifier)
        connection.execute(
            update(attempt)
            .where(ours, a.owner == lease.owner, a.result == "unanswered")
            .values(answered_at=now_ms, **msgspec.structs.asdict(conclusion))
        )
        move = update(meter_event).where(m.identifier == lease.identifier)
        state = _state_after(lease, conclusion.result)
        # A late response never undoes another sink's conclusion; that the event counts is certain, and
        # that it is cancelled.
        is_certain = state == ("delivered" if lease.call == "deliver" else "withdrawn")
        under_way: State = "sent" if lease.call == "deliver" else "withdrawing"
        before = _BEFORE_CERTAIN[lease.call] if is_certain else (under_way,)
        moved = None
        if state is not None:
            values = {"state": state, "lease_until": 0, "updated_at": now_ms}
            moved = connection.execute(move.where(m.state.in_(before)).values(values))
        if moved is None or moved.rowcount == 0:
            owned = move.where(m.owner == lease.owner, m.lease_until > now_ms)
            updated_at = case((m.state == under_way, now_ms), else_=m.updated_at)
            connection.execute(owned.values(lease_until=now_ms, updated_at=updated_at))
        if state != "delivered" or lease.call == "withdraw":
            return []
        if moved is not None and moved.rowcount == 0:
            take_back_release(connection, lease.identifier, now_ms)
        return counted_again(connection, lease.identifier)


def _state_after(lease: Lease, result: Result) -> State | None:
    """Return the state that a result decides; None: the call is repeated."""
    if lease.call == "withdraw" and result in ("rejected", "collision"):
        # After a call that may have taken effect, a refusal does not say what the first one did.
        return "uncertain" if lease.perhaps_counted else "delivered"
    return _STATE_AFTER.get(result)


def mark_altered(ledger: Ledger, event: MeterEvent, now_ms: int) -> bool:
    """Keep a meter event from being sent, because its content is not the one that was planned.

    Returns False if another sink holds its lease, or it is concluded.
    """
    m = meter_event.c
    move = (
        update(meter_event)
        .where(m.identifier == event.identifier, m.state.in_(_CALLED), _is_free(now_ms))
        .values(state="altered", updated_at=now_ms)
    )
    with ledger.writing() as connection:
        return connection.execute(move).rowcount == 1
