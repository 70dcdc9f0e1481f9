"""The rows of the matrix: name, line in the table, fault, load, and where the ledger is."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from tests.proof import billing_faults, server_faults, worker_faults
from tests.proof.billing_faults import stripe_fails
from tests.proof.load import Disorder
from tests.proof.rig import Rig


class Row(NamedTuple):
    """One kind of fault, over one load."""

    name: str
    about: str  # its line in the table; the table of an earlier run is found by it
    fault: Callable[[Rig], None]
    load: str = "usual"
    ledger: Literal["sqlite", "postgres"] = "sqlite"
    small_disk: Literal["", "ledger", "worker"] = ""  # what lies on a file system that is filled


LOADS = {
    "usual": Disorder(),
    "repeated": Disorder(everything_repeated=True),
    "shuffled": Disorder(late_within=0.4, late_beyond=0.1),
    "garbage": Disorder(garbage=0.02),
}

ROWS = (
    Row(
        "worker-killed",
        "A worker is killed (SIGKILL) ten times, at any moment, while two others rebalance.",
        worker_faults.worker_killed,
    ),
    Row(
        "worker-points",
        "A worker is killed at each named point of its batch cycle, ten times each, while two "
        "others rebalance.",
        worker_faults.worker_points,
    ),
    Row(
        "processes",
        "A worker of three processes loses one of them (SIGKILL), ten times: it ends as a whole "
        "and starts again.",
        worker_faults.processes,
    ),
    Row(
        "zombie",
        "A worker is stopped (SIGSTOP) for longer than its session, and goes on with a new owner "
        "at work.",
        worker_faults.zombie,
    ),
    Row(
        "rolling-restart",
        "Three workers are restarted in order (SIGTERM), one after the other, twice.",
        worker_faults.rolling_restart,
    ),
    Row("scale", "From one worker to three and back to one.", worker_faults.scale),
    Row(
        "changelog-deleted",
        "The changelog topic is deleted: the worker refuses to start; the states are built from "
        "the events.",
        worker_faults.changelog_deleted,
    ),
    Row(
        "generations",
        "A rebalance comes in the middle of a fetch, again and again: what was fetched is dropped.",
        worker_faults.generations,
    ),
    Row(
        "clock-steps",
        "The clock of worker and sink steps by an hour, there and back, every two seconds.",
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
        "produce-refused",
        "The broker refuses what is produced: NOT_ENOUGH_REPLICAS, then MESSAGE_TOO_LARGE.",
        server_faults.produce_refused,
    ),
    Row(
        "produce-errors",
        "One produce in five is answered with an error, before or after its effect, or by a line "
        "that is cut.",
        server_faults.produce_errors,
    ),
    Row(
        "sink-killed",
        "The sink is killed (SIGKILL) ten times, at any moment.",
        billing_faults.sink_killed,
    ),
    Row(
        "sink-points",
        "The sink is killed at each named point of its cycle, ten times each.",
        billing_faults.sink_points,
    ),
    Row(
        "two-sinks",
        "Two sinks at once, one of them restarted on the way.",
        billing_faults.two_sinks,
        ledger="postgres",
    ),
    Row(
        "postgres-killed",
        "PostgreSQL ends as by a crash and restarts, three times; all its connections are cut, "
        "ten times.",
        server_faults.postgres_killed,
        ledger="postgres",
    ),
    Row(
        "disk-full",
        "The disk under the ledger is full for ten seconds.",
        server_faults.disk_full,
        small_disk="ledger",
    ),
    Row(
        "worker-disk-full",
        "The disk for the worker's log and its temporary files is full for ten seconds, and at "
        "its restart.",
        server_faults.worker_disk_full,
        small_disk="worker",
    ),
    Row("stripe-500-before", "Stripe answers 500 and has not counted.", stripe_fails("500_before")),
    Row("stripe-500-after", "Stripe answers 500 and has counted.", stripe_fails("500_after")),
    Row(
        "stripe-cut",
        "Stripe counts, and the line is cut before the answer.",
        stripe_fails("cut_after"),
    ),
    Row(
        "stripe-hangs",
        "Stripe counts, and answers after the sink has given up waiting.",
        stripe_fails("slow", 4.0),
    ),
    Row(
        "stripe-409",
        "Stripe answers 409, as if another call for the customer were under way.",
        stripe_fails("409"),
    ),
    Row(
        "stripe-429",
        "Stripe answers 429 to everything for a minute.",
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
        "Nothing fails; half of the events come late, one in ten beyond the grace.",
        billing_faults.nothing,
        load="shuffled",
    ),
    Row(
        "garbage",
        "Nothing fails; two percent of the records are garbage.",
        billing_faults.nothing,
        load="garbage",
    ),
    Row(
        "everything",
        "All of it at once for ten minutes: kills, stops, restarts, a broker that dies, Stripe's "
        "faults.",
        billing_faults.everything,
        ledger="postgres",
    ),
)
