"""On a real broker, a worker that lost its partitions can write no state to them."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from pipeline.config import KafkaSettings, Settings, TopicSettings, WorkerSettings
from pipeline.dev.broker import free_port, running_kafka
from pipeline.dev.process import Process
from pipeline.errors import FencedError
from pipeline.stream.outputs import Outputs
from tests.kafka.compaction import SOON, compact
from tests.kafka.run import Run, decided, net, running, wait_until
from tests.support.events import AT, KEY, event, resolved

pytestmark = pytest.mark.xdist_group("compacting")  # one process starts the broker
USER = "meter"
RETURNED = event("m3", at=AT + 60_000, intent="human_request")


@pytest.fixture(scope="module")
def compacting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_kafka(tmp_path_factory.mktemp("kafka"), properties=SOON) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def run(compacting: str, tmp_path: Path) -> Iterator[Run]:
    with running(compacting, tmp_path) as run:
        yield run


def test_an_older_state_that_a_paused_worker_writes_last_bills_no_returned_customer(
    run: Run,
) -> None:
    zombie, owner = _zombie_and_owner(run)
    before = _states(run)
    zombie.resume()
    wait_until(
        lambda: zombie.status is not None or _states(run) > before, "the paused worker has tried"
    )
    zombie.kill()
    owner.stop()
    compact(run)
    run.produce([(KEY, RETURNED, AT + 60_000)])

    run.until_decided(run.start("worker"), 4)

    assert net(run.usage_records().values()) == _decided(run) == {}


def test_a_paused_worker_ends_at_its_first_write_and_says_that_another_owns_the_partition(
    run: Run,
) -> None:
    zombie, owner = _zombie_and_owner(run)
    before = _states(run)
    zombie.resume()

    assert zombie.wait(60) == 1
    assert '"event": "worker_fenced"' in zombie.log()
    assert f"another worker owns {run.env['RESMETER_TOPICS__CHANGELOG']}[" in zombie.log()
    assert _states(run) == before
    run.produce([(KEY, RETURNED, AT + 60_000)])
    run.until_decided(owner, 4)
    assert net(run.usage_records().values()) == _decided(run)


async def test_only_the_last_to_fence_a_partition_can_write_to_it(run: Run) -> None:
    async with _writing(run) as first, _writing(run) as second:
        fence = await first.fence(0)
        assert await first.write_states(0, [(KEY, b"1")] * 3) == range(fence.stop, fence.stop + 3)

        await second.fence(0)
        with pytest.raises(FencedError, match="another worker owns"):
            await first.write_states(0, [(KEY, b"old")])
        with pytest.raises(FencedError, match="another worker owns"):
            await first.read_clock(0, b"")
        await second.write_states(0, [(KEY, b"2")])
        await first.fence(1)
        await first.write_states(1, [(KEY, b"3")])

    written = [(m.partition, m.value) for m in run.messages("CHANGELOG") if m.key == KEY]
    assert written == [(0, b"1")] * 3 + [(0, b"2"), (1, b"3")]


async def test_an_epoch_that_is_taken_and_not_used_fences_nobody(run: Run) -> None:
    async with _writing(run) as owner, _writing(run) as other:
        await owner.fence(0)
        await owner.renew_fence(0)
        await other.fence(1)
        await owner.renew_fence(0)

        await owner.write_states(0, [(KEY, b"1")])
        await other.fence(0)
        with pytest.raises(FencedError):
            await owner.write_states(0, [(KEY, b"old")])


@contextlib.asynccontextmanager
async def _writing(run: Run) -> AsyncIterator[Outputs]:
    """Yield what one worker of a run writes to."""
    names = ("changelog", "records", "dead_letters")
    outputs = Outputs(
        Settings(
            kafka=KafkaSettings(bootstrap_servers=run.servers),
            topics=TopicSettings(
                **{name: run.env[f"RESMETER_TOPICS__{name.upper()}"] for name in names}
            ),
            worker=WorkerSettings(group=run.env["RESMETER_WORKER__GROUP"]),
        )
    )
    await outputs.start()
    try:
        yield outputs
    finally:
        await outputs.stop()


def test_missing_rights_on_transactional_ids_are_named_before_a_worker_starts(
    tmp_path: Path,
) -> None:
    port = free_port()
    properties = {
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{USER}";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }
    with (
        running_kafka(
            tmp_path / "kafka", properties=properties, more_listeners={"SASL_PLAINTEXT": port}
        ) as broker,
        running(broker.bootstrap_servers, tmp_path) as run,
    ):
        prefix = run.env["RESMETER_WORKER__GROUP"] + "-"
        _allow(run, prefix, "somebody-else")
        run.env |= {
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
            "RESMETER_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "RESMETER_KAFKA__SASL_MECHANISM": "PLAIN",
            "RESMETER_KAFKA__SASL_USERNAME": USER,
            "RESMETER_KAFKA__SASL_PASSWORD": USER,
        }
        run.produce(resolved("c1"))

        for command in (["worker"], ["check"], ["topics", "check"]):
            result = run.resmeter(*command)

            assert result.returncode == 2, command
            said = " ".join(result.stderr.split())  # lines are wrapped on a narrow terminal
            assert f"--transactional-id {prefix} --resource-pattern-type prefixed" in said
            assert "Traceback" not in result.stderr
        _allow(run, prefix, USER)
        assert run.resmeter("topics", "check").returncode == 0
        run.until_decided(run.start("worker"), 3)


def _allow(run: Run, prefix: str, user: str) -> None:
    """Allow a user what a worker needs; as soon as one user is allowed something, others are not."""
    bindings = [
        AclBinding(
            ResourceType.TRANSACTIONAL_ID,
            prefix,
            ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for operation in (AclOperation.DESCRIBE, AclOperation.WRITE)
    ]
    admin = AdminClient({"bootstrap.servers": run.servers})
    for future in admin.create_acls(bindings).values():
        future.result()


def _zombie_and_owner(run: Run) -> tuple[Process, Process]:
    """Return a worker that is frozen before it writes a state, and one that wrote a newer one."""
    messages = resolved("c1")
    run.produce(messages[:2])
    zombie = run.start("worker", mode="stop before states 1")
    state = psutil.Process(zombie.pid)
    wait_until(lambda: state.status() == psutil.STATUS_STOPPED, "the worker is frozen")
    run.produce(messages[2:])
    owner = run.start("worker")
    run.until_decided(owner, 3)
    assert net(run.usage_records().values()) == {("acme", "c1"): {"resolution": 1}}
    return zombie, owner


def _states(run: Run) -> int:
    """Return how many versions of the conversation's state the changelog has."""
    return sum(message.key == KEY for message in run.messages("CHANGELOG"))


def _decided(run: Run) -> dict[tuple[str, str], dict[str, int]]:
    """Return what the events bill by the rules alone."""
    file = run.folder / "events.ndjson"
    file.write_bytes(b"\n".join([*(value or b"" for _, value, _ in resolved("c1")), RETURNED]))
    return decided(run.done("decide", str(file), "--as-of", "2030-01-01T00:00:00Z").encode())
