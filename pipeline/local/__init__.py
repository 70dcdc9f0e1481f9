"""What the demo, the tests and a developer's day run on this machine.

A real Kafka out of wheels, and child processes that do not outlive us. It does not serve
production: one node, one copy of everything.
"""
