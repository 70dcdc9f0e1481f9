"""Which entries of the catalog are valid, and what a withdrawal takes back."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from pipeline.catalog.entry import (
    ENTRY_BYTES_MAX,
    Additions,
    Amendment,
    Assigned,
    Entry,
    Grant,
    TenantTerms,
    amending,
    digest_of,
    encode_entry,
    entries_of,
    withdrawal,
)
from pipeline.catalog.exported import decode_export, encode_export
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.errors import ConfigurationError, UnknownEntryError
from tests.support.batches import NESTED

T0 = 1_790_000_000_000
MINUTE = 60_000
FIN = preset("fin-2026")
OTHER = msgspec.structs.replace(FIN, name="other", effective_from=0)


class Log:
    """A log of entries, and what they come to."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.verdicts: list[Verdict] = []
        self.now = T0

    def begin(self, **parts: object) -> Verdict:
        additions = Additions(policies=[FIN, OTHER], default=[Assigned("fin-2026")])
        for name, part in parts.items():
            setattr(additions, name, part)
        values = entries_of(additions, "", "ada", "start", LEAD_MS_MIN)
        return [self.append(value) for value in values][-1]

    def add(self, **parts: object) -> Verdict:
        entry = Entry(parent=self.catalog.digest, who="ada", why="test", form=1, **parts)  # type: ignore[arg-type]
        return self.append(encode_entry(entry))

    def append(self, value: bytes, restored: tuple[str, int] | None = None) -> Verdict:
        record = Appended(len(self.verdicts), self.now, value, restored)
        self.catalog, verdict = read(self.catalog, record)
        self.verdicts.append(verdict)
        return verdict


@pytest.fixture
def log() -> Log:
    begun = Log()
    begun.begin()
    return begun


def test_junk_that_is_nested_too_deeply_is_void_for_every_reader(log: Log) -> None:
    before = log.catalog

    verdict = log.append(NESTED)

    assert "nested too deeply" in verdict.reason
    assert log.catalog == before


def assigned(tenant_id: str, policy: str, from_ms: int | None) -> dict[str, TenantTerms]:
    return {tenant_id: TenantTerms((Assigned(policy, from_ms),))}


def test_a_tenant_that_gets_its_own_contract_keeps_its_past(log: Log) -> None:
    from_ms = T0 + LEAD_MS_MIN
    log.add(tenants=assigned("acme", "other", from_ms))

    timeline = log.catalog.timeline_of("acme")

    assert timeline.at(from_ms - 1) == FIN
    assert timeline.at(from_ms) == OTHER
    assert log.catalog.timeline_of("bluejay").at(from_ms) == FIN


@pytest.mark.parametrize(
    "parts",
    [
        {"tenants": assigned("acme", "other", T0 + LEAD_MS_MIN - 1)},
        {"default": (Assigned("other", T0 + LEAD_MS_MIN - 1),)},
        {"keys": {"chat": Grant(None, T0 + LEAD_MS_MIN - 1)}},
        {"policies": (msgspec.structs.replace(FIN, version=2, effective_from=T0),)},
    ],
)
def test_what_is_dated_less_than_the_lead_after_its_append_time_is_void(
    log: Log, parts: dict[str, object]
) -> None:
    verdict = log.add(**parts)

    assert "changes the past: " in verdict.reason
    assert log.catalog.number == 1


def test_what_has_no_date_is_void_after_the_beginning(log: Log) -> None:
    assert "other has no date" in log.add(tenants=assigned("acme", "other", None)).reason
    assert "from the start" in log.add(keys={"chat": Grant(None)}).reason


def test_of_two_entries_with_one_parent_the_first_wins(log: Log) -> None:
    parent = log.catalog.digest
    log.add(meters={"resolution": "first"})
    late = Entry(parent=parent, who="bob", why="", form=1, meters={"resolution": "second"})

    verdict = log.append(encode_entry(late))

    assert "another entry was published first" in verdict.reason
    assert log.catalog.meters == {"resolution": "first"}


def test_a_version_never_changes(log: Log) -> None:
    edited = msgspec.structs.replace(OTHER, grace=1)

    assert "already; a version never changes" in log.add(policies=(edited,)).reason


def test_a_policy_that_nobody_has_yet_may_have_begun_long_ago(log: Log) -> None:
    new = msgspec.structs.replace(FIN, name="new", effective_from=0)
    from_ms = T0 + LEAD_MS_MIN

    verdict = log.add(policies=(new,), tenants=assigned("acme", "new", from_ms))

    assert verdict.number == 2
    assert log.catalog.timeline_of("acme").at(from_ms) == new


def test_a_policy_that_the_catalog_does_not_have_cannot_be_assigned(log: Log) -> None:
    verdict = log.add(tenants=assigned("acme", "nothing", T0 + LEAD_MS_MIN))

    assert "the catalog has no policy nothing" in verdict.reason


