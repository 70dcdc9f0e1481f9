"""Policies are read from presets and files, which have a base and versions with dates."""

from decimal import Decimal

import msgspec
import pytest

from pipeline.catalog.policies import DEFAULT, PRESETS, preset, read_policies
from pipeline.catalog.toml_values import parse_duration
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time
from pipeline.resolve.policy import Policy, Timeline
from tests.support.policy_toml import format_duration, write_policy

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def read(text: str) -> Policy:
    return read_policies({"acme.toml": text})[0]


def problems(*texts: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_policies({f"{number}.toml": text for number, text in enumerate(texts)})
    return list(caught.value.problems)


def changed(policy: Policy) -> set[str]:
    """Return the keys in which a policy differs from the default."""
    default = preset(DEFAULT)
    return {
        name for name in Policy.__struct_fields__ if getattr(policy, name) != getattr(default, name)
    }


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_its_name_and_is_in_force_from_the_start(name: str) -> None:
    policy = preset(name)

    assert (policy.name, policy.version, policy.effective_from) == (name, 1, 0)


def test_the_default_bills_an_answer_after_a_day_of_silence() -> None:
    policy = preset(DEFAULT)

    assert policy.silence == "bills"
    assert policy.window_anchor == "last_answer"
    assert policy.window_of("messenger") == policy.window_of("email") == DAY_MS
    assert policy.unknown_intent == "help_request"
    assert policy.price["resolution"] == Decimal("0.99")


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("confirmed-only", {"silence"}),
        (
            "gorgias",
            {"human_reply", "reversal_horizon", "handoff_causes_billed", "outcomes_billed"}
            | {"window"},
        ),
        (
            "hubspot-2026",
            {"unit", "reversal_horizon", "handoff_causes_billed", "outcomes_billed", "window"}
            | {"price"},
        ),
        (
            "zendesk-2026",
            {"window_anchor", "silence", "human_reply", "handoff_causes_billed"}
            | {"outcomes_billed", "window"},
        ),
    ],
)
def test_the_other_presets_differ_from_the_default_only_in_these_keys(
    name: str, differs: set[str]
) -> None:
    assert changed(preset(name)) == differs | {"name"}


def test_an_unknown_preset_is_reported_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=f"is 'fin'; it must be one of {', '.join(PRESETS)}"
    ):
        preset("fin")


@pytest.mark.parametrize("name", PRESETS)
def test_a_written_policy_reads_as_the_same_policy(name: str) -> None:
    policy = msgspec.structs.replace(preset(name), name="written", csat_reverses_below=3)

    assert read(write_policy(policy)) == policy


# --- base -----------------------------------------------------------------------------------------


def test_the_base_of_a_policy_is_the_default_preset() -> None:
    assert changed(read('name = "acme"')) == {"name"}


def test_a_key_that_a_policy_leaves_out_comes_from_its_base() -> None:
    policy = read('base = "zendesk-2026"\nname = "acme"\nsilence = "never"')

    assert policy.silence == "never"
    assert policy.human_reply == "voids_conversation"
    assert policy.window == {"default": 72 * HOUR_MS}


def test_tables_are_merged_by_key() -> None:
    policy = read(
        'name = "acme"\n[window]\nemail = "72h"\n[price]\nresolution = "0.75"\nsignup = 4'
    )

    assert policy.window == {"default": DAY_MS, "email": 3 * DAY_MS}
    assert policy.window_of("email") == 3 * DAY_MS
    assert policy.window_of("voice") == DAY_MS
    assert policy.price == preset(DEFAULT).price | {
        "resolution": Decimal("0.75"),
        "signup": Decimal(4),
    }


def test_lists_are_replaced_as_a_whole() -> None:
    policy = read('name = "acme"\noutcomes_billed = ["signup"]\nhandoff_causes_billed = []')

    assert policy.outcomes_billed == ("signup",)
    assert policy.handoff_causes_billed == ()


def test_the_base_can_be_another_file_by_name_or_by_version() -> None:
    texts = {
        "1.toml": 'name = "acme"\nversion = 1\n[window]\ndefault = "48h"',
        "2.toml": 'base = "acme@1"\nname = "acme"\nversion = 2\ngrace = "1h"',
        "other.toml": 'base = "acme"\nname = "globex"\nversion = 1',
    }

    first, second, other = read_policies(texts)

    assert (first.version, second.version) == (1, 2)
    assert first.window == second.window == other.window == {"default": 2 * DAY_MS}
    assert (first.grace, second.grace) == (600_000, HOUR_MS)


