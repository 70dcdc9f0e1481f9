"""Which policy version is in force at a time: the rules of docs/reference/outcomes.md §2.3, read naively."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import preset
from pipeline.resolve.policy import Assignment, Policy, Timeline, rules_id

TIMES = st.integers(0, 12)
NAMES = ("a", "b", "c")


def version(name: str, number: int, effective_from: int) -> Policy:
    return msgspec.structs.replace(
        preset("fin-2026"), name=name, version=number, effective_from=effective_from
    )


FIRST = version("first", 1, -1)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, list[Policy]]:
    return {
        name: [
            version(name, number, at)
            for number, at in enumerate(draw(st.lists(TIMES, max_size=3)), start=1)
        ]
        for name in NAMES
    }


def newest(versions: list[Policy], at: int) -> Policy | None:
    begun = [policy for policy in versions if policy.effective_from <= at]
    return max(begun, key=lambda policy: (policy.effective_from, policy.version), default=None)


def in_force(
    versions: dict[str, list[Policy]], default: str, assigned: list[tuple[int, str]], at: int
) -> Policy:
    """Walk through time, one millisecond after the other, and keep what was in force before.

    `assigned` begins with the policy that has no date.
    """
    current = FIRST
    for now in range(-1, at + 1):
        names = [name for since, name in assigned if since <= now]
        if len(names) == 1:
            current = newest(versions[default], now) or current
        current = newest(versions[names[-1]], now) or current
    return current


@given(
    versions=policies(),
    default=st.sampled_from(NAMES),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    dates=st.lists(TIMES, min_size=3, max_size=3, unique=True),
    at=TIMES,
)
def test_in_force_is_the_newest_version_of_the_policy_assigned_last(
    versions: dict[str, list[Policy]], default: str, names: list[str], dates: list[int], at: int
) -> None:
    later = list(zip(sorted(dates), names[1:], strict=False))
    timeline = Timeline(
        versions[names[0]],
        [Assignment(since, versions[name]) for since, name in later],
        before=Timeline(versions[default], before=Timeline([FIRST])),
    )

    expected = in_force(versions, default, [(-1, names[0]), *later], at)

    assert timeline.at(at) == expected
    assert timeline.rules_at(at) == rules_id(expected)


@given(
    versions=policies(),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    dates=st.lists(TIMES, min_size=3, max_size=3, unique=True),
    ranges=st.lists(
        st.lists(TIMES, min_size=2, max_size=2, unique=True).map(sorted), min_size=1, max_size=3
    ),
    effective_from=TIMES,
    at=TIMES,
)
def test_of_amended_times_the_last_amendment_is_in_force_and_elsewhere_what_was(
    versions: dict[str, list[Policy]],
    names: list[str],
    dates: list[int],
    ranges: list[list[int]],
    effective_from: int,
    at: int,
) -> None:
    later = list(zip(sorted(dates), names[1:], strict=False))
    timeline = amended = Timeline(
        versions[names[0]],
        [Assignment(since, versions[name]) for since, name in later],
        before=Timeline([FIRST]),
    )

    expected = timeline.at(at).name, timeline.at(at).version
    for number, (from_ms, to_ms) in enumerate(ranges):
        amended = amended.amended(version("amended", number, effective_from), from_ms, to_ms)
        if from_ms <= at < to_ms:
            expected = "amended", number

    assert (amended.at(at).name, amended.at(at).version) == expected
