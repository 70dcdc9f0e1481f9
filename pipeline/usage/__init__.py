"""What is owed: decisions become usage records, numbered and explained. Pure.

`conversation.py` keeps one conversation. It takes events in the order in which they arrive, settles
silence by arrival time, and emits usage records: +1 for a unit, -1 for a unit taken back
(docs/reference/outcomes.md §4). `history.py` has its events as bytes, `emission.py` numbers the
records and finds the charge that a reversal takes back, `record.py` is the record and its JSON.

What always holds:

- what was emitted adds up to what is decided, for every order of arrival and every size of batch;
- a record's id is its tenant, its conversation and a number from 1; its content depends on the log and
  the policies alone, so that a replay gives the same bytes;
- every -1 names the +1 that it takes back, and goes at the price of that +1;
- an event that arrives again changes nothing; what is not taken in (`too_long`, `too_late`) changes
  nothing and is returned;
- sealing decides nothing: it drops a history that no record can reach any more.

What it does not do: it reads no topic and no clock, it stores nothing, and it knows no price. A unit's
price follows from the policy version that its record names.

The members of `Conversation` and `StandingCharge` are the stored form: their order is the format, and
docs/internals/state-format.md says how to add one.
"""
