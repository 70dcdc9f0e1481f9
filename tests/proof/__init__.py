"""The proof: real processes, real faults, and an auditor of its own. `python -m tests.proof`."""
