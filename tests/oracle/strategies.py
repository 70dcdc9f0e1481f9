"""What Hypothesis draws: histories whose times lie around the edges of windows, and policies.

A history drawn at random hardly ever counts anything. These mostly begin with a question and an
answer, and move on by steps that are a window or a grace long, or a millisecond off; so most of
them count, and many reverse. `test_strategies.py` holds them to that.
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
END = T0 + 10**9  # later than anything that is drawn falls due

_STEPS = [0, 0, 1, GRACE, GRACE, WINDOW - 1, WINDOW, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1]
_DELAYS = [0, 0, 0, 0, 1, GRACE - 1, GRACE, GRACE + 1, WINDOW, WINDOW + GRACE, 4 * WINDOW]
_DURATIONS = [0, 1, GRACE, WINDOW, 3 * WINDOW]
_CHANNELS: list[Channel] = ["messenger", "messenger", "messenger", "email", "voice"]
_SEQUENCES = ["", "", "", "", "1", "10", "2"]
# Drawn at once, as a draw costs more than all that is done with it: source, whether a "/b" has
# the id of the "/a" before it (an id is unique within its source only), sequence, channel.
_TRAITS = list(product(["/a", "/a", "/b"], [False, True], _SEQUENCES, _CHANNELS))
_CAUSES_BILLED = [found for n in range(4) for found in combinations(get_args(Cause), n)]
_OUTCOMES = ["qualification", "procedure_handoff", "resolution", "disqualification"]
_PRECEDENCES = [found for n in (4, 3, 2, 1, 0) for found in permutations(_OUTCOMES, n)]

# When a decision is asked for.
as_ofs = st.integers(-1, 20).map(lambda n: T0 + n * WINDOW // 2) | st.just(END)

# What an event may be: (how often, rank, members).
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
_AGAIN = [(_QUESTION, 2 * WINDOW + 1), (_ANSWER, GRACE)]  # when a window, or a horizon, is over
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
    """Return events of one conversation, one per identity, about in the order of their times."""
    opening = draw(st.sampled_from(_OPENINGS))[:size]
    most = size - len(opening)
    least = draw(st.sampled_from([0, most // 2, most]))
    coming = opening + draw(
        st.lists(st.tuples(_kinds, st.sampled_from(_STEPS)), min_size=least, max_size=most)
    )
    # One odd event excludes the whole conversation: rare, or nothing else would be seen.
    odd = draw(st.integers(0, 6 * size))
    found: list[Event] = []
    now = T0
    for n, ((rank, members), step) in enumerate(coming):
        now += step
        source, shares_id, sequence, channel = draw(st.sampled_from(_TRAITS))
        before = found[-1] if found else None
        event = Event(
            at=now,
            rank=rank,
            source=source,
            id=before.id if before and shares_id and before.source < source else f"m{n}",
            sequence=sequence,
            channel=channel,
            is_live=n != odd,
            **members,
            **_drawn(draw, rank, members, now, found),
        )
        found.append(event)
    return found


def _drawn(
    draw: st.DrawFn, rank: int, members: dict[str, Any], now: int, before: Sequence[Event]
) -> dict[str, Any]:
    """Return the members of an event that are neither common to all nor fixed by its kind."""
    if rank == HANDOFF and not members:
        return {"cause": draw(st.sampled_from(get_args(Cause)))}
    if rank == RATING and not members:
        rates_ai, score, intent = draw(st.sampled_from(_RATINGS))
        return {"rates_ai": rates_ai, "score": score, "intent": intent}
    if rank == UNDELIVERED:
        answers = [event.id for event in before if event.rank == AI_MESSAGE]
        return {"message_id": draw(st.sampled_from([*reversed(answers), "nothing"]))}
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
        return {"last_answer_at": draw(st.sampled_from([*moments, None]))}
    return {}


class Choose(Protocol):
    """Who picks one of several: Hypothesis, or a generator of random numbers."""

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
        found = preset(choose(PRESETS))
        horizon = found.reversal_horizon
        return Timeline(
            [
                msgspec.structs.replace(
                    found,
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
    return Timeline([msgspec.structs.replace(first, effective_from=begins), second])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Return a policy of any content, with windows of a few seconds."""
    return _policy(lambda of: draw(st.sampled_from(of)))


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Return a preset with a short window, a drawn policy, or two versions of one."""
    return _timeline(lambda of: draw(st.sampled_from(of)))


# To draw a history costs a hundred times as much as to decide it: each is decided under many.
TIMELINES = [_timeline(random.Random(seed).choice) for seed in range(60)]


class Arrival(NamedTuple):
    """An event on its way, or (without one) only time that goes by."""

    at: int
    event: Event | None


@st.composite
def arrivals(draw: st.DrawFn, size: int = 12) -> list[Arrival]:
    """Return a history as it arrives.

    Some of it late, or all of it in any order; some of it again, and then perhaps with another
    content; timers in between.
    """
    history = draw(histories(size))
    if draw(st.integers(0, 3)):
        # Soon after it happened, or about when something that was known before falls due.
        ends = [e.at + WINDOW + wait for e in history for wait in (0, GRACE - 1, GRACE)]
        found = []
        for event in history:
            later = [end for end in ends if end >= event.at]
            at = event.at + draw(st.sampled_from(_DELAYS))
            found.append(Arrival(draw(st.sampled_from([at, at, at, *later[:9]])), event))
        found.sort(key=lambda arrival: arrival.at)
    else:
        now = T0
        found = []
        for event in draw(st.permutations(history)):
            now += draw(st.sampled_from(_STEPS))
            found.append(Arrival(now, event))
    for _ in range(draw(st.integers(0, 3)) if found else 0):
        place = draw(st.integers(0, len(found) - 1))
        again = found[place].event
        until = found[min(place + draw(st.integers(0, 3)), len(found) - 1)]
        if again is not None and draw(st.booleans()):  # only the first content counts
            again = msgspec.structs.replace(again, at=again.at + WINDOW, intent="confirmation")
        found.insert(found.index(until) + 1, Arrival(until.at, again))
    if draw(st.integers(0, 2)) == 0 and found:  # a new leader's clock may be behind the old one's
        place = draw(st.integers(0, len(found) - 1))
        found[place] = found[place]._replace(at=found[place].at - GRACE)
    for _ in range(draw(st.integers(0, 3)) if found else 0):
        place = draw(st.integers(0, len(found) - 1))
        clock = found[place].at + draw(st.sampled_from(_STEPS))
        # A partition is not ahead of its broker: no record comes with an earlier time.
        clock = min([clock, *(arrival.at for arrival in found[place + 1 :])])
        found.insert(place + 1, Arrival(clock, None))
    return found
