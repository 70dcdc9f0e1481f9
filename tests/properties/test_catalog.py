"""The catalog's log under two publishers and delayed produces, compared with a second reading."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.entry import Additions, Assigned, Entry, TenantTerms, digest_of, encode_entry
from pipeline.catalog.entry import entries_of as cut
from pipeline.catalog.exported import decode_export, encode_export
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.policies import preset
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.resolve.policy import Policy
from tests.oracle.catalog import CatalogOracle, Published

MINUTE = 60_000
T0 = 10_000 * MINUTE
NAMES = ("a", "b", "c")
TENANTS = ("acme", "bluejay", "nobody")


def version(name: str, number: int, effective_from: int) -> Policy:
    return msgspec.structs.replace(
        preset("fin-2026"), name=name, version=number, effective_from=effective_from
    )


def beginning() -> bytes:
    additions = Additions(policies=[version("a", 1, 0)], default=[Assigned("a")])
    (value,) = cut(additions, "", "ada", "start", LEAD_MS_MIN)
    return value


class Step(NamedTuple):
    """Somebody publishes an entry on the head that they saw, and it arrives after a delay."""

    behind: int  # how many valid entries they had not seen
    delay_ms: int
    policies: tuple[Policy, ...]
    default: tuple[Assigned, ...]
    tenants: dict[str, TenantTerms]


dates = st.integers(-10, 40).map(lambda minutes: T0 + minutes * MINUTE)
assigned = st.builds(Assigned, st.sampled_from(NAMES[:2]), st.one_of(dates, st.none()))
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([0, 1, MINUTE, 20 * MINUTE]),
        st.lists(
            st.builds(version, st.sampled_from(NAMES), st.integers(1, 3), dates),
            max_size=2,
            unique_by=lambda policy: (policy.name, policy.version),
        ).map(tuple),
        st.lists(assigned, max_size=1).map(tuple),
        st.dictionaries(
            st.sampled_from(TENANTS[:2]),
            st.builds(TenantTerms, st.lists(assigned, max_size=2).map(tuple)),
            max_size=2,
        ),
    ),
    max_size=7,
)


def play(taken: Sequence[Step]) -> tuple[list[Appended], CatalogOracle, Catalog, list[Verdict]]:
    """Publish the steps; return the log and what both readings make of it."""
    oracle, catalog = CatalogOracle(), Catalog()
    log: list[Appended] = []
    verdicts: list[Verdict] = []
    now = T0
    first = Step(0, 0, (), (), {})
    for step in [first, *taken]:
        now += step.delay_ms
        value = beginning() if step is first else _value(step, catalog)
        log.append(Appended(len(log), now, value))
        catalog, verdict = read(catalog, log[-1])
        is_valid = oracle.append(Published(digest_of(value), now, value))
        assert bool(verdict.number) == is_valid, (verdict.reason, value)
        verdicts.append(verdict)
    return log, oracle, catalog, verdicts


def _value(step: Step, catalog: Catalog) -> bytes:
    seen = max(0, catalog.number - 1 - step.behind)
    return encode_entry(
        Entry(
            parent=catalog.digests[seen],
            who="ada",
            why=f"{step.delay_ms}",
            form=1,
            policies=step.policies,
            default=step.default,
            tenants=step.tenants,
        )
    )


@given(steps)
def test_both_readings_agree_on_each_entry_and_on_what_is_in_force(taken: list[Step]) -> None:
    _, oracle, catalog, _ = play(taken)

    for tenant_id in TENANTS:
        timeline = catalog.timeline_of(tenant_id)
        for minute in range(-12, 45):
            at = T0 + minute * MINUTE
            policy = timeline.at(at)
            assert (policy.name, policy.version) == oracle.in_force(tenant_id, at), (
                tenant_id,
                minute,
            )


@given(steps)
def test_no_entry_changes_what_is_in_force_before_its_append_time_and_the_lead(
    taken: list[Step],
) -> None:
    log, _, _, _ = play(taken)
    catalog = Catalog()

    for record in log:
        before, (catalog, _) = catalog, read(catalog, record)
        if not before.number:
            continue
        for tenant_id in TENANTS:
            was, is_ = before.timeline_of(tenant_id), catalog.timeline_of(tenant_id)
            for minute in range(-12, 45):
                at = T0 + minute * MINUTE
                if at < record.appended_ms + LEAD_MS_MIN:
                    assert was.at(at) == is_.at(at)


@given(steps)
def test_an_export_that_is_restored_has_the_same_entries_and_timelines(taken: list[Step]) -> None:
    log, _, catalog, verdicts = play(taken)
    _, entries = decode_export("export", encode_export(verdicts))
    late = log[-1].appended_ms + 10**9  # when the restored topic was made

    restored = Catalog()
    for exported in entries:
        mark = (entries[-1].digest, exported.appended_ms)
        assert not restored.is_whole
        record = Appended(restored.number, late, exported.value.encode(), mark)
        restored, _ = read(restored, record)

    assert restored == catalog
    assert restored.is_whole


@given(steps, st.integers(0, 8))
def test_a_copy_of_any_record_of_the_log_is_void(taken: list[Step], number: int) -> None:
    log, _, catalog, _ = play(taken)
    copied = log[number % len(log)]

    again, verdict = read(catalog, copied._replace(offset=99, appended_ms=T0 + 10**9))

    assert verdict.reason
    assert again == catalog
