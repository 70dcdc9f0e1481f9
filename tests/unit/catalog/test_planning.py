"""What the files would change in the catalog, in words."""

from pathlib import Path

import pytest

from pipeline.catalog.declared import CatalogPlan
from pipeline.catalog.entry import entries_of
from pipeline.catalog.planning import beginning, plan
from pipeline.catalog.tenants import read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog, Touched
from pipeline.events.times import parse_time
from tests.support.tenants import taken

NOW = parse_time("2026-11-27T12:00:00Z")
EARLIEST = NOW + LEAD_MS_MIN
FROM = parse_time("2026-11-27T12:10:00Z")
FIRST = """
[tenants.acme]
stripe_customer = "cus_1"
policy = "acme"
[tenants.bluejay]
stripe_customer = "cus_2"
"""
POLICY = """
name = "acme"
version = 1
effective_from = 2026-01-01T00:00:00Z
[price]
resolution = "0.50"
"""


class Files:
    """A tenant file and policy files, and a catalog that began with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "p1.toml").write_text(POLICY)
        self.catalog = Catalog()
        declared, _ = read_declared(self.write(FIRST))
        self.take(entries_of(beginning(declared), "", "ada", "start", LEAD_MS_MIN), NOW - 10**9)

    def take(self, values: list[bytes], at_ms: int) -> None:
        self.catalog, _ = taken(self.catalog, values, at_ms)

    def write(self, text: str, head: str = "") -> Path:
        file = self.folder / "resmeter.toml"
        file.write_text(f'{head}\npolicy_files = ["*.toml.policy", "p*.toml"]\n{text}')
        (self.folder / "x.toml.policy").write_text(
            POLICY.replace('"acme"', '"spare"')  # a pattern must match something
        )
        return file

    def plan(self, text: str, head: str = "") -> CatalogPlan:
        declared, _ = read_declared(self.write(text, head))
        return plan(self.catalog, declared, EARLIEST, FROM)

    def apply(self, text: str, head: str = "") -> CatalogPlan:
        planned = self.plan(text, head)
        assert not planned.refused
        self.take(entries_of(planned.additions, self.catalog.digest, "ada", "test"), NOW)
        return planned


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_the_same_files_change_nothing(files: Files) -> None:
    planned = files.plan(FIRST)

    assert planned.additions.is_empty
    assert (planned.changes, planned.notes, planned.refused) == ([], [], [])


def test_a_new_tenant_needs_no_date_and_its_customer_acts_at_once(files: Files) -> None:
    planned = files.apply(FIRST + '[tenants.new]\nstripe_customer = "cus_3"\npolicy = "acme"\n')

    assert planned.changes == [
        "tenant new: its usage is billed to cus_3 at once",
        "tenant new: acme from 2026-11-27T12:10:00Z, instead of fin-2026",
    ]
    assert files.catalog.customers["new"] == "cus_3"
    policy = files.catalog.timeline_of("new").at(FROM)
    assert policy.name == "acme"
    assert files.plan(
        FIRST + '[tenants.new]\nstripe_customer = "cus_3"\npolicy = "acme"\n'
    ).additions.is_empty


LATER = POLICY.replace('"acme"', '"later"').replace("2026-01-01", "2027-01-01")


def test_a_policy_whose_first_version_begins_later_is_dated_there(files: Files) -> None:
    (files.folder / "p3.toml").write_text(LATER)
    moved = FIRST.replace('policy = "acme"', 'policy = "later"')

    planned = files.apply(moved)

    assert planned.changes[-1] == "tenant acme: later from 2027-01-01T00:00:00Z, instead of acme"
    begins_ms = parse_time("2027-01-01T00:00:00Z")
    timeline = files.catalog.timeline_of("acme")
    assert (timeline.at(begins_ms - 1).name, timeline.at(begins_ms).name) == ("acme", "later")
    assert files.plan(moved).additions.is_empty
    assert files.plan(FIRST, 'policy = "later"').changes[0] == (
        "tenants without a policy of their own: later from 2027-01-01T00:00:00Z, instead of fin-2026"
    )


def test_a_date_before_the_policys_first_version_is_shown_with_that_of_the_version(
    files: Files,
) -> None:
    (files.folder / "p3.toml").write_text(LATER)
    dated = 'policy = [{ name = "acme" }, { name = "later", from = 2026-12-01T00:00:00Z }]'

    planned = files.plan(FIRST.replace('policy = "acme"', dated))

    assert planned.changes[-1] == (
        "tenant acme: later from 2026-12-01T00:00:00Z (its first version takes effect at "
        "2027-01-01T00:00:00Z), instead of acme"
    )


def test_a_dated_policy_keeps_its_date(files: Files) -> None:
    dated = FIRST.replace(
        'policy = "acme"',
        'policy = [{ name = "acme" }, { name = "fin-2026", from = 2026-12-01T00:00:00Z }]',
    )

    planned = files.apply(dated)

    assert planned.changes == ["tenant acme: fin-2026 from 2026-12-01T00:00:00Z, instead of acme"]
    assert files.plan(dated).additions.is_empty
    # Later, the file may say only what is in force.
    assert not files.plan(FIRST.replace('policy = "acme"', 'policy = "fin-2026"')).refused


def test_a_date_in_the_past_is_refused(files: Files) -> None:
    dated = FIRST.replace(
        'policy = "acme"',
        'policy = [{ name = "acme" }, { name = "fin-2026", from = 2026-11-01T00:00:00Z }]',
    )

    planned = files.plan(dated)

    assert planned.additions.is_empty
    assert planned.refused == [
        (
            "tenant acme: fin-2026 from 2026-11-01T00:00:00Z would change the past: "
            "2026-11-27T12:07:00Z is the earliest date"
        )
    ]
    assert planned.touched == [Touched("acme", from_ms=parse_time("2026-11-01T00:00:00Z"))]


def test_what_waits_in_the_catalog_must_be_in_the_file_or_be_withdrawn(files: Files) -> None:
    files.apply(
        FIRST.replace(
            'policy = "acme"',
            'policy = [{ name = "acme" }, { name = "fin-2026", from = 2026-12-01T00:00:00Z }]',
        )
    )

    planned = files.plan(FIRST.replace('policy = "acme"', 'policy = "spare"'))

    (refused,) = planned.refused
    assert "fin-2026 waits in the catalog for 2026-12-01T00:00:00Z" in refused
    assert "resmeter catalog withdraw 2" in refused


def test_a_version_that_was_edited_is_refused_with_what_differs(files: Files) -> None:
    (files.folder / "p1.toml").write_text(POLICY.replace("0.50", "0.40"))

    planned = files.plan(FIRST)

    (refused,) = planned.refused
    assert planned.touched == [Touched(policy="acme", version=1)]
    assert refused.startswith(
        "policy acme version 1 was edited: price.resolution (0.50 in the catalog, 0.40 in the file). A"
    )


def test_a_next_version_needs_a_later_date(files: Files) -> None:
    second = POLICY.replace("version = 1", "version = 2")
    (files.folder / "p2.toml").write_text(second.replace("2026-01-01", "2026-11-01"))
    assert "policy acme version 2 takes effect at 2026-11-01" in files.plan(FIRST).refused[0]

    (files.folder / "p2.toml").write_text(second.replace("2026-01-01", "2026-12-01"))

    assert files.apply(FIRST).changes == ["policy acme version 2 is new, from 2026-12-01T00:00:00Z"]


def test_another_default_policy_begins_at_the_date(files: Files) -> None:
    planned = files.apply(FIRST, 'policy = "acme"')

    assert planned.changes == [
        (
            "tenants without a policy of their own: acme from 2026-11-27T12:10:00Z, instead of "
            "fin-2026"
        )
    ]
    policy = files.catalog.timeline_of("bluejay").at(FROM - 1)
    assert policy.name == "fin-2026"


def test_a_tenant_that_the_file_does_not_name_keeps_its_contract(files: Files) -> None:
    planned = files.plan('[tenants.bluejay]\nstripe_customer = "cus_2"\n')

    assert planned.additions.is_empty
    assert planned.notes == ["not in the file, and keeps its policy and its customer: tenant acme"]


def test_a_tenant_that_lost_its_customer_in_the_file_is_parked_at_once(files: Files) -> None:
    planned = files.apply(FIRST.replace('stripe_customer = "cus_1"\n', ""))

    assert planned.changes == [
        "tenant acme: its usage is billed to nobody, and is parked at once, instead of cus_1"
    ]
    assert "acme" not in files.catalog.customers


def test_keys_come_and_go_at_the_date_and_no_secret_is_published(files: Files) -> None:
    keyed = FIRST + '[producers.chat]\ntenants = ["acme"]\nsecret_env = "CHAT_SECRET"\n'

    planned = files.apply(keyed)

    assert planned.changes == [
        "the key chat signs for tenant acme from 2026-11-27T12:10:00Z",
        "from 2026-11-27T12:10:00Z on, every event must be signed",
    ]
    values = entries_of(planned.additions, "parent", "ada", "test")
    assert b"CHAT_SECRET" not in b"".join(values)
    assert files.apply(FIRST).changes == ["the key chat signs for nobody from 2026-11-27T12:10:00Z"]
