"""What arrives: the record of a chat service becomes an `Event`, or a `Rejected`.

An event is a CloudEvent of one of fifteen types: JSON in the value (structured mode), or attributes
in the headers and `data` in the value (binary mode). docs/reference/outcomes.md §1 is the contract,
and `schemas/events` states it as JSON Schema.

- `model`: the values, the types, the limits
- `data`: what `data` has, for each type: the table that both readers work from
- `wire`: `read_event` for the value and headers, `check_record` for key and arrival, `read_record`
  for both. It reads the ordinary event fast
- `reader`: the authority. It reads whatever `wire` passes on, and explains what is wrong
- `signature`: which producer wrote a record, and for which tenants it may
- `times`: RFC 3339 text to milliseconds and back

Invariants: bad input is a value and nothing raises, whatever the bytes. Both readers accept the
same records and give the same event, in the same bytes once it is stored: a member that states its
default is stored like one that is left out. An `Event` has only what can affect a decision; no
message text goes further than this package.

It does not: decide what an event means (`resolve`), know which events came before, or know which
producers are configured (`catalog`). It reads no clock: the time of arrival is an argument.

To add a type: append it to `model.TYPES` with its constant, give it a class in `data`, write its
schema and its examples, then say in `resolve/machine.py` what it does.
"""
