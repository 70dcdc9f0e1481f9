"""A real Kafka out of wheels: for the demo, the tests and a developer's day.

It does not: serve production. One node, one copy of everything.
"""
