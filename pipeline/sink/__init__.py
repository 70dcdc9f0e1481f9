"""Send what is owed to a biller, each unit once.

    Kafka: usage.records ──▶ intake ──▶ ledger ──▶ planner (grouping) ──▶ Kafka: resmeter.journal
                            in a thread              at each flush                  │
               Meter ◀── dispatcher ◀── ledger ◀── journal, read back ◀─────────────┘
                         one call at a time for a customer and meter

`service` wires these parts and runs them. It opens the meter of `sink.stripe`; all other parts know
the biller only through the `Meter` protocol (module `meter`).

After a period's end, `month_end` lets the `closer` close it and bring the biller's invoice to the
statement's total. `completing` chooses each step, and `invoicing` has the protocol for the biller.

Invariants:

- A meter event is in the journal, read back, before it is sent (module `journal`). The journal decides
  which meter event a usage record belongs to, for every ledger.
- The ledger is written before the effect that it describes: a record before its offset is committed,
  an attempt before its call. A crash at any point can only repeat a call, with the same identifier,
  and the biller counts an identifier once.
- A meter event is frozen when it is planned. Every attempt sends the same identifier and body.
- No negative value is sent. A charge and its reversal that are planned together are not sent either.
- A sink makes one call at a time for each customer and meter. Several sinks share the work through
  leases.
- A response is a value, not an exception. A rejected event never blocks the events behind it, but a
  run of rejections halts its customer, and a run of several customers halts all (module `breaker`).
- An answer is final only if it is the biller's own. While something else answers, events wait.

This package does not decide what bills (`resolve`), write tables (`ledger`), or correct what was sent
(`replay`).

To add another biller, write a package `sink/<name>/` with the same modules as `sink/stripe`:
`client` (made from the settings), `meter` (a `Meter`, and `open_meter` to make it), `responses` (a
response to a `Result`), `account` (the checks of `resmeter check`) and `reconcile` (compare its sums
with the ledger's). Then choose the biller in the three modules that import `sink.stripe`: `service`,
`cli/check.py` and `replay/audit.py`. CONTRIBUTING.md lists the other steps.
"""