def test_absent_unsets_a_value_of_the_base() -> None:
    first, second = read_policies(
        {
            "1.toml": 'name = "rated"\ncsat_reverses_below = 3\ncsat_confirms_from = 4',
            "2.toml": 'base = "rated"\nname = "unrated"\ncsat_reverses_below = "absent"',
        }
    )

    assert (first.csat_reverses_below, first.csat_confirms_from) == (3, 4)
    assert (second.csat_reverses_below, second.csat_confirms_from) == (None, 4)


def test_an_unknown_base_is_reported_with_the_known_ones() -> None:
    (problem,) = problems('base = "fin"\nname = "acme"', 'name = "globex"\nversion = 1')

    assert problem.startswith("0.toml: base: is 'fin'; it must be one of ")
    for name in (*PRESETS, "globex"):
        assert name in problem
    assert "acme" not in problem


def test_a_wrong_base_hides_no_other_problem_and_is_reported_once() -> None:
    reported = problems(
        'base = "fin"\nname = "a"\nversion = 0\nsilenc = "never"',
        'base = "a"\nname = "b"\ngrace = "soon"',
    )

    assert sorted(problem.partition(": ")[2].partition(": ")[0] for problem in reported) == [
        "base",
        "grace",
        "silenc",
        "version",
    ]


def test_a_base_cycle_is_a_problem_of_both_policies() -> None:
    reported = problems('base = "b"\nname = "a"', 'base = "a"\nname = "b"')

    assert reported == [
        "0.toml: base: cycle: 'b' is based on this policy",
        "1.toml: base: cycle: 'a' is based on this policy",
    ]


def test_a_version_that_names_its_own_policy_as_base_is_told_the_other_versions() -> None:
    reported = problems(
        'base = "a"\nname = "a"\nversion = 2\neffective_from = 2026-08-01T00:00:00Z',
        'name = "a"\nversion = 1\neffective_from = 2026-07-01T00:00:00Z',
    )

    assert reported == ["0.toml: base: 'a' is this policy itself; name a version of it: a@1"]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("24h", DAY_MS),
        ("7d", 7 * DAY_MS),
        ("90m", 5_400_000),
        ("30s", 30_000),
        ("0s", 0),
        ("1ms", 1),
        ("999999999d", 999_999_999 * DAY_MS),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, ms: int) -> None:
    assert parse_duration(text) == ms
    assert parse_duration(format_duration(ms)) == ms


@pytest.mark.parametrize(
    "text", ["", "24", "h", "-1h", "1.5h", "24 h", "1w", "٣h", "1h\n", 24, None]
)
def test_an_invalid_duration_is_rejected(text: object) -> None:
    with pytest.raises(ValueError, match="it must be a duration"):
        parse_duration(text)


def test_a_price_written_as_a_number_is_exactly_that_decimal() -> None:
    policy = read('name = "acme"\n[price]\nresolution = 0.1\nsignup = "0.10"')

    assert str(policy.price["resolution"]) == "0.1"
    assert str(policy.price["signup"]) == "0.10"


