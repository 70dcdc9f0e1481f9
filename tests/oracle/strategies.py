"""What Hypothesis draws: histories whose times lie around the edges of windows, and policies.

A history drawn at random hardly ever counts anything. These mostly begin with a question and an
answer, and move on by steps that are a window or a grace long, or a millisecond off; so most of
them count, and many reverse. `test_strategies.py` holds them to that.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, get_args

import msgspec
from hypothesis import strategies as st

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
    Event,
    Intent,
)
from pipeline.resolve.policy import PRESETS, Policy, Timeline, preset

T0 = 1_780_000_000_000
WINDOW = 10_000
GRACE = 1_000
END = T0 + 10**9  # later than anything that is drawn falls due

_STEPS = [0, 1, GRACE, GRACE, WINDOW - 1, WINDOW, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1]
_DELAYS = [0, 0, 0, 0, 1, GRACE - 1, GRACE, GRACE + 1, WINDOW, WINDOW + GRACE, 4 * WINDOW]
_DURATIONS = [0, 1, GRACE, WINDOW, 3 * WINDOW]
_CHANNELS = ["messenger", "messenger", "messenger", "email", "voice"]
_SEQUENCES = ["", "", "", "", "1", "10", "2"]
_OUTCOMES = ["qualification", "procedure_handoff", "resolution", "disqualification"]

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
    (1, HUMAN_MESSAGE, {}),
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


@st.composite
def histories(draw: st.DrawFn, size: int = 12) -> list[Event]:
    """Return events of one conversation, one per identity, about in the order of their times."""
    opening = [(_QUESTION, 0), (_ANSWER, GRACE)] if draw(st.integers(0, 5)) else []
    most = size - len(opening)
    least = draw(st.sampled_from([0, most // 2, most]))
    coming = opening + draw(
        st.lists(st.tuples(_kinds, st.sampled_from(_STEPS)), min_size=least, max_size=most)
    )
    # One odd event excludes the whole conversation: rare, or nothing else would be seen.
    odd = draw(st.integers(0, 9 * size))
    found: list[Event] = []
    now = T0
    for n, ((rank, members), step) in enumerate(coming):
        now += step
        event = Event(
            at=now,
            rank=rank,
            source=draw(st.sampled_from(["/a", "/a", "/b"])),
            id=f"m{n}",
            sequence=draw(st.sampled_from(_SEQUENCES)),
            channel=draw(st.sampled_from(_CHANNELS)),
            live=n != odd,
            **members,
            **_drawn(draw, rank, members, now, found),
        )
        # An id is unique within its source only.
        if found and event.source == "/b" and found[-1].source == "/a" and draw(st.booleans()):
            event = msgspec.structs.replace(event, id=found[-1].id)
        found.append(event)
    return found


def _drawn(
    draw: st.DrawFn, rank: int, members: dict[str, Any], now: int, before: Sequence[Event]
) -> dict[str, Any]:
    """Return the members of an event that are neither common to all nor fixed by its kind."""
    if rank == HANDOFF and not members:
        return {"cause": draw(st.sampled_from(get_args(Cause)))}
    if rank == RATING and not members:
        return {
            "rates_ai": draw(st.sampled_from([True, True, True, False])),
            "score": draw(st.integers(1, 5)),
            "intent": draw(st.sampled_from([None, None, *get_args(Intent)])),
        }
    if rank == UNDELIVERED:
        answers = [event.id for event in before if event.rank == AI_MESSAGE]
        return {"message_id": draw(st.sampled_from([*reversed(answers), "nothing"]))}
    if rank == MERGED and not members:
        ago = draw(st.sampled_from([None, 0, GRACE, WINDOW - 1, WINDOW, 2 * WINDOW, -GRACE]))
        return {"last_answer_at": None if ago is None else now - ago}
    return {}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Return a policy of any content, with windows of a few seconds."""
    window = {"default": WINDOW}
    if draw(st.booleans()):
        window["email"] = draw(st.sampled_from(_DURATIONS))
    return Policy(
        name="drawn",
        version=draw(st.integers(1, 3)),
        effective_from=0,
        unit=draw(st.sampled_from(["conversation", "segment"])),
        window=window,
        window_anchor=draw(st.sampled_from(["last_answer", "last_message", "first_message"])),
        silence=draw(st.sampled_from(["bills", "bills", "bills", "if_verified", "never"])),
        human_reply=draw(st.sampled_from(["ignore", "clears_answer", "voids_conversation"])),
        human_request_sticky=draw(st.booleans()),
        unknown_intent=draw(st.sampled_from(["help_request", "holding"])),
        handoff_causes_billed=tuple(draw(st.sets(st.sampled_from(get_args(Cause)), max_size=3))),
        outcomes_billed=draw(
            st.sampled_from(
                [(), ("qualification", "disqualification"), ("x",), ("x", "qualification")]
            )
        ),
        precedence=tuple(draw(st.permutations(_OUTCOMES)))[: draw(st.integers(0, 4))],
        reversible=draw(
            st.sampled_from([("resolution",), ("resolution", "x"), tuple(_OUTCOMES), ()])
        ),
        reversal_horizon=draw(st.none() | st.sampled_from(_DURATIONS)),
        csat_reverses_below=draw(st.none() | st.integers(2, 5)),
        csat_confirms_from=draw(st.none() | st.integers(1, 5)),
        spam_grace=draw(st.sampled_from(_DURATIONS)),
        grace=draw(st.sampled_from([0, GRACE, GRACE, WINDOW])),
        price={name: Decimal(draw(st.integers(0, 999))) / 100 for name in _OUTCOMES},
        currency="usd",
    )


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Return a preset with a short window, a drawn policy, or two versions of one."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        found = preset(draw(st.sampled_from(PRESETS)))
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
    first = draw(policies())
    if kind == 1:
        since = T0 + draw(st.sampled_from([GRACE, GRACE + 1, WINDOW, 2 * WINDOW]))
        second = msgspec.structs.replace(draw(policies()), version=9, effective_from=since)
        begins = draw(st.sampled_from([0, 0, T0 + 1_000]))
        return Timeline([msgspec.structs.replace(first, effective_from=begins), second])
    return Timeline([first])


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
        found = [Arrival(e.at + draw(st.sampled_from(_DELAYS)), e) for e in history]
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
    if draw(st.integers(0, 5)) == 0 and found:  # a new leader's clock may be behind the old one's
        place = draw(st.integers(0, len(found) - 1))
        found[place] = found[place]._replace(at=found[place].at - GRACE)
    for _ in range(draw(st.integers(0, 3)) if found else 0):
        place = draw(st.integers(0, len(found) - 1))
        clock = found[place].at + draw(st.sampled_from(_STEPS))
        # A partition is not ahead of its broker: no record comes with an earlier time.
        clock = min([clock, *(arrival.at for arrival in found[place + 1 :])])
        found.insert(place + 1, Arrival(clock, None))
    return found
