"""Stage 5: the ledger remembers what is owed, and how it was billed.

It is the authority on both; Stripe forgets an identifier after a day. SQLite (WAL) by default,
PostgreSQL by URL. This package is the only one that writes the tables.

What holds:

- A usage record enters once: it is stored in the transaction that moves the consumer's offset, and
  the offset moves only from where its reader believed it to be.
- A record is never overwritten. The same id with other content is set aside, and is an alarm.
- Each record belongs to at most one meter event, which never changes once it is planned.
- A meter event's state moves forward only: planned, sent, then delivered or rejected; or netted.
- Quantities are exact integers, times are milliseconds since the epoch, UTC.
- `pending_record` holds exactly the records that no meter event holds: an index, nothing more.

What it does not do: decide what bills (`resolve`), add up or price what is sent (`sink`).
"""

from pipeline.ledger.database import Ledger, check, open_ledger, shown, upgrade

__all__ = ["Ledger", "check", "open_ledger", "shown", "upgrade"]
