"""Check that a worker may fence the partitions of its changelog."""

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.config import Settings
from pipeline.kafka.connect import open_client, silent_options
from pipeline.kafka.options import librdkafka_options

_TIMEOUT_SECONDS = 10.0
_RIGHTS = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def transactional_id(group: str, partition: int) -> str:
    """Return the transactional id under which the owner of a partition writes its states."""
    return f"{group}-{partition}"


def rights_problem(name: str) -> str:
    """Return what to do if the brokers do not let a worker use a transactional id."""
    prefix = name.rpartition("-")[0] + "-"
    return (
        f"the brokers do not let this user write as the transactional id {name}: a worker cannot "
        "keep a worker that it replaced from writing old states. Allow Describe and Write on the "
        f"transactional ids that begin with {prefix}: kafka-acls.sh --add --allow-principal "
        f"User:… --operation Describe --operation Write --transactional-id {prefix} "
        "--resource-pattern-type prefixed"
    )


def fence_problems(settings: Settings) -> list[str]:
    """Return why a worker could not fence its partitions; each with what to do.

    The check takes an id of its own, `<group>-check`, so that no running worker is concerned.
    """
    name = f"{settings.worker.group}-check"
    producer = open_client(
        Producer,
        {**librdkafka_options(settings.kafka), "transactional.id": name, **silent_options()},
    )
    try:
        producer.init_transactions(_TIMEOUT_SECONDS)
    except KafkaException as raised:
        error = raised.args[0]
        if error.code() == _RIGHTS:
            return [rights_problem(name)]
        return [
            (
                f"the brokers give no producer id to {name}: {error.str()}. A worker needs one for "
                "each partition. Kafka keeps them in __transaction_state: with fewer than 3 brokers, "
                "set transaction.state.log.replication.factor and transaction.state.log.min.isr to 1"
            )
        ]
    return []
