"""What an account owes for each of its periods: from usage records to statements. Pure.

docs/reference/money.md has the rules. In one sentence: a period is always reckoned as if everything
that is known now had been known then, and a statement says what that comes to for its own period,
plus what has changed in earlier ones since their statements.

- `money`: minor units, rounding, amounts as text
- `periods`: the months of an account, from its anchor
- `contract`: what an outcome costs in a period
- `grants`: packs of bought units, credits of money, and their voids
- `units`: a charge with its reversal, and the period that it belongs to
- `reckoning`: what covers each unit of a period
- `statement`: the lines and totals of a period, and their form in JSON
- `account`: what is known of an account and has been stated; makes the next statement
- `approvals`: what of a statement a person decides about before the period is closed
- `run`: all statements up to a period, from records and grants with their times
- `reading`: records and grants from lines of JSON

Invariants:

- A final statement never changes: what is stored later is on a later statement.
- The metered, minimum and adjusted lines of an account's statements add up to the reckoning of
  everything that is known, in whatever order it arrived.
- Each unit is in exactly one state. No pack and no credit goes below zero.
- With `cap.action = "stop"`, the metered lines of a period never exceed `cap.amount`.
- The same records and grants give the same bytes.

This package reads no clock and no file. It does not decide what bills (`resolve`), store anything
(`ledger`), or know who has which contract (`catalog`).
"""
