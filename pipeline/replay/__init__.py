"""Read the past again: check the bill against the log, correct it, send dead letters again.

The log of events is the authority: everything else can be computed from it. So each operation here
starts from the events topic or the dead-letter topic and ends in a value that a face (the command
line, a console) shows:

    audit     recompute every decision and compare it with the ledger, the dead letters and Stripe
    rebill    plan what to correct in the ledger, and apply a plan
    redrive   send dead letters again that today's rules accept
    decide    decide over events in files, without Kafka

`partition`, `charges`, `comparison` and `corrections` are the pure part. `reading`, `deadletters`,
`audit`, `rebill` and `redrive` do the input and output around it.

Invariants:

1. A replay uses the stages `events`, `resolve` and `usage` alone, no code of worker or sink: a
   mistake in those is found, not repeated.
2. What a running worker may or may not have written yet is pending. It is never a finding.
3. What retention has deleted cannot be judged. It is counted, never guessed.
4. Memory holds one partition at a time.
5. Nothing is changed in place. A correction is a usage record of its own, which the sink stores and
   delivers as any other, and applying a plan twice has the effect of applying it once.
6. Operations take values and return values. They print nothing and never end the process; they
   report progress through `on_record`.

The package does not write to the ledger and does not call Stripe to bill: it writes to Kafka only
(corrections to the topic of usage records, redriven records to the events topic) and asks Stripe
only for sums.
"""
