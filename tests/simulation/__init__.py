"""Run the whole pipeline in one process, with a simulated log and clock, under random faults.

Worker (`stream.runner`, `stream.partition`), sink (`sink.intake`, `sink.dispatcher`), ledger
(SQLite) and the core of the Stripe emulator run the same code as in production. Only the transport
is replaced: Kafka (`world.Topic`, the group in `run`), Faust's consumer and producer (`worker`), and
the network to Stripe (`sink`). Every effect passes `world.FaultPoint`, which counts the effect and
may kill the process before or after it.

    python -m tests.simulation --seeds 10000     random histories and faults
    python -m tests.simulation --seed 3592       one run, with a list of its effects
    python -m tests.simulation.bugs              plant bugs: the simulator must find each

The seed determines the run completely (`draws`): clock and network are simulated, and calls replace
threads (`world.Loop`). After the run, `check` compares the ledger with the usage records that a
second implementation (`tests/oracle`) derives from the history, and Stripe's sums with the ledger's.

The simulation does not test Kafka, Faust, PostgreSQL or the kernel: `tests/kafka` and `tests/proof`
do that with real processes.
"""
