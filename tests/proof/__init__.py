"""The proof: a matrix of faults on real processes, and an auditor that judges each row.

    python -m tests.proof --list
    python -m tests.proof zombie scale --events 20000

A row is one kind of fault (`rows.py` is the table). Its rig (`rig.py`) runs workers and sinks on a
real broker, restarts whatever ends, as a supervisor would, and injects the fault while a log of
events is being decided. Events are repeated, late, out of order and mixed with garbage (`load.py`).
When everything is decided, stored and delivered, the auditor (`auditor.py`) compares four sources:
the log itself, an undisturbed run over the same log, the ledger, and the Stripe emulator.

A row is clean if nothing is lost, billed twice, or different in one byte from the undisturbed run.

The matrix does not search for faults: `tests/simulation` does that, in memory and by the thousand.
"""
