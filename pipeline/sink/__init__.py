"""Deliver what is owed to a biller, each unit once.

    Kafka: usage.records ──▶ intake ──▶ ledger ──▶ planner (grouping) ──▶ dispatcher ──▶ Meter
                            in a thread              at each flush         one call at a time
                                                                           for a customer and meter

`service` wires these parts and runs them. All of them know the biller by the `Meter` protocol only
(`meter`); `service` opens the one in `sink.stripe`.

Invariants:

- The ledger is written before the effect that it describes: a record before its offset is committed,
  an attempt before its call. So a crash at any point repeats a call at worst, never an event.
- A meter event is frozen when it is planned. Every attempt sends the same identifier and body.
- Nothing below zero is sent, and nothing that we know to be taken back.
- One call at a time for a customer and meter; several sinks share the work through leases.
- A response is a value, not an exception. A rejected event never blocks those behind it.

It does not: decide what bills (`resolve`), write tables (`ledger`), correct what was sent (`replay`).

To add another biller: a package `sink/<name>/` with the same four modules as `sink/stripe`:
`client` (from the settings), `meter` (a `Meter`, and `open_meter` to make it), `responses` (status
to `Result`) and `reconcile` (its sums against the ledger's). Then `service` chooses.
"""
