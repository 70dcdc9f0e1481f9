"""Remember what is owed and how it was billed.

The ledger is the authority on both: a biller forgets an identifier after a day. It is SQLite (WAL)
by default, PostgreSQL by URL. Only this package writes the tables.

The sink's intake stores usage records (`records`), its planner joins them into meter events, and
its dispatcher leases and concludes each call (`deliveries`). Commands read `reports`, `pricing` and
`receipt`. `entries` has the values that go in and come out, `tables` the schema, `database` opens it.

Invariants:

- A usage record enters once: it is stored in the transaction that moves the consumer's offset, and
  the offset moves only from where its reader believed it to be.
- A record is never overwritten. A record with a known id and other content is quarantined, and is
  an alarm.
- Each record belongs to at most one meter event, which never changes once it is planned.
- A meter event's state only moves forward: planned, sent, then delivered or rejected; or netted.
- The attempt is stored before the call, so that a call that may have been counted is never unknown.
- Quantities are exact integers. Times are milliseconds since the epoch, UTC.
- `pending_record` has exactly the records without a meter event. It is an index, nothing more.

It does not: decide what bills (`resolve`), group usage or send it (`sink`), hold prices (`catalog`).
"""

from pipeline.ledger.database import Ledger, check, open_ledger, redacted, upgrade

__all__ = ["Ledger", "check", "open_ledger", "redacted", "upgrade"]
