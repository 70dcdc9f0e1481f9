"""What arrives: read a chat service's record as an `Event`, or as a `Rejected`.

An event is a CloudEvent of one of fifteen types. In structured mode the value is the whole event as
JSON; in binary mode the headers have the attributes and the value is `data`.
docs/reference/outcomes.md §1 is the contract, and `schemas/events` states it as JSON Schema.

- `model`: the values, the types and the limits
- `data`: the members of `data` for each type; both readers use this table
- `wire`: the fast reader for ordinary events. `read_event` reads the value and the headers,
  `check_record` checks the key and the arrival, `read_record` does both
- `reader`: the authority. It reads all other events, and explains each rejection
- `signature`: which producer wrote a record, and for which tenants that producer may write
- `times`: RFC 3339 text to milliseconds and back

Invariants: no input raises; bad input gives a `Rejected`. Both readers accept the same records and
give the same event. They also give the same stored bytes: a member that states its default is
stored like a member that is left out. An `Event` has only what can affect a decision, so message
texts go no further than this package.

This package does not decide what an event means (`resolve`), know the earlier events, or know which
producers are configured (`catalog`). It reads no clock: the time of arrival is an argument.

To add a type: append it to `model.TYPES` with its constant, add its class to `data`, write its
schema and its examples, then implement its rule in `resolve/machine.py`. CONTRIBUTING.md
lists every step.
"""
