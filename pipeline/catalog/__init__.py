"""Who is billed, under which policy and contract, and which producers may write events.

The catalog is a log of entries in a Kafka topic; docs/operate/catalog.md describes it. Its input are
files that an operator writes: the tenant file (`RESMETER_CONFIG`) and the policy files that it names.

- `log`: which entries are valid, and what they add up to; `entry` has one, `value` all of them
  `account_log` is the log's part for accounts and contracts, `dated` what the parts share
- `planning`: what files would change in the catalog: `declared` is what they say, `assignments`
  compares dates, `account_plan` has accounts and contracts, `charges` what each tenant is charged
- `topic`: reading and writing the topic; `exported`: entries in a file
- `tenants`: the tenant file, and the catalog as processes use it
  `account_tables` reads its accounts, `named_files` the files that it names
- `contracts`: contract files in TOML; `accounts`: an account with its contract, as a bill needs it
- `policies`: policy files in TOML, their versions, and the presets that resmeter ships
- `producers`: which producers may write events, for which tenants, and where each secret is
- `prices`: the protocols through which the ledger and the sink use the catalog

Invariants:

- Every reader of the log has the same catalog. What has been in force never changes.
- Reading files returns everything in them, or reports the problems of all files together.
- A tenant without an entry has the default policy and no customer: its usage is parked, not lost.
- A unit has the price of the policy version that decided it. A new version changes no earlier bill.
- No message shows a secret.

This package does not decide what an event means (`resolve` applies a policy), or when a process
follows a new entry (`stream.following`, `sink.following`).
"""
