"""Inject faults into real processes, one kind of fault a row, and audit the bill after each row.

    python -m tests.proof --list
    python -m tests.proof zombie scale --events 20000

`rows.py` lists the rows of the matrix. The rig of a row (`rig.py`) runs workers and sinks on a real
broker and restarts every process that ends, as a supervisor would. It injects the fault while the
worker decides a log of events: repeated, late, out of order, and mixed with invalid records
(`load.py`). When everything is decided, stored and delivered, the auditor (`auditor.py`) compares
four sources: the log itself, an undisturbed run over the same log, the ledger, and the Stripe
emulator.

A row is clean if no unit is lost or billed twice, and if every usage record is byte for byte the
same as in the undisturbed run.

The rows are fixed, and few. `tests/simulation` searches for faults, in memory and by the thousand.
"""
