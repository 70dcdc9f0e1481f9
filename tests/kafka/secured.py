"""Run a real broker that authenticates its clients, with one listener for each method."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.dev.broker import free_port, running_kafka
from tests.support.certificates import Authority

USER, PASSWORD = "meter", "hunter2-kafka"
KEY_PASSWORD = "hunter2-key"
_PLAIN = (
    f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
)
# Without a validator of signatures, the broker takes unsigned tokens.
_TOKENS = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class Secured(NamedTuple):
    """A broker, and the settings with which `resmeter` connects to each of its listeners."""

    plain: str  # address of the listener without authentication, for the tests themselves
    env: dict[str, dict[str, str]]  # settings by listener
    authority: Authority


@contextlib.contextmanager
def running_secured(folder: Path) -> Iterator[Secured]:
    """Run the broker for as long as the context is open."""
    authority = Authority(folder / "authority")
    certificate, key = authority.issue("broker")
    keystore = folder / "broker.pem"
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
    ours, our_key = authority.issue("meter", KEY_PASSWORD)
    ports = {name: free_port() for name in ("SASL_PLAINTEXT", "SASL_SSL", "SSL")}
    properties = {
        "listener.security.protocol.map": ",".join(
            f"{name}:{name}" for name in ("PLAINTEXT", *ports)
        )
        + ",CONTROLLER:PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.ca),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
    }
    for name in ("sasl_plaintext", "sasl_ssl"):
        properties[f"listener.name.{name}.plain.sasl.jaas.config"] = _PLAIN
        properties[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = _SCRAM
        properties[f"listener.name.{name}.oauthbearer.sasl.jaas.config"] = _TOKENS
    with running_kafka(folder / "kafka", properties=properties, more_listeners=ports) as broker:
        _create_scram_user(broker.bootstrap_servers)
        sasl = {"RESMETER_KAFKA__SASL_USERNAME": USER, "RESMETER_KAFKA__SASL_PASSWORD": PASSWORD}
        trust = {"RESMETER_KAFKA__SSL_CA_FILE": str(authority.ca)}
        credentials = {
            "SASL_PLAINTEXT": {**sasl, "RESMETER_KAFKA__SASL_MECHANISM": "PLAIN"},
            "SASL_SSL": {**sasl, **trust, "RESMETER_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512"},
            "SSL": {
                **trust,
                "RESMETER_KAFKA__SSL_CERT_FILE": str(ours),
                "RESMETER_KAFKA__SSL_KEY_FILE": str(our_key),
                "RESMETER_KAFKA__SSL_KEY_PASSWORD": KEY_PASSWORD,
            },
        }
        env = {
            name: {
                "RESMETER_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
                "RESMETER_KAFKA__SECURITY_PROTOCOL": name,
                **credentials[name],
            }
            for name, port in ports.items()
        }
        yield Secured(broker.bootstrap_servers, env, authority)


def _create_scram_user(servers: str) -> None:
    client = AdminClient({"bootstrap.servers": servers})
    credential = UserScramCredentialUpsertion(
        USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
    )
    for future in client.alter_user_scram_credentials([credential]).values():
        future.result()
