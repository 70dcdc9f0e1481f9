"""This file defines every Prometheus series: what it counts, and what a change in it means.

Four questions: are we behind, are we losing, are we right, is it us or Stripe. Label values are
closed sets, except `tenant` where money is meant. Every series is there from the start, at zero.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.events.model import REASONS, TYPES

if TYPE_CHECKING:
    from pipeline.ledger.entries import Stored
    from pipeline.stream.batch import BatchResult
    from pipeline.stream.runner import Lane

# Reasons of a usage record that a policy cannot add to.
TRANSITION_REASONS = (
    "silence",
    "confirmed",
    "reported",
    "procedure",
    "superseded",
    "customer_returned",
    "negative_feedback",
    "human_requested",
    "low_rating",
    "undelivered",
    "merged",
    "spam",
    "late_event",
)
OUTCOMES = ("resolution", "procedure_handoff", "qualification", "disqualification")


# --- worker ---------------------------------------------------------------------------------------


class ProcessesMetrics:
    """Of a worker of several processes; all other series are theirs, told apart by `process`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "resmeter_process_up",
            "1 for each process of a worker that answers. 0: its share of the series is missing.",
            ["process"],
            registry=registry,
        )


class WorkerMetrics:
    """The worker's series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "resmeter_events",
            "Events taken in, by type. A type that stops: its producer is silent.",
            ["type"],
            registry=registry,
        )
        self.rejected = Counter(
            "resmeter_rejected",
            "Records sent to the dead letters, by reason. A rise: a producer broke the contract.",
            ["reason"],
            registry=registry,
        )
        self.transitions = Counter(
            "resmeter_transitions",
            "Usage records emitted, by outcome, sign and reason: late_event are corrections.",
            ["outcome", "delta", "reason"],
            registry=registry,
        )
        self.records = Counter(
            "resmeter_records",
            "Records read: each is an event, a dead letter, or passed over.",
            registry=registry,
        )
        self.unaccounted = Gauge(
            "resmeter_records_unaccounted",
            "Records read that are none of these. Not 0: something is lost; audit.",
            registry=registry,
        )
        self.dead_letter_share = Gauge(
            "resmeter_dead_letter_share",
            "Share of garbage among the last records. At dead_letter_share_max the worker ends.",
            registry=registry,
        )
        self.duplicates = Counter(
            "resmeter_duplicates",
            "Events that a producer sent again. They change nothing.",
            registry=registry,
        )
        self.redelivered = Counter(
            "resmeter_redelivered",
            "Records read again after a restart or rebalance and passed over.",
            registry=registry,
        )
        self.sealed = Counter(
            "resmeter_sealed",
            "Histories put away after a long quiet. It stops: memory grows with each conversation.",
            registry=registry,
        )
        self.conversations = Gauge(
            "resmeter_conversations", "Conversations held in memory.", registry=registry
        )
        self.open_conversations = Gauge(
            "resmeter_open_conversations",
            "Conversations with a window ahead. Only ever up: windows do not close.",
            registry=registry,
        )
        self.due_unsettled = Gauge(
            "resmeter_due_unsettled",
            "Windows that have ended and are not counted yet: behind, or the log is not at its end.",
            registry=registry,
        )
        self.unacknowledged = Gauge(
            "resmeter_unacknowledged_batches",
            "Batches decided whose results Kafka has not acknowledged. It stays up: Kafka is slow.",
            registry=registry,
        )
        self.lag_records = Gauge(
            "resmeter_lag_records",
            "Records of a partition that are not processed yet.",
            ["partition"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "resmeter_lag_seconds",
            "Age of the last record processed, where more of the partition wait.",
            ["partition"],
            registry=registry,
        )
        self.commit_age = Gauge(
            "resmeter_commit_age_seconds",
            "Since when processed records of a partition wait to be committed.",
            ["partition"],
            registry=registry,
        )
        for kind in TYPES:
            self.events.labels(kind)
        for rejection in REASONS:
            self.rejected.labels(rejection)
        for outcome in OUTCOMES:
            for reason in TRANSITION_REASONS:
                for delta in ("+1", "-1"):
                    self.transitions.labels(outcome, delta, reason)

    def watch(self, lane: "Lane") -> None:
        """Read what a lane holds at each scrape, so that all of it is of one moment."""
        self.conversations.set_function(lane.conversations)
        self.open_conversations.set_function(lane.open_conversations)
        self.due_unsettled.set_function(lane.due_unsettled)
        self.unacknowledged.set_function(lane.unacknowledged)
        self.dead_letter_share.set_function(lane.dead_letter_share)

    def applied(self, work: "BatchResult") -> None:
        """Count what a batch of records was."""
        self.records.inc(work.records_read)
        accounted = sum(work.events_by_type) + len(work.dead_letters) + work.redelivered
        self.unaccounted.inc(work.records_read - accounted)
        for kind, count in zip(TYPES, work.events_by_type, strict=True):
            if count:
                self.events.labels(kind).inc(count)
        for reason, count in Tally(letter.reason for letter in work.dead_letters).items():
            self.rejected.labels(reason).inc(count)
        self.duplicates.inc(work.duplicates)
        self.redelivered.inc(work.redelivered)
        self.settled(work)

    def settled(self, work: "BatchResult") -> None:
        """Count what was emitted, and what was sealed."""
        self.sealed.inc(work.histories_sealed)
        emitted = Tally(
            (output.record.outcome, f"{output.record.quantity:+d}", output.record.reason)
            for output in work.outputs
        )
        for labels, count in emitted.items():
            self.transitions.labels(*labels).inc(count)

    def forget(self, partition: int) -> None:
        """Remove the series of a partition that is another worker's now."""
        for gauge in (self.lag_records, self.lag_seconds, self.commit_age):
            if (str(partition),) in gauge._metrics:
                gauge.remove(partition)


