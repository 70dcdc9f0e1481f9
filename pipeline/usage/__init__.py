"""What is owed: turn decisions into usage records. Pure.

docs/reference/outcomes.md §4 defines the records.

- `conversation`: the state of one conversation. It receives events in order of arrival, settles
  silence by arrival time, and emits usage records: +1 to charge a unit, -1 to reverse it
- `history`: the events of a conversation as bytes
- `emission`: numbers the records, and chooses the charge that a reversal takes back
- `record`: the usage record and its JSON

Invariants:

- The emitted records add up to the decision, for any order of arrival and any size of batch.
- A record's id is its tenant, its conversation and a number from 1. Its content depends only on the
  log and the policies, so a replay gives the same bytes.
- Every -1 names the +1 that it takes back. Both have the same policy version, and so the same price.
- An event that arrives again changes nothing but the arrival time. A rejected event (`too_long`,
  `too_late`) changes nothing at all, and is returned to the caller.
- Sealing changes no decision: it drops a history that no later event can change.

This package does not read a topic or a clock, store anything, or know prices. The price of a unit
follows from the policy version that its record names.

The members of `Conversation` and `StandingCharge` are stored as arrays, so their order is part of
the format; docs/internals/state-format.md explains how to add a member.
"""
