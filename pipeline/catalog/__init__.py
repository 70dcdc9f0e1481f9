"""Who is billed, under which policy, at what price, and which producers may write events.

All of it comes from files that an operator writes: the tenant file (`RESMETER_CONFIG`) and the
policy files that it names. docs/guide/configuration.md describes both.

- `tenants`: the tenant file. A tenant has a Stripe customer and a policy; an outcome has a meter
- `policies`: policy files in TOML, their versions, and the presets that are shipped
- `producers`: who may write events, for which tenants, and where each secret is
- `prices`: what the stages that bill ask of the catalog, as a protocol

Invariants: reading reports every problem of every file at once, and never half a catalog. A tenant
without an entry has the default policy and no customer: its usage is parked, not lost. The price of
a unit is that of the policy version that decided it, so a new version changes no earlier bill. No
message shows a secret.

It does not: decide what an event means (`resolve` applies a policy), store anything, or notice that
a file has changed: a process reads the catalog once, when it starts. Customers and prices may later
come from a topic as well, so this package may import `kafka`.
"""
