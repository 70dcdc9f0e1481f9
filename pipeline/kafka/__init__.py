"""The broker: how we connect to Kafka, which topics there are, and the headers that we write.

Two clients speak to Kafka. Commands and the sink use librdkafka (`confluent_kafka`); the worker
uses aiokafka, under Faust. docs/internals/decisions says why there are two.

- `options`: the settings of a connection, in neutral form and in the form of each client
- `connect`: open a client of librdkafka, and tell a broker that rejects us from one that is away
- `topics`: create the four topics, and check that they are as required
- `reader`: read a topic from its beginning to its present end; the offsets of a consumer group
- `writer`: write records from a command
- `headers`: every header named `resmeter-…`, and the format of dead letters

Invariants: a read ends at the end that the topic had when it began, so it always ends. A writer
leaves its context only when every record is acknowledged. A dead letter fits its topic, however
large the record was. A wrong password or certificate is a `ConfigurationError` that names the
settings to check; a broker that does not answer is an `UnavailableError`. Neither shows a secret.

It does not: join a consumer group or commit an offset (`stream` and `sink` do), decide what a
record means, or create topics unless `resmeter topics create` asks for it.
"""
