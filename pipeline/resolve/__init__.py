"""What it means: decide which units to charge for a conversation, and when. Pure.

- `machine`: every rule that can change a decision (docs/reference/outcomes.md §3). `decide` is the
  definition: it decides a whole history under a timeline of policy versions, up to a time. `Fold` is
  the small state that `decide` runs on; a worker keeps a `Fold` for each conversation and applies one
  event at a time
- `trace`: the same decision step by step, for `resmeter explain`
- `policy`: the values that the rules read: one version of a policy, and a timeline of its versions.
  `catalog` reads policies from TOML

Property tests compare `Fold` with `decide`, and both with a second implementation in `tests/oracle`,
which was written from the reference and shares no rule with this package.

Invariants:

- A decision depends only on the history, the timeline and a time. The rules read no clock, random
  number, log or setting.
- The order in which events arrive does not matter; only their own times do.
- A conversation, or a segment of it, has at most one charge at a time. The sum of its units never
  falls below zero.
- Every transition names its evidence, the events that caused it.

This package does not know Kafka, arrival times, earlier usage records, or money. `usage` turns
transitions into records.

To change a rule, change `machine.py`, the reference and `tests/oracle/decide.py` in one commit, and
write the oracle from the reference. If the new rule would decide past events differently, add a
policy key instead.
"""
