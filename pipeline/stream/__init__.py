"""The worker: run the pure stages on Kafka, with Faust as the runtime.

For each batch of one partition, the runner decodes and applies the records in memory
(`partition`). Then it makes the effects in this order and awaits each (`effects`):

1. usage records and dead letters are produced and acknowledged;
2. the changed states are produced to the changelog and acknowledged;
3. the partition's done-offset moves;
4. the offset is committed, later, and never beyond the done-offset.

Before it reads the states of a partition, it fences it (`ownership`): no earlier owner can write then.

Silence brings no record, so timers settle it. They run between two batches, use the broker's clock,
and act only on a partition that was read to its end (its watermark has passed the deadline).

Invariants: any error in 1 to 4 ends the process without a commit. A record that was applied is
skipped when it is delivered again. What is written depends only on the log. A timer never
overtakes a record that waits in the log.

Modules: `service` builds and runs the worker; `faust_runtime` has every private hook of Faust and
aiokafka, `versions` checks the versions of both, `fetched` has their record batches, and
`record_format` reads those that aiokafka cannot; `runner` has the batch cycle, and `timers` what
runs between two batches; `partition`, `state`, `due_queue` and `deadletter_limit` are pure; `outputs`
writes, and `fence` has the identity under which it writes states; `recovery` reads states back
(pure); `counts` keeps the metrics; `crash` ends the process.

The worker does not create topics, keep states of partitions that it does not own, or use the
ledger.
"""
