"""Read the log again: check the bill, correct it, and send dead letters again.

The log of events is the authority: everything else can be computed from it. So each operation here
reads the events topic, the dead-letter topic or a file of events, and returns a value that the
command line, or another program, can show:

    audit     recompute every decision and compare it with the ledger, the dead letters and Stripe
    rebill    plan what to correct in the ledger, and apply a plan
    redrive   send dead letters again that today's rules accept
    decide    decide over events in files, without Kafka
    lookup    find one conversation in the log or in files; `why_not` says why it has no charge

`partition`, `charges`, `comparison`, `corrections`, `why_not` and `effects` are the pure part.
`reading`, `deadletters`, `audit`, `rebill`, `redrive` and `lookup` do the input and output around it.

Invariants:

1. Decisions come from the stages `events`, `resolve` and `usage` alone, with no code of the worker
   or the sink. So a replay finds their mistakes instead of repeating them.
2. A usage record that a running worker may not have written yet is optional, never a finding:
   its conversation counts as open.
3. A conversation that cannot be judged, because retention has deleted the evidence, is counted as
   unjudged. The replay does not guess.
4. Memory holds the conversations of one partition at a time.
5. Nothing is changed in place. A correction is a usage record, which the sink stores and delivers
   like any other. Applying a plan twice has the same effect as applying it once.
6. Operations take values and return values. They print nothing and never end the process; they
   report progress through `on_record`.

The package does not write to the ledger and bills nothing at Stripe. It writes to Kafka only
(corrections to the topic of usage records, redriven records to the events topic), and asks Stripe
only for sums.
"""