def test_customers_and_meters_act_at_once_and_an_empty_one_is_removed(log: Log) -> None:
    log.add(tenants={"acme": TenantTerms((), "cus_1")}, meters={"resolution": "m"})
    assert (log.catalog.customers, log.catalog.meters) == ({"acme": "cus_1"}, {"resolution": "m"})

    log.add(tenants={"acme": TenantTerms((), "")}, meters={"resolution": ""})

    assert (log.catalog.customers, log.catalog.meters) == ({}, {})


def test_what_is_not_in_force_yet_can_be_withdrawn_until_the_lead_before_its_date(log: Log) -> None:
    from_ms = T0 + 2 * LEAD_MS_MIN
    first = log.add(tenants=assigned("acme", "other", from_ms), keys={"k": Grant(None, from_ms)})
    log.now = from_ms - LEAD_MS_MIN
    before = log.catalog

    verdict = log.append(withdrawal(before.digest, first.digest, "ada", "too early"))

    assert verdict.number == 3
    assert log.catalog.timeline_of("acme").at(from_ms) == FIN
    assert not log.catalog.keys
    late = Appended(9, log.now + 1, withdrawal(before.digest, first.digest, "ada", "late"))
    assert "changes the past" in read(before, late)[1].reason


def test_a_policy_that_a_later_entry_assigns_cannot_be_withdrawn(log: Log) -> None:
    from_ms = T0 + LEAD_MS_MIN
    new = msgspec.structs.replace(FIN, name="new", effective_from=from_ms)
    first = log.add(policies=(new,))
    log.add(tenants=assigned("acme", "new", from_ms))

    verdict = log.append(withdrawal(log.catalog.digest, first.digest, "ada", "wrong"))

    assert "a later entry assigns new" in verdict.reason


def test_an_entry_is_withdrawn_once(log: Log) -> None:
    first = log.add(tenants=assigned("acme", "other", T0 + LEAD_MS_MIN))
    log.append(withdrawal(log.catalog.digest, first.digest, "ada", "wrong"))

    verdict = log.append(withdrawal(log.catalog.digest, first.digest, "ada", "wrong"))

    assert "has nothing that waits for a date" in verdict.reason


# --- the beginning --------------------------------------------------------------------------------


def test_nobody_decides_by_a_beginning_that_is_not_complete() -> None:
    log = Log()
    tenants = {
        f"tenant-{n}": TenantTerms((Assigned("fin-2026"),), f"cus_{n}") for n in range(20_000)
    }
    additions = Additions([FIN], [Assigned("fin-2026")], tenants=tenants)
    values = entries_of(additions, "", "ada", "start", LEAD_MS_MIN)

    assert len(values) > 2
    assert max(map(len, values)) <= ENTRY_BYTES_MAX
    for value in values[:-1]:
        assert not log.append(value).reason
        assert not log.catalog.is_whole
    assert not log.append(values[-1]).reason
    assert log.catalog.is_whole
    assert len(log.catalog.assigned) == 20_000


def test_an_unfinished_beginning_counts_for_nothing() -> None:
    log = Log()
    tenants = {f"tenant-{n}": TenantTerms((Assigned("fin-2026"),)) for n in range(20_000)}
    additions = Additions([FIN], [Assigned("fin-2026")], tenants=tenants)
    first, second, *_ = entries_of(additions, "", "ada", "start", LEAD_MS_MIN)
    log.append(first)

    log.begin()

    assert log.catalog.is_whole
    assert not log.catalog.assigned
    assert "another entry was published first" in log.append(second).reason


def test_a_second_beginning_is_void(log: Log) -> None:
    assert "has a beginning already" in log.begin().reason


def test_a_beginning_without_a_default_policy_is_void() -> None:
    log = Log()

    assert "leaves tenants without a policy" in log.begin(default=[]).reason


def test_a_tenant_too_large_for_an_entry_is_refused_by_name() -> None:
    tenants = tuple(f"tenant-{n}" for n in range(60_000))

    with pytest.raises(ConfigurationError, match=r"keys chat: has .* bytes"):
        entries_of(Additions(keys={"chat": Grant(tenants, T0)}), "parent", "ada", "")


# --- other records ------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"form":1}', b'{"form":1,"parent":1}'])
def test_what_is_no_entry_is_void(log: Log, value: bytes) -> None:
    verdict = log.append(value)

    assert "it is not an entry of a catalog" in verdict.reason
    assert log.catalog.number == 1


def test_an_entry_of_a_newer_version_that_follows_the_head_is_refused(log: Log) -> None:
    newer = b'{"form":4,"parent":"%s"}' % log.catalog.digest.encode()

    with pytest.raises(UnknownEntryError, match="form 4"):
        log.append(newer)
    assert log.append(b'{"form":4,"parent":"other"}').reason


def test_an_entry_whose_time_the_broker_did_not_set_is_void(log: Log) -> None:
    log.now = -1

    assert "must have LogAppendTime" in log.add(meters={"a": "b"}).reason


