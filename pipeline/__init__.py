"""resmeter: from conversation events in Kafka to usage billed in Stripe.

::

    events ──▶ resolve ──▶ usage           pure: what arrived, what it means, what is owed
      └────────── stream (worker) ──▶ Kafka: usage.records ──▶ sink ──▶ ledger, Stripe

    kafka     the broker: options, topics, readers, writers, headers
    billing   what an account owes for a period: contract, units, statement; pure
    catalog   who is billed, under which policy, at what price
    replay    read the log again: decide, audit, rebill, redrive
    cli       one file for each command: options, one call; `views` renders the result
    dev       the demo, a Kafka from Python wheels, an emulator of Stripe

    `settings` defines every setting and `config` reads them. `metrics`, `logs`, `http` and `errors`
    serve all processes. `supervisor` runs several worker processes as one.

Where to start
    1. `events/model.py`, `resolve/machine.py`, `usage/record.py`: from an event to usage.
    2. `stream/__init__.py` and `stream/partition.py`: the batch, its effects and their order.
    3. `sink/__init__.py` and `sink/dispatcher.py`: how a unit reaches Stripe, and only once.
    4. `docs/internals/architecture.md`: why it is built this way.

How to change. `CONTRIBUTING.md` has every step; "reference" is `docs/reference/outcomes.md`.
    a rule            `resolve/machine.py`, the reference and `tests/oracle`, together.
    an event type     `events/model.py` (at the end: the position is the rank), `events/data.py`,
                      `schemas/events`, `resolve/machine.py`, reference §1.3, a form bit.
    a handoff cause   `Cause` in `events/model.py`, `schemas/events`, reference §1.3, its words on a
                      receipt (`ledger/receipt.py`), a form bit. It needs no rule: a policy bills the
                      cause if `handoff_causes_billed` lists it.
    another value     `Channel`, `Intent`, ... in `events/model.py`, `schemas/events`, reference §1.2
    of an attribute   or §1.3, the rule that reads it, a form bit.
    a dead-letter     `Reason` in `events/model.py`, and the check that returns it:
    reason              of the event alone             `events/reader.py`
                        of the record's key or time    `check_record` in `events/wire.py`
                        of the signature               `events/signature.py`
                        of the conversation            `usage/conversation.py`; the worker and the
                                                       replay each reject what it returns:
                                                       `stream/partition.py`, `replay/partition.py`
                      Then reference §1.4, `docs/reference/dead-letter-format.md`, `schemas/`.
    a policy key      `resolve/policy.py`, the table of keys in `catalog/policies.py`, the presets, the
                      rule that reads it, reference §2.1.
    a contract key    `billing/contract.py`, the table of keys in `catalog/contracts.py`, the rule that
                      reads it, `docs/reference/money.md` §2.1.
    a biller          `sink/<name>/` with what `sink/stripe/` has: a `Meter` (`sink/meter.py`), its
                      responses, its account check, its sums. Then what calls `sink.stripe`:
                      `sink/service.py`, `cli/check.py`, `replay/audit.py`. Then `settings.py`, and the
                      customers and meters in `catalog/tenants.py`.
    what is stored    `docs/internals/state-format.md` first; its §9 explains form bits. Ids and
                      encodings (`usage/record.py`, `stream/state.py`, `sink/stripe/meter.py`) never
                      change alone: a replay must give the same bytes, and `tests/golden` holds them.

Words. One word for one idea, in code, topics, metrics and docs.
    account           who is billed: one customer with one contract, and one or more tenants.
    acknowledge       Kafka confirms a write. An operator confirms that lost events are known: the
                      alarm ends, and nothing else changes.
    adjusted          a line of a statement: what changed in an earlier period since its statement.
    adopt             a ledger takes a meter event of another run from the journal.
    altered           a meter event that somebody changed in the ledger; it is not sent.
    amendment         what a rebill plan puts in the place of what was in force. Workers do not follow it.
    answer            what the AI said. The standing answer is the one that silence would charge.
    approval          what a person says about an adjustment or unmatched reversals, before a close.
    arrival           a record's Kafka timestamp; it decides when silence is settled, and when to seal.
    back-pressure     the worker stops fetching while too many batches wait for acknowledgements.
    approve           a person says that an adjustment, or a reversal whose charge is not known, is right.
                      The opposite is to reject: the adjustment is stated, and waived.
    anchor            of a policy: the time from which silence is measured. Of a contract: the time from
                      which its periods are counted.
    basis             what the states of a partition were made from: the topic's id, its number of
                      partitions, the lost events that nobody has acknowledged, and the catalog's entry. (In a plan file,
                      `basis` is a digest of the ledger's records.)
    carried           what a statement leaves below zero; the next statement begins with it. Of a pending
                      reversal: it waits for later usage of its period.
    catalog           who is billed, under which policy, from when, and which producers may write: a
                      log of entries in a topic.
    charge            a unit that is owed now: a usage record of +1 that no -1 has taken back.
    close             end a period for good: its statement is final, and what is stored later is on
                      a later one. A closing is the journal's entry that does so.
    contract          what an outcome costs an account, in versions with effective dates.
    conversation      what one customer and the AI talked about; `subject` of its events.
    correction        a usage record that a late event or a rebill plan adds (`late_event`, `rebill`).
    credit            money that pays for metered units; a grant.
    credit note       gives back what is carried, on an earlier invoice; a grant.
    damaged           a batch of the log whose bytes changed on the broker's disk; its partition stops.
    dead letter       an event or record that was rejected, with the reason, in a topic of its own.
    delivery          a meter event on its way to Stripe: planned, sent, then delivered or rejected.
                      If its records cancel out, it is netted: nothing is sent.
    done-offset       where a partition's acknowledged batches end; no commit goes beyond it.
    digest            what names an entry of the catalog: a checksum of its bytes. The next entry has it.
    draft             an invoice that is not final; it takes items.
    due               `due_event_ms`: when silence is complete, in event time.
                      `due_arrival_ms`: when a worker settles it, in arrival time.
    entry             what one publication adds to the catalog. Void: it changes nothing, for ever.
    event             one thing that happened in a conversation, as a chat service reports it.
    epoch             counts the owners of a partition of the changelog; Kafka accepts the newest only.
    fence             keep earlier owners of a partition from writing to its changelog, with an epoch.
    fold              the small state that the rules run on; a conversation keeps one.
    foreign           a response from something other than Stripe, such as a proxy. The call may have
                      counted; the sink retries it.
    form bit          a bit of a stored state that makes a version refuse what it cannot read.
    grace period      how long after its window a worker waits for events that arrive late.
    grant             what an account has in advance, a pack or a credit. A void ends it.
    grouping          usage records of one tenant, outcome and hour, joined into one meter event.
    held              pending, and not for the meter: included, in a pack, over a cap that stops, or at
                      another price than the subscription's. The invoice has what it costs.
    halt              the sink stops calling Stripe until a restart: Stripe does not accept the key, or
                      rejected too many meter events in a row. If these are of one customer, only
                      that customer halts, until an operator has decided about them.
    hold              the sink delivers nothing because its ledger is outdated and there is no journal
                      yet, until an operator resumes. Of a draft: Stripe does not make it final by itself.
    idempotency key   a meter event's identifier: a digest of its records, fixed before the first call.
    journal           the topic in which sinks write what they are about to send. Its order decides.
    kind              why a unit is charged: confirmed, assumed, handoff or reported.
    late              of a record: stored at its period's close or later.
    lead              how long before its date an entry must be in the catalog: seven minutes.
    lease             a sink's exclusive right to call Stripe for a meter event; it expires.
    ledger            the database of what is owed and how it was billed; the authority on both.
    lost              events that Kafka deleted before a worker read them.
    meter event       what Stripe receives: a quantity for a customer, a meter and an hour.
    metered           of a unit: charged at a price, and not included, in a pack or over the cap.
    missed            of an invoice: it became final without all that belongs on it.
    open              a conversation with an answer whose silence is not settled yet. Also a dead letter
                      that nobody has dealt with, and a period that is not closed.
    outcome           what is billed: `resolution`, `procedure_handoff`, or a reported outcome.
    pack              units bought in advance; a grant.
    parked            owed, but the tenant has no Stripe customer yet.
    pending           of usage: owed, and not at Stripe yet.
    period            a month of an account, from its anchor; named after the date on which it begins.
    policy            the rules and prices of a tenant, in versions with effective dates.
    quarantine        store unreadable or contradictory usage records apart, and raise an alarm.
    rejected          input that breaks the contract; also a meter event that Stripe never accepts.
    release           an operator has the units of a meter event sent again, under an identifier that
                      names the old one.
    reckon            say what covers each unit of a period, and what that costs.
    replay            read the log and decide again; a rebill plan lists what that would change.
    restart           of usage records: their offsets begin again, in a topic made again or a partition cut.
    reversal          a usage record of -1; it names the charge that it takes back.
    rules             of a due time: what its policy version says about silence, with a checksum. A state
                      stores them; a worker does not start if its files have other rules.
    run               one life of a sink process, as it signs its entries in the journal.
    seal              drop the history of a quiet conversation and keep its decision.
    settle            charge an answer whose window and grace period have passed in silence. An operator
                      settles a meter event: its units count as billed, and it is not sent.
    state             a conversation as the changelog topic stores it.
    stated            of usage: on a final statement, and in no meter event. Nothing is sent for it.
    statement         what an account owes for a period, line by line; final once the period is closed.
    step over         an operator gives up damaged records, so that their partition continues after them.
    supervisor        a process that runs several worker processes as one.
    tenant            our customer, who is billed: a workspace.
    throttled         Stripe responded 409 or 429: the call did not count, and the sink retries it.
                      Metrics and the ledger call throttled and unreached calls `refused`.
    timeline          the versions of a tenant's policy by effective date.
    transition        one step of a decision: +1 or -1, with its reason and evidence.
    uncertain         a meter event that Stripe may have counted and may have forgotten: sending it
                      could bill twice, so it waits until an operator releases or settles it.
    unreached         no connection to Stripe was made: the call did not count; the sink retries it.
    unit              of usage: a charge, with the reversal that takes it back, if there is one.
    unmatched         of a reversal: its charge is not known.
    unpriced          of a unit: nothing says its price. It is not billed.
    usage record      one unit owed or taken back, as the worker writes it to `usage.records`.
    vouch             say in the journal that no call for a meter event counted before.
    waived            a line of a statement: the opposite of an adjustment that a person rejected.
    watermark         a time up to which a partition has been read completely; timers wait for it.
"""

__version__ = "0.1.0"
