"""Measure a plain Faust agent that does the worker's job one event at a time, with a Faust table.

    python -m benchmarks.stock BOOTSTRAP TOPIC CHANGELOG OUTPUT COUNT PARTITIONS GROUP

Decoding, decisions and states are the same as in the worker. Only the use of Faust differs: the
agent gets one event, sets `table[key] = state`, and awaits `output.send(...)`.
"""

import os
import resource
import sys
import tempfile
import time
from typing import Any

import faust
import orjson

from pipeline.catalog.policies import DEFAULT, preset
from pipeline.events.model import Rejected
from pipeline.events.wire import read_record
from pipeline.resolve.policy import Timeline
from pipeline.stream.state import decode_state, encode_state
from pipeline.usage.conversation import Conversation
from pipeline.usage.record import encode_record


def _app(bootstrap: str, partitions: int, group: str) -> Any:
    return faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=partitions,
        table_standby_replicas=0,
        datadir=tempfile.mkdtemp(prefix="resmeter-stock-"),
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=10_485_760,
        key_serializer="raw",
        value_serializer="raw",
        stream_wait_empty=False,
        producer_linger=0.05,
        producer_max_batch_size=262_144,
        producer_compression_type="lz4",
    )


def build(
    bootstrap: str, topic: str, changelog: str, output: str, count: int, partitions: int, group: str
) -> Any:
    app = _app(bootstrap, partitions, group)
    events = app.topic(topic, key_type=bytes, value_type=bytes)
    records = app.topic(output, key_type=bytes, value_type=bytes)
    states = app.Table(
        "conversations",
        key_type=bytes,
        value_type=bytes,
        partitions=partitions,
        changelog_topic=app.topic(changelog, key_type=bytes, value_type=bytes, compacting=True),
    )
    timeline = Timeline([preset(DEFAULT)])
    seen = {"count": 0, "began": 0.0, "cpu": 0.0}

    @app.agent(events)  # type: ignore[untyped-decorator]
    async def decide(stream: Any) -> None:
        async for event in stream.events():
            if not seen["count"]:
                seen["began"], seen["cpu"] = time.perf_counter(), time.process_time()
            message = event.message
            arrival = int(message.timestamp * 1000)
            addressed = read_record(message.value, message.key, arrival, message.headers or ())
            if not isinstance(addressed, Rejected):
                stored = states.get(message.key)
                conversation = Conversation() if stored is None else decode_state(stored)
                received = conversation.receive(
                    addressed.tenant_id,
                    addressed.conversation_id,
                    [(message.offset, arrival, addressed.event)],
                    timeline,
                )
                states[message.key] = encode_state(message.offset + 1, conversation)
                for record in received.records:
                    await records.send(key=record.tenant_id.encode(), value=encode_record(record))
            seen["count"] += 1
            if seen["count"] >= count:
                print(
                    orjson.dumps(
                        {
                            "events": count,
                            "seconds": time.perf_counter() - seen["began"],
                            "cpu_seconds": time.process_time() - seen["cpu"],
                            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                        }
                    ).decode(),
                    file=sys.__stdout__,
                    flush=True,
                )
                os._exit(0)

    return app


if __name__ == "__main__":
    arguments = sys.argv[1:]
    bootstrap, topic, changelog, output, count, partitions, group = arguments
    built = build(bootstrap, topic, changelog, output, int(count), int(partitions), group)
    sys.argv = [sys.argv[0], "worker", "-l", "info", "--without-web"]
    built.main()
