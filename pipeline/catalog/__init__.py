"""Who is billed, under which policy, at what price, and which producers may write events.

The catalog comes from files that an operator writes: the tenant file (`RESMETER_CONFIG`) and the
policy files that it names. docs/guide/configuration.md describes both.

- `tenants`: the tenant file, with each tenant's Stripe customer and policy, and each outcome's meter
- `policies`: policy files in TOML, their versions, and the presets that resmeter ships
- `producers`: which producers may write events, for which tenants, and where each secret is
- `prices`: the protocols through which the ledger and the sink use the catalog

Invariants:

- Reading returns the whole catalog, or reports the problems of all files together.
- A tenant without an entry has the default policy and no customer: its usage is parked, not lost.
- A unit has the price of the policy version that decided it. A new version changes no earlier bill.
- No message shows a secret.

This package does not decide what an event means (`resolve` applies a policy), store anything, or
notice that a file has changed: a process reads the catalog once, when it starts. The package may
import `kafka`, so that customers and prices can come from a topic later.
"""
