"""For development: the demo, a Stripe emulator, a Kafka broker, a load, and a process launcher.

- `demo` runs the whole pipeline once over 200 sample support conversations (`data/NOTICE`). Worker
  and sink run as separate processes, as in production, with a real broker and the emulator. The
  demo reads its results from the ledger, the emulator's sums and `/metrics`, as a user would
- `emulator` replaces the part of Stripe's billing API that resmeter calls
- `broker` runs a real Kafka broker from Python packages; it needs neither Docker nor an installed
  Java
- `load` generates support conversations from a seed, as many events as you ask for
- `process` starts `resmeter` commands as child processes

Commands, tests and benchmarks import this package; no stage of the pipeline does.

Invariants: on Linux, no child process outlives its parent, even if the parent is killed. Every wait
for a process has a deadline, and its error shows the end of the process's log. A demo uses topics,
consumer groups, folders and ports of its own, and removes its topics and folders when it ends.

This package does not decide, bill, or replace a test. Do not use it in production: the broker has no
replicas, and the emulator keeps nothing when it ends.
"""
