"""Kafka: connections, topics, readers, writers, and the headers that we write.

There are two Kafka clients. Commands and the sink use librdkafka (`confluent_kafka`); the worker
uses aiokafka, under Faust. docs/internals/decisions/0011-two-kafka-clients.md says why.

- `options`: translate the connection's settings into the options of each client
- `connect`: open a client of librdkafka, and distinguish rejecting from unreachable brokers
- `topics`: create the five topics and check them
- `single`: append to a topic with one partition, and read it
- `groups`: ask which processes are in a consumer group
- `reader`: read a topic from its beginning to its current end; read a consumer group's offsets
- `writer`: write records from a command
- `producing`: check, sign and write events from lines of JSON
- `headers`: every header named `resmeter-…`, and the format of dead letters

Invariants: a reader stops at the end that the topic had when the reader was opened, so it always
finishes. A writer's context raises an error unless every record was acknowledged. A dead letter
fits its topic, however large the record was. A wrong password or certificate is a
`ConfigurationError` that names the settings to check; an unreachable broker is an
`UnavailableError`. Neither message contains a secret.

This package does not join a consumer group or commit an offset (`stream` and `sink` do), and does
not decide what a record means.
"""
