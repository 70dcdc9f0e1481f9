"""Rebill: plan corrections where the ledger differs from the log, and apply a plan."""

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import msgspec

from pipeline.catalog.entry import Amendment
from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.events.times import format_time, is_within
from pipeline.kafka.headers import ORIGIN_HEADER
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader
from pipeline.kafka.writer import TopicWriter
from pipeline.ledger import Ledger, reports
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.amending import check_amendment, enter_amendment
from pipeline.replay.corrections import Correctable, basis_of, find_corrections
from pipeline.replay.owed import owes_otherwise
from pipeline.replay.partition import ReplayedConversation
from pipeline.replay.planfile import (
    FORM,
    Candidate,
    Header,
    RebillPlan,
    encode_plan,
    offset_bounds,
    totals,
)
from pipeline.replay.reading import await_sink, open_reading
from pipeline.replay.stored import StoredRecords
from pipeline.usage.record import encode_origin, encode_record


class MadePlan(NamedTuple):
    """A plan, the content of its file, and the tenants in the log or the ledger."""

    plan: RebillPlan
    content: bytes
    tenants: frozenset[str]


class AppliedPlan(NamedTuple):
    """The conversations of a plan, by the result of applying it."""

    written: list[Correctable]  # by this run
    written_before: list[Correctable]  # by an earlier run of this plan
    changed: list[Correctable]  # changed since the plan was made, and left as they are
    missing: set[str]  # ids that this run wrote and the sink read, but that are not in the ledger

    @property
    def stored(self) -> list[set[str]]:
        """The ids in the ledger now, for each conversation with at least one."""
        return [ids for part in self.written if (ids := correction_ids(part) - self.missing)]

    @property
    def quarantined(self) -> list[Correctable]:
        """The conversations with a correction that the sink has quarantined."""
        return [part for part in self.written if correction_ids(part) & self.missing]


def make_plan(
    settings: Settings,
    tenants: Tenants,
    ledger: Ledger,
    *,
    tenant_id: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    candidate: Candidate | None = None,
    wait_seconds: float,
    on_record: OnRecord = ignore_progress,
) -> MadePlan:
    """Recompute every decision from the log, and return what to correct in the ledger.

    With a candidate, the plan concerns the conversations that owe something else if the candidate's
    policy was in force from `from_ms` to before `to_ms`, and no others.

    Args:
        settings: of worker and sink.
        tenants: whose policies and producers apply.
        ledger: the ledger to correct.
        tenant_id: only conversations of this tenant.
        from_ms: only conversations with a correction of a charge at this time or later.
        to_ms: this charge must be before this time.
        candidate: the policy to decide that time by; `from_ms` and `to_ms` are given with it.
        wait_seconds: how long the sink may take to store the usage records written so far.
        on_record: called for each record of the events topic.

    Raises:
        ConfigurationError: a topic does not exist, the broker rejects our credentials, or the
            catalog does not accept the candidate.
        UnavailableError: no broker responds, or the sink is behind.
    """
    made_at = int(time.time() * 1000)
    selected: list[Correctable] = []
    unsettled = unjudged = 0
    tenant_ids: set[str] = set()
    concerns = None
    header = Header(
        resmeter_plan=FORM,
        made_at=format_time(made_at),
        tenant=tenant_id,
        from_=None if from_ms is None else format_time(from_ms),
        to=None if to_ms is None else format_time(to_ms),
        topic=settings.topics.events,
        log={},
        conversations=0,
        unsettled=0,
        unjudged=0,
        totals=(),
        catalog=tenants.catalog.head,
        policy=msgspec.UNSET if candidate is None else candidate,
    )
    amendment = header.amendment
    if amendment is not None:
        check_amendment(tenants.catalog, amendment, made_at)
        current, tenants = tenants, tenants.amended(amendment)
        concerns = partial(_owes_otherwise, current, tenants, amendment)
        from_ms = to_ms = None
    with open_reading(settings, tenants, ledger, wait_seconds) as reading:
        topic = reading.events.topic
        stored = StoredRecords(ledger, topic, list(reading.events.bounds))
        for partition, replay in reading.partitions(on_record):
            rows = stored.of(partition, replay)
            source = (topic, partition)
            corrections = find_corrections(replay, rows, reading.written, source, made_at, concerns)
            selected += [
                part
                for part in corrections.conversations
                if _is_selected(part, tenant_id, from_ms, to_ms)
            ]
            tenant_ids.update(corrections.tallies)
            for name, tally in corrections.tallies.items():
                if tenant_id in {None, name}:
                    unsettled += tally.unsettled
                    unjudged += tally.unjudged
        log = offset_bounds(reading.events.bounds)
    selected.sort(key=lambda part: (part.tenant_id, part.conversation))
    header = msgspec.structs.replace(
        header,
        log=log,
        conversations=len(selected),
        unsettled=unsettled,
        unjudged=unjudged,
        totals=totals(selected, tenants),
    )
    plan, content = encode_plan(header, selected, tenants)
    return MadePlan(plan, content, frozenset(tenant_ids))


