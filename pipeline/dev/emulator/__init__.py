"""An emulator of the part of Stripe's billing API that resmeter calls, with its errors and limits.

Tests and the demo call it through Stripe's own SDK. `docs/reference/emulator.md` says what it has, what
it does not have, and where Stripe says nothing. Each module names the pages that it follows.

::

    server    HTTP: the key, the rate limit, faults      control   /_emulator, for tests and people
    backend   the accounts, the clock, the file          history   the file       clock   the host's time
    routes    which path calls what                      state     all objects, and what time does to them
    customers, meters, meter_events, products, prices, subscriptions, invoices, invoice_items, lines,
    credit_notes, credit_grants
              one module for each kind of object; `objects` keeps and pages them, `money` rounds,
              `periods` steps, `remembered` forgets after a day, `params` reads parameters

From `routes` down everything is pure: the time is an argument, and the same calls at the same times give
the same ids and answers. That is how `history` restores a state.
"""
