"""Audit: recompute every decision from the event log and compare it with the ledger and Stripe."""

import asyncio
import time
from typing import NamedTuple

from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.errors import ResmeterError
from pipeline.events.times import is_within
from pipeline.ledger import Ledger, reports
from pipeline.ledger.findings import Finding
from pipeline.progress import OnRecord, ignore_progress
from pipeline.replay.comparison import (
    Tallies,
    Tally,
    compare,
    missing_dead_letters,
    split_conversations,
)
from pipeline.replay.partition import Place
from pipeline.replay.reading import Reading, open_reading
from pipeline.replay.stored import StoredRecords
from pipeline.sink.stripe.reconcile import reconcile
from pipeline.usage.record import UsageRecord

_HOUR_SECONDS = 3600


class StripeComparison(NamedTuple):
    """What was compared with Stripe. `start <= timestamp < end`: seconds, on whole hours."""

    findings: list[Finding]
    totals: int  # how many sums were read from Stripe: one for each customer and meter
    units: int  # how many units were delivered, as the ledger says
    start: int
    end: int
    recent: int = 0  # how many of the units may be missing at Stripe: see `stripe_lag_seconds`


class AuditResult(NamedTuple):
    """What an audit found, and what it read.

    `stripe_error` is set if the sums could not be read from Stripe; the rest of the audit is valid.
    """

    findings: list[Finding]
    tallies: Tallies
    read: int  # records of the events topic
    dead_letters: int  # how many of those are rejected
    dead_letters_are_whole: bool  # if False, retention has deleted some: they were not compared
    stripe: StripeComparison | None = None
    stripe_error: ResmeterError | None = None

    def select(
        self, tenant_id: str | None, from_ms: int | None, to_ms: int | None
    ) -> "AuditResult":
        """Keep the findings of one tenant and one time range, and the tallies of the tenant.

        Findings without a tenant or without a time are kept.
        """
        findings = [
            finding
            for finding in self.findings
            if (tenant_id is None or finding.tenant_id in {tenant_id, ""})
            and (finding.at is None or is_within(finding.at, from_ms, to_ms))
        ]
        tallies = {name: tally for name, tally in self.tallies.items() if tenant_id in {None, name}}
        return self._replace(findings=findings, tallies=tallies)


def run_audit(
    settings: Settings,
    tenants: Tenants,
    ledger: Ledger,
    *,
    wait_seconds: float,
    with_stripe: bool = False,
    from_ms: int | None = None,
    to_ms: int | None = None,
    stripe_lag_seconds: float = 0.0,
    on_record: OnRecord = ignore_progress,
) -> AuditResult:
    """Compare the ledger with the whole log and, if `with_stripe`, with Stripe's sums.

    Args:
        settings: of worker and sink.
        tenants: whose policies and producers apply.
        ledger: the ledger to compare.
        wait_seconds: how long the sink may take to store the usage records written so far.
        with_stripe: compare with Stripe's sums too.
        from_ms: Stripe's sums begin here; None: at the first delivery.
        to_ms: Stripe's sums end before this; None: after the last delivery, or now if later.
        stripe_lag_seconds: usage delivered within this time may be missing in Stripe's sums.
        on_record: called for each record of the events topic.

    Raises:
        ConfigurationError: a topic does not exist, or the broker rejects our credentials.
        UnavailableError: no broker responds, or the sink is behind.
    """
    with open_reading(settings, tenants, ledger, wait_seconds) as reading:
        result = _compare_log(reading, ledger, on_record)
    if not with_stripe:
        return result
    try:
        stripe = _compare_stripe(settings, tenants, ledger, (from_ms, to_ms), stripe_lag_seconds)
    except ResmeterError as error:
        return result._replace(stripe_error=error)
    return result._replace(findings=result.findings + stripe.findings, stripe=stripe)


def _compare_log(reading: Reading, ledger: Ledger, on_record: OnRecord) -> AuditResult:
    findings: list[Finding] = []
    tallies: Tallies = {}
    places: dict[Place, int] = {}
    read = dead_letters = 0
    topic, known = reading.events.topic, reading.dead_letters
    stored = StoredRecords(ledger, topic, list(reading.events.bounds))
    for partition, replay in reading.partitions(on_record):
        # The ledger is read last: by now the sink has stored everything that was written before.
        rows = stored.of(partition, replay)
        comparison = compare(replay, rows, reading.written, int(time.time() * 1000))
        findings += comparison.findings
        if known.are_whole:
            existing = known.offsets.get(partition, set())
            findings += missing_dead_letters(replay.rejected, existing, topic, partition)
        for tenant_id, tally in comparison.tallies.items():
            tallies.setdefault(tenant_id, Tally()).add(tally)
        mistakes = replay.reused_ids + split_conversations(replay, partition, places, topic)
        for finding in mistakes:
            tallies.setdefault(finding.tenant_id, Tally()).findings += 1
        findings += mistakes
        read += replay.read
        dead_letters += replay.dead_letters
    findings += [Finding("damaged", "", "", damage) for damage in reading.events.damages.values()]
    findings += [
        Finding("unexpected", record.tenant_id, record.conversation, f"{record.id}: no origin")
        for record in reports.decided_from(ledger, topic, None)
    ]
    is_whole = all(low == 0 for low, _ in reading.events.bounds.values())
    for record in stored.left():
        tally = tallies.setdefault(record.tenant_id, Tally())
        if is_whole:
            tally.findings += 1
            findings.append(_gone(record, topic))
        else:
            tally.unjudged += 1
    return AuditResult(findings, tallies, read, dead_letters, known.are_whole)


def _gone(record: UsageRecord, topic: str) -> Finding:
    detail = (
        f"{record.id}: its events were in another topic, and {topic} has none of its conversation. This "
        "is no reason to take the usage back"
    )
    return Finding("not_in_log", record.tenant_id, record.conversation, detail, record.occurred_at)


def _compare_stripe(
    settings: Settings,
    tenants: Tenants,
    ledger: Ledger,
    window: tuple[int | None, int | None],
    lag_seconds: float,
) -> StripeComparison:
    """Compare sums of whole hours, because each meter event belongs to one hour."""
    from pipeline.sink.stripe.reconcile import read_sums

    now = time.time()
    start, end = _whole_hours(ledger, window, int(now))
    certain_until = int((now - lag_seconds) * 1000)
    sums = reports.delivered_sums(ledger, start, end, certain_until)
    meters = {
        (customer, event_name)
        for customer in tenants.customers.values()
        for event_name in tenants.event_names
    } | {(known.customer, known.event_name) for known in sums}
    # Stripe first: the ledger records each delivery before the call, so what Stripe has counted
    # is in the ledger when the ledger is read after it.
    at_stripe = asyncio.run(read_sums(settings.stripe, sorted(meters), start, end))
    sums = reports.delivered_sums(ledger, start, end, certain_until)
    units = sum(known.most for known in sums)
    recent = sum(known.most - known.least for known in sums)
    found = list(reconcile(sums, at_stripe))
    return StripeComparison(found, len(meters), units, start, end, recent)


def _whole_hours(
    ledger: Ledger, window: tuple[int | None, int | None], now: int
) -> tuple[int, int]:
    first, last = reports.delivered_between(ledger) or (now, now)
    from_ms, to_ms = window
    start = first if from_ms is None else from_ms // 1000
    end = max(last, now) + 1 if to_ms is None else to_ms // 1000
    return start // _HOUR_SECONDS * _HOUR_SECONDS, -(-end // _HOUR_SECONDS) * _HOUR_SECONDS