def test_a_restoration_is_void_once_there_is_a_catalog(log: Log) -> None:
    value = encode_entry(
        Entry(
            parent=log.catalog.digest,
            who="eve",
            why="",
            form=1,
            tenants=assigned("acme", "other", T0 - 1),
        )
    )

    verdict = log.append(value, (digest_of(value), T0 - 2 * LEAD_MS_MIN))

    assert "changes the past" in verdict.reason


# --- amendments -----------------------------------------------------------------------------------

HALF = msgspec.structs.replace(FIN, name="half", price={"resolution": Decimal("0.50")})


def amendment(**changes: Any) -> Amendment:
    made = Amendment(HALF, T0 - 100, T0 - 50, "acme", "plan-1", T0 - 10)
    return msgspec.structs.replace(made, **changes)


def amend(log: Log, **changes: Any) -> Verdict:
    return log.append(amending(log.catalog.digest, amendment(**changes), "ada", "wrong price"))


def test_an_amendment_changes_what_is_owed_and_not_what_workers_decide_by(log: Log) -> None:
    assert not amend(log).reason

    tenants = Tenants(log.catalog)
    assert tenants.timeline_for("acme").at(T0 - 100) == FIN
    owed = tenants.owed_timeline_for("acme")
    names = [owed.at(ms).name for ms in (T0 - 101, T0 - 100, T0 - 51, T0 - 50)]
    assert names == ["fin-2026", "half", "half", "fin-2026"]
    assert tenants.owed_timeline_for("bluejay") is tenants.timeline_for("bluejay")
    assert tenants.price_for("acme", "resolution", "half", 1) == (Decimal("0.50"), "usd")


def test_an_amendment_of_all_tenants_has_those_with_a_contract_too(log: Log) -> None:
    log.begin()
    log.add(tenants=assigned("acme", "other", T0 + LEAD_MS_MIN))
    amend(log, tenant_id=None)

    tenants = Tenants(log.catalog)
    for tenant_id in ("acme", "bluejay"):
        assert tenants.owed_timeline_for(tenant_id).at(T0 - 100).name == "half"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"to_ms": T0 + 1}, "is not past yet"),
        ({"from_ms": T0 - 50}, "did not write it"),
        ({"policy": msgspec.structs.replace(HALF, window={})}, "did not write it"),
        ({"policy": msgspec.structs.replace(HALF, name="other")}, "with other terms"),
        ({"plan": "plan-0"}, "plan plan-0 was published before"),
    ],
)
def test_an_amendment_is_void(log: Log, changes: dict[str, Any], reason: str) -> None:
    assert not amend(log, plan="plan-0").reason
    before = log.catalog

    assert reason in amend(log, **changes).reason
    assert log.catalog == before


def test_a_version_that_differs_from_the_one_of_an_amendment_is_void(log: Log) -> None:
    amend(log)
    from_ms = T0 + LEAD_MS_MIN

    edited = msgspec.structs.replace(HALF, grace=1, effective_from=from_ms)
    assert "has used version 1 of half with other terms" in log.add(policies=(edited,)).reason
    assert not log.add(policies=(msgspec.structs.replace(HALF, effective_from=from_ms),)).reason


def test_an_amendment_in_the_form_of_versions_that_know_none_is_void(log: Log) -> None:
    # Such a version would read the entry without the amendment, and accept it.
    assert "did not write it" in log.add(amends=amendment()).reason


def test_an_amendment_cannot_be_withdrawn(log: Log) -> None:
    amend(log)
    value = withdrawal(log.catalog.digest, log.catalog.digest, "ada", "")

    assert "has nothing that waits for a date" in log.append(value).reason


def test_an_export_keeps_amendments(log: Log) -> None:
    amend(log)

    restored, _ = decode_export("export", encode_export(log.verdicts))

    assert restored.amendments == log.catalog.amendments
    assert restored.digest == log.catalog.digest


def test_a_plan_that_was_made_before_another_one_of_its_tenant_was_applied_is_outdated(
    log: Log,
) -> None:
    before = log.catalog.number
    amend(log)
    catalog = log.catalog

    assert [a.amendment.plan for a in catalog.amendments_after(before, "acme", "mine")] == [
        "plan-1"
    ]
    assert [a.amendment.plan for a in catalog.amendments_after(before, None, "mine")] == ["plan-1"]
    assert not catalog.amendments_after(before, "bluejay", "mine")
    assert not catalog.amendments_after(before, "acme", "plan-1")
    assert not catalog.amendments_after(catalog.number, "acme", "mine")


@pytest.mark.parametrize("ms", [-(10**18), -(10**15), 10**15, 10**18])
def test_a_date_of_no_calendar_ends_no_reader(log: Log, ms: int) -> None:
    dated: list[dict[str, object]] = [
        {"policies": (msgspec.structs.replace(FIN, version=7, effective_from=ms),)},
        {"tenants": assigned("acme", "fin-2026", ms)},
        {"keys": {"k1": Grant(None, ms)}},
    ]
    for parts in dated:
        verdict = log.add(**parts)
        assert verdict.number or verdict.reason.endswith("is the earliest")
