"""What Hypothesis draws: histories whose times lie around the edges of windows, and policies."""

from decimal import Decimal
from typing import Any, NamedTuple, get_args

import msgspec
from hypothesis import strategies as st

from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    SPAM_FLAGGED,
    UNDELIVERED,
    VERDICT,
    AnswerKind,
    Cause,
    Event,
    Intent,
)
from pipeline.resolve.policy import PRESETS, Policy, Timeline, preset

T0 = 1_780_000_000_000
WINDOW = 10_000
GRACE = 1_000

# A few moments, and those just before, at and after a window or a grace from them.
_moments = st.builds(
    lambda base, windows, off: T0 + base * 1_000 + windows * WINDOW + off,
    st.integers(0, 4),
    st.integers(0, 2),
    st.sampled_from([-1, 0, 0, 0, 1]),
)
_intents = st.sampled_from(get_args(Intent))
_ids = st.integers(0, 12).map(lambda n: f"m{n}")


def _event(rank: int, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        at=_moments,
        rank=st.just(rank),
        source=st.sampled_from(["/a", "/a", "/b"]),
        id=_ids,
        sequence=st.sampled_from(["", "", "1", "2"]),
        channel=st.sampled_from(["messenger", "messenger", "email"]),
        live=st.sampled_from([True] * 30 + [False]),
        **more,
    )


_answers = _event(
    AI_MESSAGE,
    kind=st.sampled_from(["answer", *get_args(AnswerKind)]),
    billable=st.sampled_from([True, True, True, False]),
)
_customer = _event(CUSTOMER_MESSAGE, intent=_intents)
_others = st.one_of(
    _event(HUMAN_MESSAGE, internal=st.booleans()),
    _event(HANDOFF, cause=st.sampled_from(get_args(Cause))),
    _event(OUTCOME_REPORTED, outcome=st.sampled_from(["qualification", "disqualification", "x"])),
    _event(
        RATING,
        rates_ai=st.booleans(),
        score=st.integers(1, 5),
        intent=st.none() | _intents,
    ),
    _event(VERDICT, verified=st.booleans()),
    _event(UNDELIVERED, message_id=_ids),
    _event(MERGED, secondary=st.booleans(), last_answer_at=st.none() | _moments).map(
        lambda e: msgspec.structs.replace(e, last_answer_at=None) if e.secondary else e
    ),
    _event(SPAM_FLAGGED),
    st.sampled_from([0, 9, 10, 13, 14]).flatmap(_event),
)
events = st.one_of(_customer, _customer, _answers, _answers, _others)


def histories(size: int = 12) -> st.SearchStrategy[list[Event]]:
    """Return events of one conversation, one per identity, in any order of arrival."""
    return st.lists(events, max_size=size, unique_by=lambda e: (e.source, e.id))


_durations = st.sampled_from([0, 1, 1_000, WINDOW, 3 * WINDOW])
_outcomes = ["qualification", "procedure_handoff", "resolution", "disqualification"]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Return a policy of any content, with windows of a few seconds."""
    window = {"default": WINDOW}
    if draw(st.booleans()):
        window["email"] = draw(_durations)
    return Policy(
        name="drawn",
        version=draw(st.integers(1, 3)),
        effective_from=0,
        unit=draw(st.sampled_from(["conversation", "segment"])),
        window=window,
        window_anchor=draw(st.sampled_from(["last_answer", "last_message", "first_message"])),
        silence=draw(st.sampled_from(["bills", "bills", "if_verified", "never"])),
        human_reply=draw(st.sampled_from(["ignore", "clears_answer", "voids_conversation"])),
        human_request_sticky=draw(st.booleans()),
        unknown_intent=draw(st.sampled_from(["help_request", "holding"])),
        handoff_causes_billed=tuple(draw(st.sets(st.sampled_from(get_args(Cause)), max_size=3))),
        outcomes_billed=draw(st.sampled_from([(), ("qualification", "disqualification"), ("x",)])),
        precedence=tuple(draw(st.permutations(_outcomes)))[: draw(st.integers(1, 4))],
        reversible=draw(st.sampled_from([("resolution",), tuple(_outcomes), ()])),
        reversal_horizon=draw(st.none() | _durations),
        csat_reverses_below=draw(st.none() | st.integers(2, 5)),
        csat_confirms_from=draw(st.none() | st.integers(1, 5)),
        spam_grace=draw(_durations),
        grace=draw(st.sampled_from([0, GRACE])),
        price={name: Decimal(draw(st.integers(0, 999))) / 100 for name in _outcomes},
        currency="usd",
    )


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Return a preset with a short window, a drawn policy, or two versions of one."""
    first = draw(policies())
    kind = draw(st.integers(0, 3))
    if kind == 0:
        found = preset(draw(st.sampled_from(PRESETS)))
        return Timeline([msgspec.structs.replace(found, window={"default": WINDOW}, grace=GRACE)])
    if kind == 1:
        since = T0 + draw(st.integers(0, 4)) * 1_000
        second = msgspec.structs.replace(draw(policies()), version=9, effective_from=since)
        begins = draw(st.sampled_from([0, T0 + 1_000]))
        return Timeline([msgspec.structs.replace(first, effective_from=begins), second])
    return Timeline([first])


class Arrival(NamedTuple):
    """An event on its way, or (without one) only time that goes by."""

    at: int
    event: Event | None


@st.composite
def arrivals(draw: st.DrawFn, size: int = 12) -> list[Arrival]:
    """Return a history as it arrives: any order, some of it twice, with timers in between."""
    history = draw(histories(size))
    coming: list[Event | None] = list(draw(st.permutations(history)))
    for _ in range(draw(st.integers(0, 4))):
        again = draw(st.integers(0, len(history)))  # beyond the last: only time goes by
        event = history[again] if again < len(history) else None
        coming.insert(draw(st.integers(0, len(coming))), event)
    now = T0
    found = []
    for next_event in coming:
        now += draw(st.sampled_from([0, 1, GRACE, WINDOW, WINDOW + GRACE]))
        found.append(Arrival(now, next_event))
    return found
