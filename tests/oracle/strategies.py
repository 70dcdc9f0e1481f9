"""Hypothesis strategies: histories whose times lie around the edges of windows, and policies.

A purely random history hardly ever counts an outcome. Most histories here begin with a question and
an answer, and the steps between their events are about a window or a grace period long, sometimes a
millisecond more or less. So most of them count an outcome, and many reverse it;
`test_strategies.py` checks this.
"""

import random
from collections.abc import Sequence
from decimal import Decimal
from itertools import combinations, permutations, product
from typing import Any, NamedTuple, Protocol, TypeVar, get_args

import msgspec
from hypothesis import strategies as st

from pipeline.catalog.policies import PRESETS, preset
from pipeline.events.model import (
    AI_MESSAGE,
    CLOSED,
    CUSTOMER_MESSAGE,
    DELETED,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    REDACTED,
    REOPENED,
    SPAM_FLAGGED,
    STARTED,
    UNDELIVERED,
    VERDICT,
    Cause,
    Channel,
    Event,
    Intent,
)
from pipeline.resolve.policy import HumanReply, Policy, Timeline, Unit, UnknownIntent, WindowAnchor

_T = TypeVar("_T")

T0 = 1_780_000_000_000
WINDOW = 10_000
GRACE = 1_000
END = T0 + 10**9  # later than any window that is drawn

_STEPS = [0, 0, 1, GRACE, GRACE, WINDOW - 1, WINDOW, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1]
_DELAYS = [0, 0, 0, 0, 1, GRACE - 1, GRACE, GRACE + 1, WINDOW, WINDOW + GRACE, 4 * WINDOW]
_DURATIONS = [0, 1, GRACE, WINDOW, 3 * WINDOW]
_CHANNELS: list[Channel] = ["messenger", "messenger", "messenger", "email", "voice"]
_SEQUENCES = ["", "", "", "", "1", "10", "2"]
# Source, whether a "/b" shares the id of the "/a" before it (an id is unique only within its
# source), sequence and channel. They are drawn together, because each draw is expensive.
_TRAITS = list(product(["/a", "/a", "/b"], [False, True], _SEQUENCES, _CHANNELS))
_CAUSES_BILLED = [causes for n in range(4) for causes in combinations(get_args(Cause), n)]
_OUTCOMES = ["qualification", "procedure_handoff", "resolution", "disqualification"]
_PRECEDENCES = [order for n in (4, 3, 2, 1, 0) for order in permutations(_OUTCOMES, n)]

