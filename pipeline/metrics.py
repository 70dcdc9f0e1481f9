"""Define every Prometheus series: what it measures, and what a change in it means.

The series answer four questions: are we behind, are we losing usage, are we right, is it us or
Stripe? Every series exists from the start, at zero, with three exceptions:

- series of a partition exist while the process owns the partition
- series of a tenant or of a process appear when the tenant or the process does
- series of outcomes and reasons that a policy adds appear with the first such usage record

These modules set the values: `stream.counts`, `stream.service`, `supervisor`, `sink.counts`,
`sink.dispatcher`.
"""

import platform
from collections.abc import Iterable
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from pipeline import __version__
from pipeline.events.model import REASONS, TYPES
from pipeline.kafka.headers import OTHER_SOURCE
from pipeline.kafka.partitioners import AGREEMENTS

# The reasons of usage records under the presets. If a policy bills another handoff cause, that cause
# is a reason too.
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
# The guide has a section on each of them: docs/guide/events.md, "Common mistakes".
MISTAKES = ("reused_id", "after_end", "same_millisecond")
OUTCOMES = ("resolution", "procedure_handoff", "qualification", "disqualification")
# Each of these has an alarm in `deploy/alerts` for any other value; `tests/unit/test_alerts.py`.
MUST_STAY_ZERO = (
    "resmeter_records_unaccounted",
    "resmeter_events_lost",
    "resmeter_catalog_cut",
    "resmeter_damaged_partitions",
    "resmeter_usage_records_missing_total",
    "resmeter_usage_records_refused_total",
    'resmeter_deliveries_total{result="collision"}',
    'resmeter_deliveries_total{result="foreign"}',
    "resmeter_deliveries_rejected",
    "resmeter_deliveries_altered",
    "resmeter_deliveries_uncertain",
    "resmeter_customers_halted",
    "resmeter_deliveries_halted",
    "resmeter_deliveries_held",
    "resmeter_journal_foreign_total",
    "resmeter_meters_unfit",
    "resmeter_accounts_unreckoned",
)


# --- any process ----------------------------------------------------------------------------------


def new_registry() -> CollectorRegistry:
    """Return a registry with the series of this process: `process_…`, its memory, time and files."""
    # Without `_created` series: `process_start_time_seconds` has the same time, in one series.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class RuntimeMetrics:
    """The series of a worker's process or a sink about itself."""

    def __init__(self, registry: CollectorRegistry, component: str) -> None:
        self.build = Gauge(
            "resmeter_build_info",
            "1; the labels say which version runs on which Python.",
            ["component", "version", "python"],
            registry=registry,
        )
        self.build.labels(component, __version__, platform.python_version()).set(1)
        self.ready = Gauge(
            "resmeter_ready",
            "1 if the process is ready, 0 if not: then /health/ready says why.",
            registry=registry,
        )


class CatalogMetrics:
    """The series of a process about the catalog that it decides or bills by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entry = Gauge(
            "resmeter_catalog_entry",
            "Number of the catalog's last entry that this process knows. It should be the same everywhere.",
            registry=registry,
        )
        self.info = Gauge(
            "resmeter_catalog_info",
            "1; the label is the digest of that entry. Two digests for long: processes read two catalogs.",
            ["digest"],
            registry=registry,
        )
        self.age = Gauge(
            "resmeter_catalog_age_seconds",
            "How long ago the process read the catalog to its end. If it rises, the worker will stop deciding.",
            registry=registry,
        )
        self.cut = Gauge(
            "resmeter_catalog_cut",
            "How many of the catalog's first offsets Kafka has deleted. Must be 0: no process can start.",
            registry=registry,
        )
        self._digest = ""

    def show(self, head: tuple[int, str], age_seconds: float, cut: int) -> None:
        """Publish the last entry known, how long ago the catalog was read, and what of it is gone."""
        number, digest = head
        self.entry.set(number)
        self.age.set(age_seconds)
        self.cut.set(cut)
        if digest != self._digest:
            self.info.clear()
            self.info.labels(digest).set(1)
            self._digest = digest


# --- worker ---------------------------------------------------------------------------------------


class ProcessesMetrics:
    """The supervisor's own series. It also serves those of its processes, with the label `process`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "resmeter_process_up",
            "1 if a process of the worker responds, 0 if not: then the series of that process are missing.",
            ["process"],
            registry=registry,
        )


