"""The rows of the matrix: the fault of each, its load, its ledger, and its line in the table."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from tests.proof import (
    billing_faults,
    catalog_faults,
    producer_faults,
    server_faults,
    worker_faults,
)
from tests.proof.billing_faults import stripe_fails
from tests.proof.load import Disorder
from tests.proof.rig import Rig


class Row(NamedTuple):
    """One kind of fault, over one load."""

    name: str  # the first cell of its line in the table; `--write` finds the line by this name
    about: str  # the second cell
    fault: Callable[[Rig], None]
    load: str = "usual"
    ledger: Literal["sqlite", "postgres"] = "sqlite"
    small_disk: Literal["", "ledger", "worker"] = ""  # the writer to the disk that fills up


LOADS = {
    "usual": Disorder(),
    "repeated": Disorder(everything_repeated=True),
    "shuffled": Disorder(late_within=0.4, late_beyond=0.1),
    "garbage": Disorder(garbage=0.02),
    "flood": Disorder(garbage=3.0),
    "damaged": Disorder(damage=True),
    "transactions": Disorder(garbage=0.0, transactions=True),
}

ROWS = (
    Row(
        "worker-killed",
        "One of three workers is killed (SIGKILL) at a random moment, ten times; the others "
        "rebalance.",
        worker_faults.worker_killed,
    ),
    Row(
        "worker-points",
        "A worker is killed at each named point of its batch cycle, ten times each; two others "
        "rebalance.",
        worker_faults.worker_points,
    ),
    Row(
        "processes",
        "One of the three processes of a worker is killed (SIGKILL), ten times: the whole "
        "worker ends and is restarted.",
        worker_faults.processes,
    ),
    Row(
        "zombie",
        "A worker is frozen (SIGSTOP) for longer than its session timeout, and resumes after a "
        "new owner has its partitions.",
        worker_faults.zombie,
    ),
    Row(
        "late-states",
        "A worker is stopped before it writes states, and continues after a new owner has written "
        "newer ones; then the changelog is compacted. Three times.",
        worker_faults.late_states,
    ),
    Row(
        "two-zombies",
        "The same with two workers, the second stopped while it owns the partitions of the first.",
        worker_faults.two_zombies,
    ),
    Row(
        "fence-killed",
        "The same; between the two, a worker is killed after its fence and before it reads the "
        "states.",
        worker_faults.fence_killed,
    ),
    Row(
        "rolling-restart",
        "Three workers are restarted gracefully (SIGTERM), one after the other, twice.",
        worker_faults.rolling_restart,
    ),
    Row(
        "scale",
        "The group grows from one worker to three, and shrinks back to one.",
        worker_faults.scale,
    ),
    Row(
        "changelog-deleted",
        "The changelog topic is deleted: the worker refuses to start, and a new group rebuilds "
        "the states from the events.",
        worker_faults.changelog_deleted,
    ),
    Row(
        "generations",
        "A worker sees a rebalance in the middle of a fetch, again and again, and drops what "
        "it fetched.",
        worker_faults.generations,
    ),
    Row(
        "catalog-changes",
        "Two publishers add to the same entry of the catalog, six times: one of them wins. After "
        "each, a worker or the sink is killed; all end under the last entry.",
        catalog_faults.catalog_changes,
    ),
    Row(
        "clock-steps",
        "The clock of worker and sink jumps every two seconds: an hour fast, right, an hour slow.",
        worker_faults.clock_steps,
    ),
    Row(
        "broker-killed",
        "The broker is killed (SIGKILL) and restarted, three times.",
        server_faults.broker_killed,
    ),
    Row(
        "broker-frozen",
        "The broker is frozen (SIGSTOP) for 20 seconds.",
        server_faults.broker_frozen,
    ),
    Row(
        "damaged-batch",
        "The broker's disk changes a batch in the middle of a partition: the worker stops there, is "
        "killed, and steps over it when an operator says so.",
        server_faults.damaged_batch,
        load="damaged",
    ),
    Row(
        "open-transactions",
        "Producers leave two transactions open in the middle of the events: one is committed after the "
        "worker was killed twice, and the broker aborts the other, whose producer is gone.",
        producer_faults.open_transactions,
        load="transactions",
    ),
    Row(
        "produce-refused",
        "The broker rejects produce requests: with NOT_ENOUGH_REPLICAS, then with "
        "MESSAGE_TOO_LARGE.",
        server_faults.produce_refused,
    ),
    Row(
        "produce-errors",
        "One produce request in five fails: with an error before or after its effect, or with "
        "a cut connection.",
        server_faults.produce_errors,
    ),
    Row(
        "sink-killed",
        "The sink is killed (SIGKILL) at a random moment, ten times.",
        billing_faults.sink_killed,
    ),
    Row(
        "sink-points",
        "The sink is killed at each named point of its cycle, ten times each.",
        billing_faults.sink_points,
    ),
    Row(
        "two-sinks",
        "Two sinks run at once; one of them is killed and restarted.",
        billing_faults.two_sinks,
        ledger="postgres",
    ),
    Row(
        "postgres-killed",
        "PostgreSQL ends as in a crash and restarts, three times; all its connections are cut, "
        "ten times.",
        server_faults.postgres_killed,
        ledger="postgres",
    ),
    Row(
        "disk-full",
        "The disk with the ledger is full for ten seconds.",
        server_faults.disk_full,
        small_disk="ledger",
    ),
    Row(
        "worker-disk-full",
        "The disk with the worker's log and temporary files is full for ten seconds; the "
        "worker is restarted meanwhile.",
        server_faults.worker_disk_full,
        small_disk="worker",
    ),
    Row(
        "ledger-restored",
        "The sink is killed at each named point of its cycle, twice, and a copy of the ledger from "
        "before takes its place.",
        billing_faults.ledger_restored,
    ),
    Row(
        "empty-ledger",
        "The sink gets an empty ledger in the middle of its work, three times.",
        billing_faults.empty_ledger,
    ),
    Row(
        "postgres-failover",
        "PostgreSQL fails over to a replica that lacks the commits of some seconds, five times; "
        "the sink runs on.",
        server_faults.postgres_loses_commits,
        ledger="postgres",
    ),
    Row(
        "two-ledgers",
        "Two sinks run at once, each with a ledger of its own; they are killed ten times.",
        billing_faults.two_ledgers,
    ),
    Row(
        "stripe-500-before",
        "Stripe responds with 500 and has not counted the event.",
        stripe_fails("500_before"),
    ),
    Row(
        "stripe-500-after",
        "Stripe responds with 500 but has counted the event.",
        stripe_fails("500_after"),
    ),
    Row(
        "stripe-cut",
        "Stripe counts the event, and the connection is cut before the response.",
        stripe_fails("cut_after"),
    ),
    Row(
        "stripe-hangs",
        "Stripe counts the event, and responds after the sink's timeout.",
        stripe_fails("slow", 4.0),
    ),
    Row(
        "proxy-before",
        "A proxy answers every second call in Stripe's place with a page of its own, 40 times.",
        stripe_fails("foreign_before"),
    ),
    Row(
        "proxy-after",
        "The same, after the call has reached Stripe and counted.",
        stripe_fails("foreign_after"),
    ),
    Row(
        "stripe-409",
        "Stripe responds with 409, as if another request for the customer were in progress.",
        stripe_fails("409"),
    ),
    Row(
        "stripe-429",
        "Stripe responds with 429 to every request for a minute.",
        billing_faults.stripe_throttles,
    ),
    Row(
        "all-repeated",
        "Nothing fails; every event is delivered one to three times.",
        billing_faults.nothing,
        load="repeated",
    ),
    Row(
        "all-shuffled",
        "Nothing fails; 40% of the events are late within the grace period, and 10% are later.",
        billing_faults.nothing,
        load="shuffled",
    ),
    Row(
        "garbage",
        "Nothing fails; 2% of the records are invalid.",
        billing_faults.nothing,
        load="garbage",
    ),
    Row(
        "garbage-flood",
        "Nothing fails; three of four records are invalid. The worker raises an alarm and continues.",
        billing_faults.nothing,
        load="flood",
    ),
    Row(
        "everything",
        "For ten minutes, at random: processes and the broker are killed or frozen, and Stripe "
        "fails.",
        billing_faults.everything,
        ledger="postgres",
    ),
)
