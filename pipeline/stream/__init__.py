"""Run the pure stages on Kafka, with Faust as the runtime.

For each fetched batch of one partition: decode and apply in memory (`partition`), then effects in
this order, each awaited (`lane`):

1. usage records and dead letters are produced and acknowledged;
2. the changed states are produced to the changelog and acknowledged;
3. the partition's done-offset moves;
4. offsets are committed, later, never beyond the done-offset.

Invariants: any error in 1 to 4 ends the process without a commit. A record that was applied is
passed over when it is delivered again. What is written is a function of the log. A timer never
overtakes a record that waits in the log.

It does not: create topics, hold more than the partitions assigned to it, speak to the ledger.
"""
