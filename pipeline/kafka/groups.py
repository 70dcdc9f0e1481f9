"""Ask which processes are in a consumer group."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.config import KafkaSettings
from pipeline.errors import UnavailableError
from pipeline.kafka.connect import open_client, silent_options
from pipeline.kafka.options import librdkafka_options

_TIMEOUT_SECONDS = 10.0


def members_of(kafka: KafkaSettings, group: str) -> list[str]:
    """Return the hosts of the processes that are in a consumer group now.

    Raises:
        UnavailableError: no broker responds.
    """
    client = open_client(AdminClient, {**librdkafka_options(kafka), **silent_options()})
    futures = client.describe_consumer_groups([group], request_timeout=_TIMEOUT_SECONDS)
    try:
        described = futures[group].result()
    except KafkaException as error:
        raise UnavailableError(
            f"cannot ask Kafka at {kafka.bootstrap_servers} whether a sink runs: {error.args[0].str()}"
        ) from error
    return [str(member.host) for member in described.members]
