"""resmeter: from conversation events in Kafka to usage billed in Stripe.

::

    events ──▶ resolve ──▶ usage           pure: what arrived, what it means, what is owed
      └────────── stream (worker) ──▶ Kafka: usage.records ──▶ sink ──▶ ledger, Stripe

    kafka     the broker: options, topics, readers, writers, headers
    catalog   who is billed, under which policy, at what price
    replay    read the log again: decide, audit, rebill, redrive
    cli       one file for each command: options, one call; `views` renders the result
    dev       the demo, a Kafka from Python wheels, an emulator of Stripe

Where to start
    1. `events/model.py`, `resolve/machine.py`, `usage/record.py`: from an event to usage.
    2. `stream/__init__.py` and `stream/partition.py`: the batch, its effects and their order.
    3. `sink/__init__.py` and `sink/dispatcher.py`: how a unit reaches Stripe, and only once.
    4. `docs/internals/architecture.md`: why it is built so. `CONTRIBUTING.md`: how to work on it.

How to change
    a rule            `resolve/machine.py`, `docs/reference/outcomes.md` and `tests/oracle`, together.
    an event type     `events/model.py` (at the end: the position is the rank), `events/data.py`,
                      `schemas/`, `resolve/machine.py`, the reference.
    a value of an     `events/model.py` (`Cause`, `Channel`, `Intent`, ...), its JSON Schema, the rule that
    attribute         reads it. A new handoff cause needs no rule: a policy bills it by listing it.
    a dead-letter     `Reason` in `events/model.py`, the check that returns it (a reader, or
    reason            `stream/partition.py` where only the state can tell), the reference §1.4.
    a policy key      `resolve/policy.py`, the table of keys in `catalog/policies.py`, the presets, the
                      rule that reads it, the reference §2.1.
    a biller          `sink/<name>/` with what `sink/stripe/` has: a `Meter`, its responses, its account
                      check, its sums; then the composition in `sink/service.py`.
    what is stored    `docs/internals/state-format.md` first. Ids and encodings (`usage/record.py`,
                      `stream/state.py`, `sink/stripe/meter.py`) never change alone: a replay must give
                      the same bytes, and `tests/golden` holds them.

Words. One word for one idea, in code, topics, metrics and docs.
    altered           a meter event whose content is not the one that was planned; it is not sent.
    answer            what the AI said. The standing answer is the one that silence would charge.
    arrival           a record's Kafka timestamp; it decides when resmeter can know, never what is owed.
    back-pressure     a worker stops fetching while too many batches wait for acknowledgements.
    catalog           tenants, producers, policies and prices, as an operator wrote them.
    charge            a unit that stands: a usage record of +1 that no later -1 has taken back.
    checkpoint        a partition's committed offset; never beyond what was acknowledged.
    conversation      what one customer and the AI talked about; `subject` of its events.
    correction        a usage record that a late event or a rebill plan adds (`late_event`, `rebill`).
    dead letter       an event or record that was rejected, with the reason, in a topic of its own.
    delivery          a meter event on its way to Stripe: planned, sent, delivered or rejected; netted.
    due               `due_event_ms`: silence is complete, in event time. `due_arrival_ms`: it is settled.
    event             one thing that happened in a conversation, as a chat service reports it.
    foreign           a response that is not Stripe's answer to the call, but a proxy's or another's.
    grace period      how long after its window a worker waits for events that arrive late.
    grouping          usage records of one tenant, outcome and hour, joined into one meter event.
    idempotency key   a meter event's identifier: a digest of its records, fixed before the first call.
    kind              why a unit is charged: confirmed, assumed, handoff or reported.
    lease             a sink's exclusive hold on a meter event while it calls Stripe; it expires.
    ledger            the database of what is owed and how it was billed; the authority on both.
    meter event       what Stripe receives: a quantity for a customer, a meter and an hour.
    outcome           what is billed: `resolution`, `procedure_handoff`, or a reported outcome.
    parked            owed, but the tenant has no Stripe customer yet.
    policy            the rules and prices of a tenant, in versions with effective dates.
    quarantine        unreadable or contradictory usage records are stored apart and raise an alarm.
    rejected          input that breaks the contract; a meter event that Stripe will never accept.
    replay            read a stretch of the log again; a rebill plan is what the replay would change.
    reversal          a usage record of -1; it names the charge that it takes back.
    seal              drop the history of a quiet conversation and keep its decision.
    settle            charge an answer whose window and grace period have passed in silence.
    state             a conversation as the changelog topic stores it.
    supervisor        a process that runs several worker processes as one.
    tenant            our customer, who is billed: a workspace.
    throttled         Stripe responded 409 or 429: the call did not count, and the sink retries it.
                      Metrics and the ledger say `refused`, also for unreached.
    timeline          the versions of a tenant's policy by effective date.
    transition        one step of a decision: +1 or -1, with its reason and evidence.
    uncertain         a meter event that Stripe may have counted, and forgotten; it is not sent again.
    unreached         no connection to Stripe was made: the call did not count, and is retried.
    usage record      one unit owed or taken back, as the worker writes it to `usage.records`.
    watermark         a time up to which a partition has been read completely; timers wait for it.
"""

__version__ = "0.1.0"