class WorkerMetrics:
    """The worker's series. `producers` are the ids of the keys in the tenant file."""

    def __init__(self, registry: CollectorRegistry, producers: Iterable[str] = ()) -> None:
        self._define_records(registry)
        self._define_progress(registry)
        for kind in TYPES:
            self.events.labels(kind)
        for source in (*producers, OTHER_SOURCE):
            for rejection in REASONS:
                self.rejected.labels(rejection, source)
        for agreement in AGREEMENTS:
            self.keys.labels(agreement)
        for mistake in MISTAKES:
            self.mistakes.labels(mistake)
        for outcome in OUTCOMES:
            for reason in TRANSITION_REASONS:
                for delta in ("+1", "-1"):
                    self.transitions.labels(outcome, delta, reason)

    def _define_records(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "resmeter_events",
            "Events accepted, by type. If a type stops rising, its producer is silent.",
            ["type"],
            registry=registry,
        )
        self.rejected = Counter(
            "resmeter_rejected",
            "Records rejected and written to the dead letters, by reason and by the producer that signed them. If it rises, a producer is at fault.",
            ["reason", "source"],
            registry=registry,
        )
        self.transitions = Counter(
            "resmeter_transitions",
            "Usage records emitted, by outcome, sign and reason. The reason late_event marks corrections.",
            ["outcome", "delta", "reason"],
            registry=registry,
        )
        self.records = Counter(
            "resmeter_records",
            "Records read from the events topic: accepted events, dead letters and redelivered records.",
            registry=registry,
        )
        self.unaccounted = Gauge(
            "resmeter_records_unaccounted",
            "Records read but neither accepted, rejected nor redelivered. Above 0, usage is lost: run an audit.",
            registry=registry,
        )
        self.dead_letter_share = Gauge(
            "resmeter_dead_letter_share",
            "Share of dead letters among the last records. If it rises, a producer is at fault.",
            registry=registry,
        )
        self.dead_letters_over_limit = Gauge(
            "resmeter_dead_letters_over_limit",
            "1 if the share of dead letters is above dead_letter_share_max: a producer is broken.",
            registry=registry,
        )
        self.duplicates = Counter(
            "resmeter_duplicates",
            "Events that a producer sent more than once. Duplicates change nothing.",
            registry=registry,
        )
        self.mistakes = Counter(
            "resmeter_producer_mistakes",
            "Events that a producer sent in a way that may bill wrongly, by mistake. If it rises, fix the producer.",
            ["mistake"],
            registry=registry,
        )
        self.keys = Counter(
            "resmeter_keys",
            "Keys of new conversations by the partitioner that puts them where they are (a sample). If two differ, set one.",
            ["partitioner"],
            registry=registry,
        )
        self.redelivered = Counter(
            "resmeter_redelivered",
            "Records that Kafka delivered again after a restart or rebalance. They are skipped.",
            registry=registry,
        )
        self.states_rewritten = Counter(
            "resmeter_states_rewritten",
            "States written again after a recovery, because a paused worker had written an older one after the newest.",
            registry=registry,
        )
        self.sealed = Counter(
            "resmeter_sealed",
            "Conversations sealed after a long silence. If it stops rising, memory grows faster.",
            registry=registry,
        )

    def _define_progress(self, registry: CollectorRegistry) -> None:
        self.damaged_partitions = Gauge(
            "resmeter_damaged_partitions",
            "Partitions of the events topic that stand still at a damaged batch. Above 0, their usage waits.",
            registry=registry,
        )
        self.clock_behind = Gauge(
            "resmeter_clock_behind_seconds",
            "How far the slowest known clock of a broker is behind the changelog's clock. Above 2, compare them.",
            ["partition"],
            registry=registry,
        )
        self.stepped_over = Counter(
            "resmeter_offsets_stepped_over",
            "Offsets of damaged batches that an operator has stepped over: their records are lost.",
            registry=registry,
        )
        self.conversations = Gauge(
            "resmeter_conversations", "Conversations held in memory.", registry=registry
        )
        self.open_conversations = Gauge(
            "resmeter_open_conversations",
            "Conversations whose window has not ended. If it only ever rises, no window is settled.",
            registry=registry,
        )
        self.due_unsettled = Gauge(
            "resmeter_due_unsettled",
            "Windows that have ended but are not settled. If it stays up, the worker is behind.",
            registry=registry,
        )
        self.unacknowledged = Gauge(
            "resmeter_unacknowledged_batches",
            "Batches whose results Kafka has not acknowledged. If it stays up, Kafka is slow.",
            registry=registry,
        )
        self.lag_records = Gauge(
            "resmeter_lag_records",
            "Records of a partition of the events topic that are not processed yet.",
            ["partition"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "resmeter_lag_seconds",
            "Age of the last record processed in a partition; 0 if no more records wait.",
            ["partition"],
            registry=registry,
        )
        self.commit_age = Gauge(
            "resmeter_commit_age_seconds",
            "How long processed records of a partition have waited for a commit. If it rises, commits fail.",
            ["partition"],
            registry=registry,
        )
        self.events_lost = Gauge(
            "resmeter_events_lost",
            "Records of a partition that Kafka deleted before a worker read them, until you acknowledge them.",
            ["partition"],
            registry=registry,
        )
        self.open_transaction = Gauge(
            "resmeter_open_transaction_seconds",
            "How long a producer's open transaction has held up a partition. If it rises, end the transaction.",
            ["partition"],
            registry=registry,
        )
        self.ahead = Gauge(
            "resmeter_ahead_seconds",
            "How long a partition will wait for a record whose timestamp is ahead of the broker's clock.",
            ["partition"],
            registry=registry,
        )


# --- sink -----------------------------------------------------------------------------------------

# The same results as in `pipeline.sink.meter.NEXT`; a test compares the two.
DELIVERY_RESULTS = (
    "delivered",
    "duplicate",
    "collision",
    "rejected",
    "failed",
    "foreign",
    "refused",
    "halted",
)
# The results of a call that asks Stripe to cancel a meter event; `rejected` is not retried.
WITHDRAWAL_RESULTS = (
    "withdrawn",
    "rejected",
    "collision",
    "failed",
    "foreign",
    "refused",
    "halted",
)
# The states of units that Stripe has not confirmed, as in `pipeline.ledger.entries.OwedState`.
OWED_STATES = ("pending", "planned", "sent", "rejected", "uncertain", "altered")
OTHER_TENANTS = "(others)"
# Of a period whose invoice is not final, or not right; `unheld`: a draft that we may not hold.
INVOICE_STATES = ("open", "waiting", "stopped", "missed", "unheld")


class SinkMetrics:
    """The sink's series. At most `tenants_max` tenants get series of their own."""

    def __init__(self, registry: CollectorRegistry, *, tenants_max: int = 1000) -> None:
        self.tenants_max = tenants_max
        self.tenants: set[str] = set()  # tenants that have series of their own
        self.currencies: set[str] = {"usd"}  # currencies that have series
        self._define_records(registry)
        self._define_pending(registry)
        self._define_kept(registry)
        self._define_journal(registry)
        self._define_deliveries(registry)
        self._define_invoices(registry)
        for reason in ("unreadable", "conflict"):
            self.records_refused.labels(reason)
        for result in DELIVERY_RESULTS:
            self.deliveries.labels(result)
        for result in WITHDRAWAL_RESULTS:
            self.withdrawals.labels(result)
        for gauge in (self.pending_units, *self.kept_units.values()):
            gauge.labels(OTHER_TENANTS)
        for currency in self.currencies:
            self.pending_money.labels(OTHER_TENANTS, currency)
            self.corrections_waiting_money.labels(currency)
        for state in INVOICE_STATES:
            self.invoices.labels(state)
            for currency in self.currencies:
                self.invoice_money.labels(state, currency)
        for state in OWED_STATES:
            self.owed_units.labels(state)
            for currency in self.currencies:
                self.owed_money.labels(state, currency)

    def _define_records(self, registry: CollectorRegistry) -> None:
        self.records = Counter(
            "resmeter_usage_records",
            "Usage records stored in the ledger. If it stops rising, the worker is silent or the sink is behind.",
            registry=registry,
        )
        self.record_duplicates = Counter(
            "resmeter_usage_record_duplicates",
            "Usage records that the ledger already had with the same content. Duplicates change nothing.",
            registry=registry,
        )
        self.records_refused = Counter(
            "resmeter_usage_records_refused",
            "Usage records quarantined: unreadable, or in conflict with a stored one. Above 0, investigate.",
            ["reason"],
            registry=registry,
        )
        self.records_missing = Counter(
            "resmeter_usage_records_missing",
            "Usage records that Kafka deleted before the sink read them. Above 0, usage is lost: run a rebill.",
            registry=registry,
        )
        self.lag_records = Gauge(
            "resmeter_sink_lag_records",
            "Usage records of a partition that are not in the ledger yet. If it rises, the sink is behind.",
            ["partition"],
            registry=registry,
        )

    def _define_pending(self, registry: CollectorRegistry) -> None:
        self.pending_units = Gauge(
            "resmeter_pending_units",
            "Units in the ledger that Stripe has not taken yet. If it rises, deliveries fail or are slow.",
            ["tenant"],
            registry=registry,
        )
        self.pending_money = Gauge(
            "resmeter_pending_money",
            "Price of the units that Stripe has not taken yet, in units of the currency; approximate.",
            ["tenant", "currency"],
            registry=registry,
        )
        self.owed_units = Gauge(
            "resmeter_owed_units",
            "Units that Stripe has not confirmed, by state. If rejected, uncertain or altered are not 0, an operator must act.",
            ["state"],
            registry=registry,
        )
        self.owed_money = Gauge(
            "resmeter_owed_money",
            "Price of the units that Stripe has not confirmed, by state, in units of the currency; approximate.",
            ["state", "currency"],
            registry=registry,
        )
        self.pending_age = Gauge(
            "resmeter_pending_age_seconds",
            "How long the oldest unit owed has waited in the ledger for Stripe to take it. Parked units do not count.",
            registry=registry,
        )
        self.pending_usage_age = Gauge(
            "resmeter_pending_usage_age_seconds",
            "Age of the oldest usage that Stripe has not taken, by when it was used. Stripe takes it for 35 days.",
            registry=registry,
        )
        self.unanswered_age = Gauge(
            "resmeter_unanswered_age_seconds",
            "Time since the oldest call that Stripe may have counted and did not confirm. It has 23 hours.",
            registry=registry,
        )

    def _define_kept(self, registry: CollectorRegistry) -> None:
        self.carried_units = Gauge(
            "resmeter_carried_units",
            "Negative units carried over to later usage of their period, because Stripe bills no negative total.",
            ["tenant"],
            registry=registry,
        )
        self.parked_units = Gauge(
            "resmeter_parked_units",
            "Units of tenants that have no Stripe customer. To bill them, add one to the tenant file.",
            ["tenant"],
            registry=registry,
        )
        self.late_units = Gauge(
            "resmeter_late_units",
            "Units of closed periods, signed. The next statement has them.",
            ["tenant"],
            registry=registry,
        )
        self.unmatched_units = Gauge(
            "resmeter_unmatched_units",
            "Reversals whose charge the ledger lacks, below zero. They hold up the close of a period.",
            ["tenant"],
            registry=registry,
        )
        self.held_units = Gauge(
            "resmeter_held_units",
            "Units that are not for the meter: included, in a pack, over a cap, or at another price. The invoice has what they cost.",
            ["tenant"],
            registry=registry,
        )
        self.unpriced_units = Gauge(
            "resmeter_unpriced_units",
            "Units that nothing prices. They are not billed, and hold up the close of their period.",
            ["tenant"],
            registry=registry,
        )
        self.accounts_unreckoned = Gauge(
            "resmeter_accounts_unreckoned",
            "Accounts that cannot be reckoned: what is new of them is not sent. The log says why.",
            registry=registry,
        )
        # The units that stay pending, by the reason; `chargeable.Why` has the reasons.
        self.kept_units = {
            "carried": self.carried_units,
            "parked": self.parked_units,
            "late": self.late_units,
            "unmatched": self.unmatched_units,
            "held": self.held_units,
            "unpriced": self.unpriced_units,
        }

    def _define_journal(self, registry: CollectorRegistry) -> None:
        self.journal_adopted = Counter(
            "resmeter_journal_adopted",
            "Meter events of other runs that a sink took from the journal: after a restart, a restored ledger, or beside another sink.",
            registry=registry,
        )
        self.journal_void = Counter(
            "resmeter_journal_void",
            "Meter events of this sink that came after another one of the same usage records. If it rises, sinks have different ledgers.",
            registry=registry,
        )
        self.journal_foreign = Counter(
            "resmeter_journal_foreign",
            "Records of the journal that no resmeter wrote. Above 0, find out who writes to the topic.",
            registry=registry,
        )
        self.journal_unreached = Gauge(
            "resmeter_journal_unreached",
            "1 while the journal cannot be written or read: no usage is planned until it can.",
            registry=registry,
        )
        self.clock_offset = Gauge(
            "resmeter_sink_clock_offset_seconds",
            "How far this sink's clock is ahead of the journal's broker, below 0: behind. Beyond 1800, nothing is sent.",
            registry=registry,
        )

    def _define_deliveries(self, registry: CollectorRegistry) -> None:
        self.meter_events_planned = Counter(
            "resmeter_meter_events_planned",
            "Meter events made of pending usage records, to be sent to Stripe.",
            registry=registry,
        )
        self.deliveries = Counter(
            "resmeter_deliveries",
            "Calls to Stripe, by result. Investigate rejected, collision, foreign, halted; failed and refused (throttled or unreached) are retried.",
            ["result"],
            registry=registry,
        )
        self.withdrawals = Counter(
            "resmeter_withdrawals",
            "Calls that ask Stripe to cancel a meter event of units that were taken back, by result. After rejected, the correction waits for the close of the period.",
            ["result"],
            registry=registry,
        )
        self.deliveries_uncertain = Gauge(
            "resmeter_deliveries_uncertain",
            "Meter events that Stripe may have counted over 23 hours ago. They are not sent again: check Stripe.",
            registry=registry,
        )
        self.deliveries_rejected = Gauge(
            "resmeter_deliveries_rejected",
            "Meter events that Stripe rejected. They are not billed until an operator releases or settles them.",
            registry=registry,
        )
        self.deliveries_altered = Gauge(
            "resmeter_deliveries_altered",
            "Meter events whose content is not the one that was planned. They are not sent: check the ledger.",
            registry=registry,
        )
        # The meter events that wait for an operator, by state; `entries.STUCK` has the states.
        self.stuck = {
            "rejected": self.deliveries_rejected,
            "uncertain": self.deliveries_uncertain,
            "altered": self.deliveries_altered,
        }
        self.meters_unfit = Gauge(
            "resmeter_meters_unfit",
            "Meters at Stripe that would take usage and not count it. What is for them waits: run a check.",
            registry=registry,
        )
        self.delivery_seconds = Histogram(
            "resmeter_delivery_seconds",
            "How long Stripe took to respond. If it rises, Stripe is slow.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.halted = Gauge(
            "resmeter_deliveries_halted",
            "1 if Stripe rejected the API key, or the usage of many customers in a row: nothing is sent until a restart.",
            registry=registry,
        )
        self.customers_halted = Gauge(
            "resmeter_customers_halted",
            "Customers whose last meter events Stripe all rejected: nothing is sent for them until an operator decides.",
            registry=registry,
        )
        self.held = Gauge(
            "resmeter_deliveries_held",
            "1 if the ledger is outdated: nothing is sent until an operator resumes deliveries.",
            registry=registry,
        )

    def _define_invoices(self, registry: CollectorRegistry) -> None:
        self.invoices = Gauge(
            "resmeter_invoices",
            "Periods that have ended and whose invoice is not final, or not right, by state. Above 0 for stopped, missed or unheld, somebody must act.",
            ["state"],
            registry=registry,
        )
        self.invoice_money = Gauge(
            "resmeter_invoice_money",
            "What these invoices come to, or what a missed one lacks, in units of the currency; approximate.",
            ["state", "currency"],
            registry=registry,
        )
        self.invoice_age = Gauge(
            "resmeter_invoice_age_seconds",
            "Time since the oldest period ended that has a draft which is not final. If it rises, closing waits.",
            registry=registry,
        )
        self.corrections_waiting = Gauge(
            "resmeter_corrections_waiting",
            "Adjustments over the limit, and reversals without a charge, of periods that have ended: until a person decides about them, the invoices wait.",
            registry=registry,
        )
        self.corrections_waiting_money = Gauge(
            "resmeter_corrections_waiting_money",
            "What these adjustments come to, each without its sign, in units of the currency.",
            ["currency"],
            registry=registry,
        )
        self.invoice_unheld_until = Gauge(
            "resmeter_invoice_unheld_until_timestamp_seconds",
            "When Stripe makes the first draft final that we may not hold; 0: there is none.",
            registry=registry,
        )


def remove_partition(gauge: Gauge, partition: int) -> None:
    """Remove the series of a partition, if it exists."""
    with suppress(KeyError):
        gauge.remove(partition)