# --- sink -----------------------------------------------------------------------------------------

# As in `pipeline.sink.stripe.responses`, which a test compares.
DELIVERY_RESULTS = (
    "delivered",
    "duplicate",
    "collision",
    "rejected",
    "failed",
    "refused",
    "halted",
)
OTHER_TENANTS = "(others)"


class SinkMetrics:
    """The sink's series. At most `tenants_max` tenants get series of their own."""

    def __init__(self, registry: CollectorRegistry, *, tenants_max: int = 1000) -> None:
        self._tenants_max = tenants_max
        self._tenants: set[str] = set()
        self._currencies: set[str] = {"usd"}
        self.records = Counter(
            "resmeter_usage_records",
            "Usage records stored in the ledger. It stops: the worker is silent, or we are behind.",
            registry=registry,
        )
        self.record_duplicates = Counter(
            "resmeter_usage_record_duplicates",
            "Usage records that the ledger had, with the same content. They change nothing.",
            registry=registry,
        )
        self.records_refused = Counter(
            "resmeter_usage_records_refused",
            "Usage records set aside: unreadable, or in conflict with a stored one. Any is an alarm.",
            ["reason"],
            registry=registry,
        )
        self.records_missing = Counter(
            "resmeter_usage_records_missing",
            "Offsets that Kafka had deleted before they were read. Any is lost: rebill.",
            registry=registry,
        )
        self.lag_records = Gauge(
            "resmeter_sink_lag_records",
            "Usage records of a partition that are not in the ledger yet. A rise: we are behind.",
            ["partition"],
            registry=registry,
        )
        self.pending_units = Gauge(
            "resmeter_pending_units",
            "Units in the ledger that are not at Stripe yet. A rise: deliveries fail, or lag.",
            ["tenant"],
            registry=registry,
        )
        self.pending_money = Gauge(
            "resmeter_pending_money",
            "The same at the policies' prices, in units of the currency.",
            ["tenant", "currency"],
            registry=registry,
        )
        self.pending_age = Gauge(
            "resmeter_pending_age_seconds",
            "For how long units that are owed have waited in the ledger for a meter event.",
            registry=registry,
        )
        self.carried_units = Gauge(
            "resmeter_carried_units",
            "Units below zero that wait for later usage, as Stripe bills no negative total.",
            ["tenant"],
            registry=registry,
        )
        self.parked_units = Gauge(
            "resmeter_parked_units",
            "Units of tenants without a Stripe customer: add one to the tenant file.",
            ["tenant"],
            registry=registry,
        )
        self.meter_events_planned = Counter(
            "resmeter_meter_events_planned",
            "Meter events made of pending records, to be sent.",
            registry=registry,
        )
        self.deliveries = Counter(
            "resmeter_deliveries",
            "Calls to Stripe by what became of them. rejected and collision must be looked at.",
            ["result"],
            registry=registry,
        )
        self.deliveries_uncertain = Gauge(
            "resmeter_deliveries_uncertain",
            "Meter events that Stripe may have counted over 23 hours ago: no call is made again.",
            registry=registry,
        )
        self.delivery_seconds = Histogram(
            "resmeter_delivery_seconds",
            "How long Stripe took to answer. A rise: it is Stripe.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.halted = Gauge(
            "resmeter_deliveries_halted",
            "1 where Stripe refused the key: nothing is sent until a restart.",
            registry=registry,
        )
        for reason in ("unreadable", "conflict"):
            self.records_refused.labels(reason)
        for result in DELIVERY_RESULTS:
            self.deliveries.labels(result)
        self._show([])

    def stored(self, stored: "Stored") -> None:
        """Count what a batch of usage records brought."""
        self.records.inc(stored.records)
        self.record_duplicates.inc(stored.duplicates)
        for record in stored.quarantined:
            self.records_refused.labels(record.reason).inc()

    def show_pending(
        self,
        units: Mapping[str, int],
        money: Mapping[tuple[str, str], float],
        carried: Mapping[str, int],
        parked: Mapping[str, int],
        oldest_seconds: float,
    ) -> None:
        """Show what is not at Stripe, by tenant; tenants that are not named are at zero."""
        self._currencies.update(currency for _, currency in money)
        self._show([*units, *carried, *parked])
        for gauge, values in (
            (self.pending_units, units),
            (self.carried_units, carried),
            (self.parked_units, parked),
        ):
            for tenant, value in values.items():
                gauge.labels(self._label(tenant)).inc(value)
        for (tenant, currency), amount in money.items():
            self.pending_money.labels(self._label(tenant), currency).inc(amount)
        self.pending_age.set(oldest_seconds)

    def forget_lag(self, partition: int) -> None:
        """Remove the series of a partition that is another sink's now."""
        if (str(partition),) in self.lag_records._metrics:
            self.lag_records.remove(partition)

    def _show(self, tenants: Iterable[str]) -> None:
        """Set every series to zero, those of new tenants too."""
        for tenant in tenants:
            if len(self._tenants) < self._tenants_max:
                self._tenants.add(tenant)
        for tenant in (*self._tenants, OTHER_TENANTS):
            for gauge in (self.pending_units, self.carried_units, self.parked_units):
                gauge.labels(tenant).set(0)
            for currency in self._currencies:
                self.pending_money.labels(tenant, currency).set(0)

    def _label(self, tenant: str) -> str:
        return tenant if tenant in self._tenants else OTHER_TENANTS
