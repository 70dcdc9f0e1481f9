"""For development: the demo, a Stripe emulator, a Kafka broker, a load, and a process launcher.

- `demo` runs the whole pipeline once over 200 recorded support conversations: worker and sink as
  the processes that they are in production, on a real broker, against the emulator. It reads its
  results where a user would read them: from the ledger, the emulator's sums and `/metrics`.
- `emulator` stands in for the part of Stripe's billing API that resmeter calls.
- `broker` runs a real Kafka broker from Python packages, without Docker and without a JVM of the
  system.
- `load` draws support conversations from a seed, as many events as you ask for.
- `process` starts `resmeter` commands as child processes.

Commands, tests and benchmarks import this package; no stage of the pipeline does.

Invariants: nothing outlives the process that started it, however that ends. Every wait has a
deadline, and its error shows the end of the log. A run touches nothing that is not its own: topics,
consumer groups, folders and ports are those of one run.

What it does not do: decide, bill, or replace a test. Nothing here is meant for production; the
broker has no replicas, and the emulator forgets everything when it ends.
"""
