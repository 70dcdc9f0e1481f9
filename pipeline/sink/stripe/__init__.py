"""Bill through Stripe's meters. Only this package imports `stripe`.

`client` makes the SDK's client from the settings, `transport` lets only Stripe's own responses
through, `meter` delivers events, `responses` decides the result of a call, `fitness` compares a
meter with what it is sent, `account` checks key, meters, customers and prices, `reconcile` compares
Stripe's sums with the ledger's. `wanted` says what Stripe must have for the catalog's prices, `setup`
creates it, `subscribed` reads the subscriptions, and `billed` compares them. `invoices` reads drafts and
completes them.

Stripe's rules, and what follows from them in the rest of the sink:

- A timestamp may be 35 calendar days old and 5 minutes ahead. Stripe rejects older usage for good;
  an event ahead of our clock waits in the ledger.
- A value is sent as a string of digits: the SDK would write a small float as 1e-05.
- An identifier of up to 100 characters counts once within at least 24 hours. After 23 hours the sink
  does not repeat a call that may have been counted: it reports the event as uncertain.
- For 24 hours the same idempotency key returns the first response, even if that was a failure. After
  a replayed failure, the next attempt has a new key and the same identifier.
- A second call in flight for the same customer and meter gets a 409. So the dispatcher makes one
  call at a time for each pair, and the planner adds up the usage of each hour first.
- A negative total bills 0, and the rest of the credit is lost. So the sink sends no negative value.
- Only sums can be read back, for whole minutes and with a delay.
- The SDK never retries a 429 and knows nothing of the ledger. So its retries are off, and the
  dispatcher retries.

Sources: https://docs.stripe.com/api/billing/meter-event and /meter-event-summary,
https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api,
https://docs.stripe.com/api/idempotent_requests.

This package does not correct or cancel what was sent, read invoices, or use /v2.
"""
