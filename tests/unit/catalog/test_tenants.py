"""The tenant file says who is billed, under which policy, into which meter."""

from decimal import Decimal
from pathlib import Path

import pytest

from pipeline.catalog.policies import DEFAULT, PRESETS, preset
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time

NOW = parse_time("2026-05-04T09:00:00Z")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "resmeter.toml"


def loaded(file: Path, text: str) -> Tenants:
    file.write_text(text, "utf-8")
    return load_tenants(file)


def problems(file: Path, text: str) -> list[str]:
    """Return what is wrong, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        loaded(file, text)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


def policy_of(tenants: Tenants, tenant_id: str) -> str:
    (policy,) = tenants.timeline_for(tenant_id).versions
    return policy.name


def test_no_file_means_the_default_policy_for_everyone_and_no_customers() -> None:
    tenants = load_tenants(None)

    assert policy_of(tenants, "acme") == DEFAULT
    assert tenants.timeline_for("acme").at(NOW) == preset(DEFAULT)
    assert tenants.customer_for("acme", 0) is None
    assert tenants.customers == {}


def test_an_empty_file_gives_the_default_policy_and_no_customers(file: Path) -> None:
    tenants = loaded(file, "")

    assert policy_of(tenants, "acme") == DEFAULT
    assert tenants.customer_for("acme", 0) is None


def test_a_tenant_has_its_customer_and_its_policy(file: Path) -> None:
    tenants = loaded(
        file,
        """
        policy = "gorgias"
        [tenants.acme]
        stripe_customer = "cus_Acme1"
        policy = "zendesk-2026"
        [tenants."blue.jay-2"]
        stripe_customer = "cus_blue_jay"
        """,
    )

    assert tenants.customer_for("acme", 0) == "cus_Acme1"
    assert policy_of(tenants, "acme") == "zendesk-2026"
    assert tenants.timeline_for("acme").at(NOW) == preset("zendesk-2026")
    assert tenants.customer_for("blue.jay-2", 0) == "cus_blue_jay"
    assert policy_of(tenants, "blue.jay-2") == "gorgias"


def test_other_tenants_get_the_policy_of_the_file_and_no_customer(
    file: Path,
) -> None:
    tenants = loaded(file, 'policy = "gorgias"')

    assert tenants.timeline_for("nobody").at(NOW) == preset("gorgias")
    assert tenants.customer_for("nobody", 0) is None


def test_the_versions_of_a_policy_form_one_timeline(file: Path) -> None:
    policies = file.parent / "policies"
    policies.mkdir()
    (policies / "1.toml").write_text(
        'name = "acme"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n'
    )
    (policies / "2.toml").write_text(
        'base = "acme@1"\nname = "acme"\nversion = 2\neffective_from = 2026-05-01T00:00:00Z\n'
        "[price]\nresolution = 1.25\n"
    )

    tenants = loaded(file, 'policy_files = ["policies/*.toml"]\n[tenants.acme]\npolicy = "acme"\n')
    timeline = tenants.timeline_for("acme")

    times = ("2025-12-31T23:59:59.999Z", "2026-01-01T00:00:00Z", "2026-04-30T23:59:59.999Z")
    in_force = [timeline.at(at) for at in (*map(parse_time, times), NOW)]
    assert [(policy.name, policy.version) for policy in in_force] == [
        ("fin-2026", 1),
        ("acme", 1),
        ("acme", 1),
        ("acme", 2),
    ]


def test_before_its_policy_has_a_version_a_tenant_has_the_default_policy(file: Path) -> None:
    (file.parent / "own.toml").write_text(
        'base = "gorgias"\nname = "own"\neffective_from = 2026-03-01T00:00:00Z\n'
        '[price]\nresolution = "0.40"\n'
    )
    (file.parent / "late.toml").write_text(
        'base = "confirmed-only"\nname = "late"\neffective_from = 2027-01-01T00:00:00Z\n'
    )

    tenants = loaded(
        file,
        """
        policy = "own"
        policy_files = ["own.toml", "late.toml"]
        [tenants.acme]
        policy = "late"
        [tenants.bluejay]
        policy = [{ name = "late" }, { name = "zendesk-2026", from = 2026-04-01T00:00:00Z }]
        """,
    )

    def names(tenant_id: str) -> list[str]:
        times = ("2026-02-28", "2026-03-31", "2026-04-01", "2027-02-01")
        timeline = tenants.timeline_for(tenant_id)
        return [timeline.at(parse_time(f"{time}T00:00:00Z")).name for time in times]

    assert names("acme") == ["fin-2026", "own", "own", "late"]
    assert names("bluejay") == ["fin-2026", "own", "zendesk-2026", "zendesk-2026"]
    assert names("nobody") == ["fin-2026", "own", "own", "own"]
    assert "resmeter_procedure_handoff" in tenants.event_names  # fin-2026 bills them until March


def test_a_tenant_changes_its_policy_at_a_date_and_keeps_its_past(file: Path) -> None:
    tenants = loaded(
        file,
        """
        [tenants.acme]
        policy = [
          { name = "fin-2026" },
          { name = "gorgias", from = 2026-05-01T00:00:00Z },
          { name = "confirmed-only", from = 2026-06-01T00:00:00Z },
        ]
        """,
    )
    timeline = tenants.timeline_for("acme")

    def name_at(time: str) -> str:
        return timeline.at(parse_time(time)).name

    assert name_at("2026-04-30T23:59:59.999Z") == "fin-2026"
    assert name_at("2026-05-01T00:00:00Z") == "gorgias"
    assert name_at("2026-05-31T23:59:59.999Z") == "gorgias"
    assert name_at("2026-06-01T00:00:00Z") == "confirmed-only"
    assert policy_of(tenants, "bluejay") == "fin-2026"
    assert tenants.event_names == sorted(
        f"resmeter_{outcome}"
        for outcome in ("disqualification", "procedure_handoff", "qualification", "resolution")
    )


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("[]", "is empty; write a policy's name, or a list of policies with dates"),
        (
            '["gorgias"]',
            'entry 1 must be { name = "POLICY", from = 2026-12-01T00:00:00Z }',
        ),
        (
            '[{ name = "gorgias", from = 2026-01-01T00:00:00Z }]',
            "entry 1 has a date; the first policy is in force from the start",
        ),
        (
            '[{ name = "gorgias" }, { name = "fin-2026" }]',
            "entry 2: from: is missing; it must be a time such as 2026-01-01T00:00:00Z",
        ),
        (
            '[{name="gorgias"}, {name="fin-2026",from="2026-01-02Z"}]',
            "entry 2: from: '2026-01-02Z' is not an RFC 3339 time such as 2026-05-04T09:00:00.000Z",
        ),
        (
            '[{name="a"}, {name="fin-2026",from=2026-01-02T00:00:00Z}]',
            f"entry 1: name: is 'a'; it must be one of {', '.join(PRESETS)}",
        ),
        (
            (
                '[{name="gorgias"}, {name="fin-2026",from=2026-01-02T00:00:00Z}, '
                '{name="gorgias",from=2026-01-02T00:00:00Z}]'
            ),
            "entry 3: from: must be later than the date of the entry before it",
        ),
    ],
)
def test_a_list_of_dated_policies_that_is_wrong_is_named(
    file: Path, policy: str, problem: str
) -> None:
    assert problems(file, f"[tenants.acme]\npolicy = {policy}\n") == [
        f"tenants.acme.policy: {problem}"
    ]


def test_a_file_can_add_a_version_to_a_preset(file: Path) -> None:
    (file.parent / "dearer.toml").write_text(
        'name = "gorgias"\nversion = 2\nbase = "gorgias"\neffective_from = 2026-05-01T00:00:00Z\n'
    )

    tenants = loaded(file, 'policy = "gorgias"\npolicy_files = ["dearer.toml"]\n')

    assert [version.version for version in tenants.timeline_for("acme").versions] == [1, 2]


def test_prices_come_from_the_version_that_decided(file: Path) -> None:
    (file.parent / "acme.toml").write_text(
        'name = "acme"\ncurrency = "eur"\n[price]\nresolution = 0.80\n'
    )
    tenants = loaded(file, 'policy_files = ["acme.toml"]')

    assert tenants.price_for("acme", "resolution", "acme", 1) == (Decimal("0.8"), "eur")
    assert tenants.price_for("acme", "resolution", DEFAULT, 1) == (Decimal("0.99"), "usd")
    assert tenants.price_for("acme", "qualification", "acme", 1) == (Decimal("9.99"), "eur")


def test_an_outcome_without_a_price_in_the_policy_has_none() -> None:
    tenants = load_tenants(None)

    assert tenants.price_for("acme", "signup", DEFAULT, 1) is None
    assert tenants.price_for("acme", "resolution", DEFAULT, 2) is None
    assert tenants.price_for("acme", "resolution", "other", 1) is None
    # A reversal while no version was in force.
    assert tenants.price_for("acme", "resolution", "", 0) is None


def test_a_meter_is_named_in_the_file_or_after_its_outcome(file: Path) -> None:
    tenants = loaded(file, '[meters]\nresolution = "resolved"\n')

    assert tenants.event_name_for("resolution") == "resolved"
    assert tenants.event_name_for("qualification") == "resmeter_qualification"


def test_only_the_policies_in_use_need_meters(file: Path) -> None:
    resolution_only = loaded(file, 'policy = "gorgias"')
    one_tenant_more = loaded(file, f'policy = "gorgias"\n[tenants.acme]\npolicy = "{DEFAULT}"\n')

    assert resolution_only.event_names == ["resmeter_resolution"]
    assert one_tenant_more.event_names == [
        "resmeter_disqualification",
        "resmeter_procedure_handoff",
        "resmeter_qualification",
        "resmeter_resolution",
    ]


def test_a_meters_name_has_no_character_that_a_database_refuses(file: Path) -> None:
    (problem,) = problems(file, '[meters]\nresolution = "a\\u0000b"\n')

    assert "1 to 100 printable characters" in problem


def test_a_folder_is_no_policy_file(file: Path) -> None:
    (problem,) = problems(file, 'policy_files = ["."]')

    assert "no file matches '.'" in problem


# --- what is wrong --------------------------------------------------------------------------------


def test_a_missing_file_is_reported_with_its_variable(file: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_tenants(file)

    assert caught.value.problems == (
        f"{file}: cannot be read: No such file or directory; check RESMETER_CONFIG",
    )


@pytest.mark.parametrize("content", [b"policy = ", b"policy = '\xff'"], ids=["cut off", "latin 1"])
def test_a_file_that_is_not_toml_is_reported(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        load_tenants(file)

    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: is not valid TOML: ")


def test_all_problems_of_a_file_are_reported_together(file: Path) -> None:
    reported = problems(
        file,
        """
        policy = "nobody's"
        policy_file = ["acme.toml"]
        policy_files = ["none/*.toml"]
        [meters]
        resolution = ""
        [tenants.acme]
        stripe_customer = "acme"
        policy = "zendesk"
        price = 1
        [tenants."white space"]
        """,
    )

    assert [problem.partition(": ")[0] for problem in reported] == [
        "policy_file",
        "policy_files",
        "policy",
        "meters.resolution",
        "tenants.acme.stripe_customer",
        "tenants.acme.policy",
        "tenants.acme.price",
        "tenants.white space",
    ]


def test_problems_of_policy_files_and_of_the_tenant_file_are_reported_together(file: Path) -> None:
    policy = file.parent / "acme.toml"
    policy.write_text('name = "acme"\nsilent = "bills"\ngrace = "soon"\n')

    reported = problems(file, 'policy_files = ["acme.toml"]\n[tenants.globex]\npolicy = "acmee"\n')

    assert [problem.rpartition("/")[2].partition(": ")[0] for problem in reported] == [
        "acme.toml",
        "acme.toml",
        "tenants.globex.policy",
    ]


def test_a_tenant_with_an_invalid_policy_is_not_a_second_problem(file: Path) -> None:
    own = file.parent / "own.toml"
    own.write_text('name = "own"\nversion = 1\ngrace = "soon"')

    (problem,) = problems(file, 'policy_files = ["own.toml"]\n[tenants.acme]\npolicy = "own"')

    assert problem.startswith(f"{own}: grace: ")


def test_an_unknown_policy_is_reported_with_the_known_ones(file: Path) -> None:
    (problem,) = problems(file, 'policy = "fin"')

    assert problem == f"policy: is 'fin'; it must be one of {', '.join(PRESETS)}"


def test_a_version_in_two_files_is_reported_with_both(file: Path) -> None:
    for name in ("a", "b"):
        (file.parent / f"{name}.toml").write_text('name = "acme"\n')

    with pytest.raises(ConfigurationError) as caught:
        loaded(file, 'policy_files = ["a.toml", "b.toml"]')

    (problem,) = caught.value.problems
    assert problem == (
        f"{file.parent / 'b.toml'}: 'acme' version 1 already exists in {file.parent / 'a.toml'}: "
        "change its name or its version"
    )


def test_a_file_cannot_replace_a_preset(file: Path) -> None:
    (file.parent / "mine.toml").write_text(f'name = "{DEFAULT}"\ngrace = "1h"\n')

    with pytest.raises(
        ConfigurationError, match=f"'{DEFAULT}' version 1 already exists in {DEFAULT}"
    ):
        loaded(file, 'policy_files = ["mine.toml"]')


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("policy = 1", "policy"),
        ('policy = ["gorgias"]', "policy"),
        ('policy_files = "acme.toml"', "policy_files"),
        ("policy_files = [1]", "policy_files"),
        ('policy_files = [""]', "policy_files"),
        ('meters = "resmeter"', "meters"),
        ("[meters]\nresolution = 1", "meters.resolution"),
        (f'[meters]\nresolution = "{"m" * 101}"', "meters.resolution"),
        ("tenants = []", "tenants"),
        ('tenants = { acme = "cus_1" }', "tenants.acme"),
        ("[tenants.acme]\nstripe_customer = 1", "tenants.acme.stripe_customer"),
        ('[tenants.acme]\nstripe_customer = "cus_"', "tenants.acme.stripe_customer"),
        ("[tenants.acme]\npolicy = 1", "tenants.acme.policy"),
        ('[tenants.acme]\npolicy = ["gorgias"]', "tenants.acme.policy"),
        ("[tenants.acme]\npolicy = { name = 1 }", "tenants.acme.policy"),
    ],
)
def test_a_value_of_the_wrong_form_is_reported_with_its_key(
    file: Path, text: str, named: str
) -> None:
    (problem,) = problems(file, text)

    assert problem.startswith(f"{named}: ")


# --- sealing --------------------------------------------------------------------------------------

HOUR_MS = 3_600_000


def test_the_windows_of_every_preset_end_within_four_days(
    file: Path,
) -> None:
    for name in PRESETS:
        tenants = loaded(file, f'policy = "{name}"')

        assert [text for _, text in tenants.windows_too_long(4 * 24 * HOUR_MS)] == []


def test_a_window_longer_than_sealing_is_reported_with_the_days_it_needs(
    file: Path,
) -> None:
    (file.parent / "slow.toml").write_text(
        'name = "slow"\nversion = 3\n[window]\nemail = "60d"\n', "utf-8"
    )
    tenants = loaded(file, 'policy_files = ["slow.toml"]\n[tenants.acme]\npolicy = "slow"\n')

    (problem,) = [text for _, text in tenants.windows_too_long(60 * 24 * HOUR_MS)]

    assert problem == (
        "RESMETER_WORKER__SEAL_AFTER_DAYS: policy 'slow', version 3, has windows that stay "
        "open longer: set it to 61 or more"
    )
    assert [text for _, text in tenants.windows_too_long(61 * 24 * HOUR_MS)] == []


def test_only_windows_that_can_bill_and_have_a_tenant_matter_for_sealing(file: Path) -> None:
    (file.parent / "slow.toml").write_text(
        'name = "slow"\nversion = 3\n[window]\nemail = "60d"\n', "utf-8"
    )
    (file.parent / "sure.toml").write_text(
        'name = "sure"\nbase = "confirmed-only"\nversion = 3\n[window]\nemail = "60d"\n', "utf-8"
    )
    tenants = loaded(
        file, 'policy_files = ["slow.toml", "sure.toml"]\n[tenants.acme]\npolicy = "sure"\n'
    )

    assert [text for _, text in tenants.windows_too_long(45 * 24 * HOUR_MS)] == []