def test_a_time_is_read_in_its_zone_quoted_or_not() -> None:
    bare = read('name = "acme"\neffective_from = 2026-05-04T09:00:00+02:00')
    quoted = read('name = "acme"\neffective_from = "2026-05-04T09:00:00+02:00"')

    assert bare.effective_from == quoted.effective_from == parse_time("2026-05-04T07:00:00Z")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('name = "a b"', "name: is 'a b'; it must be 1 to 64 characters"),
        ("version = 0", "version: is 0; it must be a whole number from 1"),
        ("version = true", "version: is True; it must be a whole number"),
        ('unit = "segments"', "unit: is 'segments'; it must be one of conversation, segment"),
        ("effective_from = 2026-01-01T00:00:00", "write 2026-01-01T00:00:00Z"),
        ("effective_from = 2026-01-01", "effective_from: is 2026-01-01; it must be a time"),
        ("effective_from = 9999-12-31T23:59:59-10:00", "effective_from: "),
        (
            'human_request_sticky = "yes"',
            "human_request_sticky: is 'yes'; it must be true or false",
        ),
        (
            'handoff_causes_billed = ["boredom"]',
            "handoff_causes_billed: has 'boredom'; each name must be one of",
        ),
        ('outcomes_billed = "signup"', "outcomes_billed: is 'signup'; it must be a list"),
        ('precedence = ["resolution", "resolution"]', "precedence: duplicate name 'resolution'"),
        ('reversal_horizon = "never"', "reversal_horizon: is 'never'; it must be a duration"),
        (
            "csat_reverses_below = 1",
            "csat_reverses_below: is 1; it must be a whole number from 2 to 5",
        ),
        ('currency = "USD"', "currency: is 'USD'; it must be a currency"),
        ("grace = 600", "grace: is 600; it must be a duration"),
        ('window = "24h"', "window: is '24h'; it must be a table: write [window]"),
        ('window = { fax = "24h" }', "window.fax: unknown key"),
        ('window = { email = "a day" }', "window.email: is 'a day'; it must be a duration"),
        ("price = { resolution = -1 }", "price.resolution: is -1; it must be an amount"),
        ("price = { resolution = nan }", "price.resolution: is nan; it must be an amount"),
        (
            'price = { resolution = "a dollar" }',
            "price.resolution: is 'a dollar'; it must be a decimal",
        ),
        ('window_anker = "last_answer"', "window_anker: unknown key; did you mean window_anchor?"),
        ('base = ["gorgias"]', "base: is ['gorgias']; it must be one of"),
    ],
)
def test_an_invalid_value_is_reported_with_its_file_and_key(line: str, message: str) -> None:
    (problem,) = problems(line)

    assert problem.startswith("0.toml: ")
    assert message in problem


def test_three_errors_of_one_file_are_reported_together() -> None:
    reported = problems(
        'name = "acme"\nsilence = "maybe"\n[window]\nemail = "3 days"\n[price]\nresolution = "free"'
    )

    assert [problem.split(": ")[1] for problem in reported] == [
        "silence",
        "window.email",
        "price.resolution",
    ]


def test_errors_of_several_files_are_reported_together() -> None:
    reported = problems('silence = "maybe"', "name = ", 'name = "fine"', 'grace = "soon"')

    assert sorted(problem.partition(": ")[0] for problem in reported) == [
        "0.toml",
        "1.toml",
        "3.toml",
    ]


def test_an_error_in_a_base_is_reported_once_with_its_own_file() -> None:
    reported = problems('name = "a"\ngrace = "soon"', 'base = "a"\nname = "b"')

    assert reported == [
        '0.toml: grace: is \'soon\'; it must be a duration such as "24h", "7d", "90m" or "30s"'
    ]


# --- timelines ------------------------------------------------------------------------------------


def version(number: int, effective_from: int) -> Policy:
    return msgspec.structs.replace(preset(DEFAULT), version=number, effective_from=effective_from)


def number_at(timeline: Timeline, ms: int) -> int:
    return timeline.at(ms).version


def test_the_version_in_force_is_the_latest_that_has_begun() -> None:
    timeline = Timeline([version(2, 200), version(1, 100), version(3, 300)])

    numbers = [number_at(timeline, ms) for ms in (99, 100, 199, 200, 299, 300, 10**15)]

    assert numbers == [1, 1, 1, 2, 2, 3, 3]


def test_what_was_in_force_before_stays_until_the_first_version_takes_effect() -> None:
    before = Timeline([version(7, 0), version(8, 50), version(9, 100)])

    timeline = Timeline([version(4, 100)], before=before)

    assert [number_at(timeline, ms) for ms in (-1, 49, 50, 99, 100, 101)] == [7, 7, 8, 8, 4, 4]


def test_a_version_that_is_as_old_as_what_was_before_replaces_it() -> None:
    timeline = Timeline([version(4, 0)], before=Timeline([version(7, 0)]))

    assert [number_at(timeline, ms) for ms in (-1, 0, 1)] == [4, 4, 4]
    assert timeline.single is not None


def test_the_higher_of_two_versions_with_one_date_is_in_force() -> None:
    timeline = Timeline([version(2, 100), version(1, 100)])

    assert number_at(timeline, 100) == 2


def test_a_timeline_without_a_version_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a version"):
        Timeline([])


def test_an_outcome_that_the_precedence_does_not_name_ranks_last() -> None:
    policy = preset(DEFAULT)

    assert [policy.rank_of(outcome) for outcome in (*policy.precedence, "signup")] == [*range(5)]
