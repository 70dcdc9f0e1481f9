"""Read the past again: decide over files, explain a bill.

It does not: write to Kafka or the ledger.
"""