def _owes_otherwise(
    current: Tenants, amended: Tenants, amendment: Amendment, replayed: ReplayedConversation
) -> bool:
    tenant_id = replayed.tenant_id
    return amendment.covers(tenant_id) and owes_otherwise(
        replayed, current.owed_timeline_for(tenant_id), amended.owed_timeline_for(tenant_id)
    )


def apply_plan(
    settings: Settings,
    ledger: Ledger,
    plan: RebillPlan,
    *,
    wait_seconds: float,
    on_record: OnRecord = ignore_progress,
) -> AppliedPlan:
    """Write a plan's corrections to the topic of usage records, and wait until the ledger has them.

    Applying a plan again writes nothing that the ledger already has. What a plan under another
    policy amends is entered in the catalog first: from then on, an audit and every plan go by it.

    Args:
        settings: broker and topics.
        ledger: the ledger that the plan was made for.
        plan: the plan to apply.
        wait_seconds: how long the sink may take to store the corrections.
        on_record: called for each conversation checked, then for each one written.

    Raises:
        ConfigurationError: another plan has amended the catalog since this one was made.
        UnavailableError: the broker did not acknowledge everything, or the sink is behind.
    """
    fresh: list[Correctable] = []
    written_before: list[Correctable] = []
    changed: list[Correctable] = []
    for number, part in enumerate(plan.conversations, 1):
        ours, stored = correction_ids(part), _stored_ids(ledger, part)
        if ours <= stored:
            written_before.append(part)
        elif basis_of(stored - ours) == part.basis:
            fresh.append(
                part
            )  # the ledger may have some already: writing them again changes nothing
        else:
            changed.append(part)
        on_record(number, len(plan.conversations))
    enter_amendment(settings, plan.header, is_outdated_allowed=not fresh)
    write_corrections(settings, fresh, on_record)
    with closing(TopicReader(librdkafka_options(settings.kafka), settings.topics.records)) as topic:
        behind = await_sink(ledger, topic, wait_seconds)
    if behind:
        raise UnavailableError(
            f"the corrections are written, but the sink is {behind} usage records behind: check "
            "that it runs, and apply the plan again to see the result"
        )
    missing = {id_ for part in fresh for id_ in correction_ids(part) - _stored_ids(ledger, part)}
    return AppliedPlan(fresh, written_before, changed, missing)


def write_corrections(
    settings: Settings, parts: Sequence[Correctable], on_record: OnRecord = ignore_progress
) -> None:
    """Write corrections to the topic of usage records.

    Raises:
        UnavailableError: the broker did not acknowledge everything.
    """
    with TopicWriter(librdkafka_options(settings.kafka), settings.topics.records) as writer:
        for number, part in enumerate(parts, 1):
            for correction in part.corrections:
                record = correction.record
                headers = [(ORIGIN_HEADER, encode_origin(correction.origin))]
                if not writer.write(record.tenant_id.encode(), encode_record(record), headers):
                    return
            on_record(number, len(parts))


def correction_ids(part: Correctable) -> set[str]:
    """Return the ids of a conversation's corrections."""
    return {correction.record.id for correction in part.corrections}


def _stored_ids(ledger: Ledger, part: Correctable) -> set[str]:
    return set(reports.ids_of(ledger, part.tenant_id, part.conversation))


def _is_selected(
    part: Correctable, tenant_id: str | None, from_ms: int | None, to_ms: int | None
) -> bool:
    # A conversation is corrected as a whole, so one correction in the time range selects it.
    return tenant_id in {None, part.tenant_id} and any(
        is_within(correction.of, from_ms, to_ms) for correction in part.corrections
    )
