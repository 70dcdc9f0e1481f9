"""What arrives: bytes of a Kafka record become an `Event` or a `Rejected`."""