# The times up to which a test decides.
as_ofs = st.integers(-1, 20).map(lambda n: T0 + n * WINDOW // 2) | st.just(END)

# The kinds of events to draw: (weight, rank, members).
_QUESTION = (CUSTOMER_MESSAGE, {"intent": "help_request"})
_ANSWER = (AI_MESSAGE, {"kind": "answer"})
_KINDS: list[tuple[int, int, dict[str, Any]]] = [
    (4, *_QUESTION),
    (4, CUSTOMER_MESSAGE, {"intent": "confirmation"}),
    (1, CUSTOMER_MESSAGE, {"intent": "negative_feedback"}),
    (1, CUSTOMER_MESSAGE, {"intent": "human_request"}),
    (1, CUSTOMER_MESSAGE, {"intent": "holding"}),
    (1, CUSTOMER_MESSAGE, {"intent": "unknown"}),
    (7, *_ANSWER),
    (1, AI_MESSAGE, {"kind": "custom_answer"}),
    (1, AI_MESSAGE, {"kind": "answer", "billable": False}),
    (1, AI_MESSAGE, {"kind": "clarifying_question"}),
    (1, AI_MESSAGE, {"kind": "greeting"}),
    (1, AI_MESSAGE, {"kind": "check_in"}),
    (2, HUMAN_MESSAGE, {}),
    (1, HUMAN_MESSAGE, {"internal": True}),
    (2, HANDOFF, {"cause": "procedure"}),
    (2, HANDOFF, {}),
    (2, OUTCOME_REPORTED, {"outcome": "qualification"}),
    (1, OUTCOME_REPORTED, {"outcome": "disqualification"}),
    (1, OUTCOME_REPORTED, {"outcome": "x"}),
    (2, RATING, {}),
    (1, RATING, {"rates_ai": True, "score": 1}),
    (1, RATING, {"rates_ai": True, "score": 5}),
    (3, VERDICT, {"verified": True}),
    (1, VERDICT, {}),
    (2, UNDELIVERED, {}),
    (1, MERGED, {"secondary": True}),
    (2, MERGED, {}),
    (1, SPAM_FLAGGED, {}),
    *((1, rank, {}) for rank in (STARTED, CLOSED, REOPENED, REDACTED, DELETED)),
]
_kinds = st.sampled_from([(rank, more) for often, rank, more in _KINDS for _ in range(often)])
_AGAIN = [(_QUESTION, 2 * WINDOW + 1), (_ANSWER, GRACE)]  # after a window, or a horizon, has ended
_OPENINGS: list[list[tuple[tuple[int, dict[str, Any]], int]]] = [
    *[[(_QUESTION, 0), (_ANSWER, GRACE)]] * 6,
    *[[(_QUESTION, 0), (_ANSWER, GRACE), *_AGAIN]] * 2,
    [(_QUESTION, 0), (_ANSWER, GRACE), *_AGAIN, *_AGAIN],
    [(_QUESTION, 0), (_ANSWER, GRACE), ((VERDICT, {"verified": True}), GRACE)],
    [((MERGED, {}), 0), (_ANSWER, GRACE)],
    [],
]
_RATINGS = list(product([True, True, True, False], range(1, 6), [None, None, *get_args(Intent)]))


@st.composite
def histories(draw: st.DrawFn, size: int = 12) -> list[Event]:
    """Return the events of one conversation in order of time; each source and id occurs once."""
    opening = draw(st.sampled_from(_OPENINGS))[:size]
    size_max = size - len(opening)
    size_min = draw(st.sampled_from([0, size_max // 2, size_max]))
    steps = opening + draw(
        st.lists(st.tuples(_kinds, st.sampled_from(_STEPS)), min_size=size_min, max_size=size_max)
    )
    # An event outside `live` excludes the whole conversation, so few histories have one.
    test_event = draw(st.integers(0, 6 * size))
    history: list[Event] = []
    now = T0
    for n, ((rank, members), step) in enumerate(steps):
        now += step
        source, shares_id, sequence, channel = draw(st.sampled_from(_TRAITS))
        before = history[-1] if history else None
        event = Event(
            at=now,
            rank=rank,
            source=source,
            id=before.id if before and shares_id and before.source < source else f"m{n}",
            sequence=sequence,
            channel=channel,
            is_live=n != test_event,
            **members,
            **_drawn(draw, rank, members, now, history),
        )
        history.append(event)
    return history


def _drawn(
    draw: st.DrawFn, rank: int, members: dict[str, Any], now: int, before: Sequence[Event]
) -> dict[str, Any]:
    """Return the members of an event that depend on its type and are not fixed by its kind."""
    if rank == HANDOFF and not members:
        return {"cause": draw(st.sampled_from(get_args(Cause)))}
    if rank == RATING and not members:
        rates_ai, score, intent = draw(st.sampled_from(_RATINGS))
        return {"rates_ai": rates_ai, "score": score, "intent": intent}
    if rank == UNDELIVERED:
        answers = [event.id for event in before if event.rank == AI_MESSAGE]
        return {"message_id": draw(st.sampled_from([*reversed(answers), "elsewhere", "nothing"]))}
    if rank == MERGED and not members:
        answered = [event.at for event in before if event.kind == "answer"]
        moments = [
            now,
            *answered,
            *answered,
            *(at - 1 for at in answered),
            now - WINDOW,
            now + GRACE,
        ]
        answers = [event.id for event in before if event.rank == AI_MESSAGE]
        named = draw(st.sampled_from(["", "elsewhere", *answers]))
        return {"last_answer_at": draw(st.sampled_from([*moments, None])), "message_id": named}
    return {}


class Choose(Protocol):
    """A function that picks one of several values: from Hypothesis, or from a random generator."""

    def __call__(self, of: Sequence[_T], /) -> _T: ...


def _policy(choose: Choose) -> Policy:
    window = {"default": WINDOW}
    if choose([False, True]):
        window["email"] = choose(_DURATIONS)
    return Policy(
        name="drawn",
        version=choose([1, 2, 3]),
        effective_from=0,
        unit=choose(get_args(Unit)),
        window=window,
        window_anchor=choose(get_args(WindowAnchor)),
        silence=choose(["bills", "bills", "bills", "if_verified", "never"]),
        human_reply=choose(get_args(HumanReply)),
        human_request_sticky=choose([False, True]),
        unknown_intent=choose(get_args(UnknownIntent)),
        handoff_causes_billed=choose(_CAUSES_BILLED),
        outcomes_billed=choose(
            [(), ("qualification", "disqualification"), ("x",), ("x", "qualification")]
        ),
        precedence=choose(_PRECEDENCES),
        reversible=choose([("resolution",), ("resolution", "x"), tuple(_OUTCOMES), ()]),
        reversal_horizon=choose([None, None, None, *_DURATIONS, WINDOW]),
        csat_reverses_below=choose([None, 2, 3, 4, 5]),
        csat_confirms_from=choose([None, 1, 2, 3, 4, 5]),
        spam_grace=choose([*_DURATIONS, WINDOW]),
        grace=choose([0, GRACE, GRACE, WINDOW]),
        price=dict.fromkeys(_OUTCOMES, Decimal(choose([0, 50, 99, 999])) / 100),
        currency="usd",
    )


def _timeline(choose: Choose) -> Timeline:
    kind = choose(["preset", "two versions", "one", "one"])
    if kind == "preset":
        policy = preset(choose(PRESETS))
        horizon = policy.reversal_horizon
        return Timeline(
            [
                msgspec.structs.replace(
                    policy,
                    window={"default": WINDOW},
                    grace=GRACE,
                    reversal_horizon=horizon and WINDOW,
                    spam_grace=WINDOW,
                )
            ]
        )
    first = _policy(choose)
    if kind == "one":
        return Timeline([first])
    begins = choose([0, 0, T0 + 1_000])
    since = T0 + choose([GRACE, GRACE + 1, WINDOW, 2 * WINDOW])
    second = msgspec.structs.replace(_policy(choose), version=9, effective_from=since)
    begins_later = msgspec.structs.replace(first, effective_from=begins)
    before = msgspec.structs.replace(_policy(choose), name="before")
    return Timeline([begins_later, second], before=Timeline([before]))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Return an arbitrary policy, with windows of a few seconds."""
    return _policy(lambda of: draw(st.sampled_from(of)))


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Return a preset with a short window, an arbitrary policy, or two versions of a policy."""
    return _timeline(lambda of: draw(st.sampled_from(of)))


# Drawing a history is far more expensive than deciding it, so each history is decided under many
# timelines.
TIMELINES = [_timeline(random.Random(seed).choice) for seed in range(60)]


class Arrival(NamedTuple):
    """An event that arrives at a time, or a timer at that time if there is no event."""

    at: int
    event: Event | None


@st.composite
def arrivals(draw: st.DrawFn, size: int = 12) -> list[Arrival]:
    """Return a history as it arrives, with duplicates and timers.

    Some events arrive late, or all arrive in any order. A duplicate may differ in content.
    """
    history = draw(histories(size))
    if draw(st.integers(0, 3)):
        # An event arrives soon after it happened, or when the window of some event ends.
        ends = [e.at + WINDOW + wait for e in history for wait in (0, GRACE - 1, GRACE)]
        drawn = []
        for event in history:
            later = [end for end in ends if end >= event.at]
            at = event.at + draw(st.sampled_from(_DELAYS))
            drawn.append(Arrival(draw(st.sampled_from([at, at, at, *later[:9]])), event))
        drawn.sort(key=lambda arrival: arrival.at)
    else:
        now = T0
        drawn = []
        for event in draw(st.permutations(history)):
            now += draw(st.sampled_from(_STEPS))
            drawn.append(Arrival(now, event))
    for _ in range(draw(st.integers(0, 3)) if drawn else 0):
        place = draw(st.integers(0, len(drawn) - 1))
        again = drawn[place].event
        until = drawn[min(place + draw(st.integers(0, 3)), len(drawn) - 1)]
        if again is not None and draw(st.booleans()):  # only the first content counts
            again = msgspec.structs.replace(again, at=again.at + WINDOW, intent="confirmation")
        drawn.insert(drawn.index(until) + 1, Arrival(until.at, again))
    if draw(st.integers(0, 2)) == 0 and drawn:  # a new leader's clock may be behind the old one's
        place = draw(st.integers(0, len(drawn) - 1))
        drawn[place] = drawn[place]._replace(at=drawn[place].at - GRACE)
    for _ in range(draw(st.integers(0, 3)) if drawn else 0):
        place = draw(st.integers(0, len(drawn) - 1))
        clock = drawn[place].at + draw(st.sampled_from(_STEPS))
        # After a timer has fired at a time, no record arrives with an earlier one.
        clock = min([clock, *(arrival.at for arrival in drawn[place + 1 :])])
        drawn.insert(place + 1, Arrival(clock, None))
    return drawn
