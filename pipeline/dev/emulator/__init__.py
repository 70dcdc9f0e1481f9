"""A stand-in for the part of Stripe's billing API that resmeter calls, ugly parts included.

Customers, meters, v1 meter events and their summaries, as Stripe's documentation and SDK describe
them (https://docs.stripe.com/api/billing). Driven by the official SDK in tests and in the demo.

What holds:

- An identifier counts once for as long as it is remembered (24 hours); after that, it counts again.
- A second call with one `Idempotency-Key` gets the first answer back, whatever has happened since.
- A 200 does not mean recorded: an unknown customer or meter is found out later, and is kept aside.
- Time is the emulator's own, set by the test or the command line.

What it does not do: bill, invoice, keep anything beyond the process, or check what a real account
checks. `state` is pure, `server` speaks HTTP, and `/_emulator` is there for tests and people.
"""
