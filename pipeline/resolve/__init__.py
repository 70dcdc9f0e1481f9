"""What the events of a conversation mean: which outcomes it counts, and when. Pure.

`machine.py` has every rule that moves a decision, as docs/reference/outcomes.md §3 states them.
`decide` is the definition: a history, sorted, under a tenant's timeline of policy versions, up to a
time. `Fold` is the small state that it runs on; a worker keeps one for each conversation and applies
one event at a time. A property test holds the two together, and both to a second implementation in
`tests/oracle`, which shares no line with them.

`policy.py` has the values that the rules read: one version of a policy, and the versions by effective
date. Reading policies from TOML is the catalog's.

What always holds:

- a decision is a function of the history, the timeline and a time; nothing else is read: no clock, no
  random number, no log, no setting;
- the order in which events arrive does not matter, only their own times;
- a conversation counts at most one unit at a time, and its sum never falls below zero;
- every transition names the events that it rests on.

What it does not do: it knows nothing of Kafka, of arrival times, of what was emitted before, or of
money. `usage` turns transitions into records.

To change a rule: change `machine.py`, the reference, and `tests/oracle/decide.py`, written from
the reference, in one commit. A rule that decides the past differently needs a policy key instead.
"""
