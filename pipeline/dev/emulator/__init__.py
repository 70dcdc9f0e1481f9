"""An emulator of the part of Stripe's billing API that resmeter calls, with its errors and limits.

It has customers, meters, v1 meter events and their summaries, as Stripe's documentation and SDK
describe them (https://docs.stripe.com/api/billing/meter-event). Tests and the demo call it through
Stripe's own SDK. It behaves like Stripe where resmeter depends on it:

- An identifier counts once in 24 hours. After that, the same identifier counts again.
- A second call with the same `Idempotency-Key` gets the first response again, even an error.
- A 200 does not mean that the usage counts. Stripe finds an unknown customer or meter later, and
  no response reports it. `/_emulator/sums` shows such events as unvalidated.
- A timestamp may be at most 35 days in the past and 5 minutes in the future.
- A customer and meter take one call at a time (409). You can also set a rate limit (429).
- You can inject faults: errors, cut connections, and responses of something that is not Stripe, before
  or after the event is counted.

The emulator has its own clock, which tests and the command line can set.

The emulator has no invoices, prices, subscriptions, webhooks, meter event streams, adjustments or
accounts. It keeps nothing when the process ends, and does not check everything that Stripe checks.

`server` serves HTTP, and `control` serves `/_emulator` for tests and people. `clock` reads the host's
time. The other modules are pure: `state` and its parts take the time as an argument.
"""
