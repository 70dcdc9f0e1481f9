"""The pipeline in one process, over a log and a clock of its own, where everything can fail.

Worker (`stream.runner`, `stream.partition`), sink (`sink.intake`, `sink.dispatcher`), ledger
(SQLite) and the emulator's core are the production code. Only the transport is replaced: Kafka
(`world.Topic`, the group in `run`), Faust's consumer and producer (`worker`), and the network to
Stripe (`sink`). Every effect passes `world.FaultPoint`, which counts it and may kill the process
before or after it.

    python -m tests.simulation --seeds 10000     random histories and faults
    python -m tests.simulation --seed 3592       one of them, with all its effects
    python -m tests.simulation.bugs              plant bugs: the simulator must find each

A run is a function of its seed (`draws`): clock, network and threads are simulated. After the run,
`check` compares the ledger with what a second implementation (`tests/oracle`) derives from the
history, and Stripe's sums with the ledger's.

The simulation does not test Kafka, Faust, PostgreSQL or the kernel: `tests/kafka` and `tests/proof`
do that with real processes.
"""
