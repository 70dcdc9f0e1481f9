"""An emulator of the part of Stripe's billing API that resmeter calls, errors and limits included.

It has customers, meters, v1 meter events and their summaries, as Stripe's documentation and SDK
describe them (https://docs.stripe.com/api/billing/meter-event). Tests and the demo call it through
Stripe's own SDK. What resmeter relies on, and what can go wrong, is as at Stripe:

- An identifier counts once in 24 hours. Later, the same identifier counts again.
- A second call with the same `Idempotency-Key` gets the first response, also if that was an error.
- A 200 does not mean that usage counts: an unknown customer or meter is found later, without a
  response to anybody. `/_emulator/sums` shows such events as unvalidated.
- Timestamps reach 35 days into the past and 5 minutes into the future.
- Only one call at a time for a customer and meter (409), and a rate limit if you set one (429).
- Faults can be injected: errors, cut connections and responses of something that is not Stripe,
  before or after the event is counted.

The emulator's clock is its own; tests and the command line set it.

It has no invoices, prices, subscriptions, webhooks, meter event streams or adjustments, and no
accounts; it keeps nothing when the process ends. It checks the form of what resmeter sends, not
everything that Stripe checks.

`server` speaks HTTP, `control` is `/_emulator` for tests and people, and the rest is pure: `state`
and its parts take the time as an argument.
"""
