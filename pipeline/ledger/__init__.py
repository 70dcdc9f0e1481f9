"""Remember what is owed and how it was billed.

The ledger is the authority on both, because a biller may forget an identifier after a day. It is a
SQLite file (WAL) by default, or a PostgreSQL database by URL. Only this package writes the tables.

The sink's intake stores usage records (`records`), its planner joins them into meter events, and
its dispatcher leases and concludes each call (`deliveries`). `journal` has the entries of the journal and
the rules by which they are valid, `adoption` applies them to the ledger, and `outbox` finds what the
journal lacks. `statements` makes the statements of accounts, and what closes their periods: `months`
stores that, `closes` says what each close knew, and `stating` takes it off pending. `moving` copies
a ledger to another database. Commands read `reports`, `pricing` and `receipt`. `priced_under`
remembers the catalog's entry. `entries` has the values that are stored and returned, `tables` the
schema; `database` opens, checks and upgrades it, and `rights` says whether we may write it. `ages`
says how long the oldest usage has waited.

Invariants:

- A usage record is stored once, in the transaction that moves the consumer's offset. The transaction
  fails if the offset is not the one that the sink expects.
- A record is never overwritten. A record with a known id and another value in any column is
  quarantined, and raises an alarm.
- The price of a record is fixed when it is stored. A closed period and its statement never change.
- Each record belongs to at most one meter event, which never changes once it is planned.
- A meter event's state only moves forward: planned, sent, then delivered or rejected; or netted.
  Where nothing certain can be said, it is uncertain or altered, and waits for an operator.
- A meter event is sent for at most a day after the first call that may have counted.
- The attempt is stored before the call, so the ledger knows every call that may have been counted.
- Quantities are exact integers. Times are milliseconds since the epoch, UTC.
- `pending_record` has exactly the records without a meter event that are not on a final statement
  (`stated_record`). It is only an index.

This package does not decide what bills (`resolve`), group or send usage (`sink`), or hold prices
(`catalog`).
"""

from pipeline.ledger.database import Ledger, check, open_ledger, redacted, upgrade
from pipeline.ledger.rights import problems_of_rights, sslmode_missing

__all__ = [
    "Ledger",
    "check",
    "open_ledger",
    "problems_of_rights",
    "redacted",
    "sslmode_missing",
    "upgrade",
]
