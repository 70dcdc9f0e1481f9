"""The pipeline in one process, over a log and a clock of its own, where everything can fail.

Worker (`stream.runner`, `stream.partition`), sink (`sink.intake`, `sink.dispatcher`), ledger (SQLite)
and the emulator's core are the production code. Only the transport is replaced: Kafka (`world`),
Faust (`worker`, which is the runner's `Host`), the network to Stripe (`sink`). Everything that has an effect goes through `world.Seam`, which counts it and may
end the process before or after it.
"""
