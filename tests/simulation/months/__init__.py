"""Run months that end: sinks, closes and invoices, with a simulated clock, under random faults.

Usage records are drawn here, not made by workers: what a worker writes under faults is `run`'s matter.
Sinks store, send, withdraw and close as in production. Stripe is the core of the emulator, behind the
SDK (`stripe`), and drafts the invoices of its subscriptions by the simulated clock.

    python -m tests.simulation --world months --seeds 1000
    python -m tests.simulation --world months --seed 7

After the run, `check` compares the statements with those of the second implementation
(`tests/oracle/money.py`), and each invoice with its statement.
"""
