"""The private hooks of Faust and aiokafka exist as `faust_runtime` expects them."""

import inspect
import os
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import aiokafka
import aiokafka.consumer.consumer
import aiokafka.consumer.fetcher
import faust
import faust.app.base
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import ConsumerThread
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from pipeline.dev import process
from pipeline.errors import ConfigurationError
from pipeline.stream import faust_runtime, record_format
from pipeline.stream.faust_runtime import FaustConsumer
from pipeline.stream.versions import VERSIONS, check_versions

ROOT = Path(__file__).resolve().parents[3]

# The methods that we replace, with their parameters.
REPLACED: list[tuple[type, str, list[str]]] = [
    (Consumer, "_drain_messages", ["self", "fetcher"]),
    (Consumer, "_new_offset", ["self", "tp"]),
    (Consumer, "_filter_tps_with_pending_acks", ["self", "topics"]),
    (Consumer, "on_partitions_revoked", ["self", "revoked"]),
    (Consumer, "highwaters", ["self", "partitions"]),
    (Consumer, "verify_all_partitions_active", ["self"]),
    (Consumer, "_new_consumer_thread", ["self"]),
    (AIOKafkaConsumerThread, "_create_worker_consumer", ["self", "transport"]),
    (faust.App, "_new_transport", ["self"]),
    (faust.App, "_on_partitions_assigned", ["self", "assigned", "generation_id"]),
    (faust.App, "on_rebalance_end", ["self"]),
    (PartitionRecords, "_unpack_records", ["self"]),
    (PartitionRecords, "_consumer_record", ["self", "tp", "record"]),
]
# The methods that we call, with their parameters.
CALLED: list[tuple[type, str, list[str]]] = [
    (Consumer, "_wait_next_records", ["self", "timeout"]),
    (Consumer, "_commit", ["self", "offsets"]),  # where `make proof` kills a worker
    (Consumer, "stop_flow", ["self"]),
    (Consumer, "position", ["self", "tp"]),
    (Consumer, "highwater", ["self", "tp"]),
    (AIOKafkaConsumerThread, "_ensure_consumer", ["self"]),
    (ConsumerThread, "call_thread", ["self", "fun", "args", "kwargs"]),
    (Recovery, "need_recovery", ["self"]),
    (TopicPartitionState, "consumed_to", ["self", "position"]),
    (
        BatchBuilder,
        "_set_producer_state",
        ["self", "producer_id", "producer_epoch", "base_sequence"],
    ),
    (AIOKafkaClient, "coordinator_lookup", ["self", "coordinator_type", "coordinator_key"]),
    (AIOKafkaClient, "send", ["self", "node_id", "request", "group"]),
]
# The methods that assign attributes, and the attributes that we read or set.
ATTRIBUTES: list[tuple[Any, list[str]]] = [
    (BaseConsumer.__init__, ["_read_offset", "_committed_offset", "can_resume_flow"]),
    (BaseConsumer.stop_flow, ["flow_active"]),
    (Recovery.__init__, ["active_tps", "active_offsets"]),
    (PartitionRecords.__init__, ["_records", "next_fetch_offset"]),
    (aiokafka.AIOKafkaConsumer.__init__, ["_fetch_max_bytes", "_isolation_level", "_subscription"]),
    (faust.App.on_rebalance_start, ["rebalancing"]),
]


def _parameters(holder: type, name: str) -> list[str]:
    return list(inspect.signature(getattr(holder, name)).parameters)


@pytest.mark.parametrize(("holder", "name", "parameters"), REPLACED + CALLED)
def test_each_hook_exists_with_its_parameters(
    holder: type, name: str, parameters: list[str]
) -> None:
    assert _parameters(holder, name) == parameters


def test_each_replacement_takes_the_same_number_of_parameters() -> None:
    replacements = {
        Consumer: FaustConsumer,
        AIOKafkaConsumerThread: faust_runtime._FetchThread,
        faust.App: faust_runtime.FaustApp,
        PartitionRecords: record_format.FetchedRecords,
    }
    for holder, name, parameters in REPLACED:
        ours = replacements[holder]
        assert name in vars(ours), name
        assert len(_parameters(ours, name)) == len(parameters), name


@pytest.mark.parametrize(("assigning", "names"), ATTRIBUTES)
def test_each_attribute_is_assigned_where_we_expect_it(
    assigning: Callable[..., Any], names: list[str]
) -> None:
    source = inspect.getsource(assigning)

    for name in names:
        assert f"self.{name} = " in source, name


def test_aiokafka_makes_the_records_of_a_fetch_through_the_name_that_we_replace() -> None:
    source = inspect.getsource(aiokafka.consumer.fetcher.Fetcher)

    assert "= PartitionRecords(" in source
    assert "= MemoryRecords(" in source


def test_aiokafka_leaves_the_identity_of_a_batch_alone_without_a_transaction_manager() -> None:
    source = inspect.getsource(MessageAccumulator)

    assert source.count("set_producer_state(") == 1
    assert "if self._txn_manager is not None and not_retry:" in source


def test_faust_commits_offsets_through_the_method_that_we_wrap() -> None:
    source = inspect.getsource(AIOKafkaConsumerThread._commit)

    assert "OffsetAndMetadata(offset, " in source
    assert "await consumer.commit(aiokafka_offsets)" in source


def test_faust_waits_for_the_recovery_signal_that_we_replace() -> None:
    assert "return self._signal_recovery_end" in inspect.getsource(
        cast("property", Recovery.signal_recovery_end).fget  # type: ignore[arg-type]
    )
    assert "self.signal_recovery_end.wait()" in inspect.getsource(Recovery)


def test_the_docstring_names_every_replaced_hook() -> None:
    listed = faust_runtime.__doc__ or ""

    for _, name, _ in REPLACED:
        assert name in listed, name


async def test_faust_does_not_check_for_idle_streams() -> None:
    # Any access to an attribute of this object would raise.
    await FaustConsumer.verify_all_partitions_active(cast("Any", object()))


# --- versions -------------------------------------------------------------------------------------


def test_the_installed_versions_are_accepted() -> None:
    check_versions()


def test_another_version_is_a_configuration_error_that_says_what_to_install() -> None:
    def installed(name: str) -> str:
        return "0.14.1" if name == "aiokafka" else metadata.version(name)

    with pytest.raises(ConfigurationError) as raised:
        check_versions(installed)

    (problem,) = raised.value.problems
    assert "aiokafka 0.14.1 is installed" in problem
    assert "pip install aiokafka==0.14.0" in problem


def test_another_version_is_reported_even_if_a_hook_cannot_be_imported(
    tmp_path: Path, resmeter_env: dict[str, str]
) -> None:
    (tmp_path / "aiokafka").mkdir()
    (tmp_path / "aiokafka" / "__init__.py").touch()
    (tmp_path / "aiokafka-0.15.0.dist-info").mkdir()
    (tmp_path / "aiokafka-0.15.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: aiokafka\nVersion: 0.15.0\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    result = process.run(["worker"], {**resmeter_env, "PYTHONPATH": path}, seconds_max=60)

    assert result.returncode == 2, result.stderr
    assert "aiokafka 0.15.0 is installed, but resmeter needs aiokafka==0.14.0" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_package_requires_exactly_the_versions_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    for name, version in VERSIONS.items():
        assert f"{name}=={version}" in project["dependencies"]
