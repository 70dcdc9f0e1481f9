"""Run a golden vector: records in, usage records and stored states out.

A vector is a JSON file in `tests/golden/state/`. Its `steps` are batches of records (`apply`) and
timers (`settle` and `seal`, with the broker's clock in milliseconds). `repeat` writes a record
several times. `expected` has, for each step, the usage records, the reasons of the dead letters, and
the stored state of every conversation in hexadecimal.

Vectors never change: a worker must read the states of older versions, and write the same bytes as a
worker of another version.

`python -m tests.golden.vectors` adds `expected` to each vector that has none yet.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from pipeline.catalog.policies import preset
from pipeline.events.times import parse_time
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult
from pipeline.stream.partition import Partition
from pipeline.stream.state import HAS_RULES, PACKED
from tests.support.events import Record

STATES = Path(__file__).parent / "state"
_FORM = 20
_HEADER_BYTES = 29


def new_partition(vector: dict[str, Any]) -> Partition:
    timeline = Timeline([preset(vector["policy"])])
    partition = Partition("conversation.events", 0, lambda _: timeline)
    partition.schedule_all()
    return partition


def run_step(partition: Partition, step: dict[str, Any]) -> dict[str, Any]:
    """Run one step; return its usage records and dead letters, and the stored states after it."""
    if "settle" in step:
        result = partition.settle(step["settle"], 1_000)
    elif "seal" in step:
        result = partition.seal(step["seal"], 1_000)
    else:
        result = partition.apply(list(_records(step["apply"])))
    return _outcome(partition, result)


def unpacked(stored: bytes) -> bytes:
    """Return a stored state with its payload unpacked: packed bytes depend on zlib's version."""
    if not stored[_FORM] & PACKED:
        return stored
    start = _HEADER_BYTES + (1 + stored[_HEADER_BYTES] if stored[_FORM] & HAS_RULES else 0)
    return stored[:start] + zlib.decompress(stored[start:])


def without_rules(stored: bytes) -> bytes:
    """Return a stored state as a version wrote it that did not store the rules of due times."""
    if not stored[_FORM] & HAS_RULES:
        return stored
    form = bytes([stored[_FORM] & ~HAS_RULES])
    start = _HEADER_BYTES + 1 + stored[_HEADER_BYTES]
    return stored[:_FORM] + form + stored[_FORM + 1 : _HEADER_BYTES] + stored[start:]


def _records(apply: list[dict[str, Any]]) -> Iterator[Record]:
    for record in apply:
        for n in range(record.get("repeat", 1)):
            text = json.dumps(record["event"]).replace("{n}", f"{n:06d}")
            event = json.loads(text)
            timestamp = record.get("timestamp") or parse_time(event["time"])
            key = f"{event['tenantid']}:{event['subject']}".encode()
            yield Record(record["offset"] + n, timestamp, key, orjson.dumps(event))


def _outcome(partition: Partition, result: BatchResult) -> dict[str, Any]:
    return {
        "usage_records": [orjson.loads(output.value) for output in result.outputs],
        "dead_letters": [letter.reason for letter in result.dead_letters],
        "states": {key.decode(): stored.hex() for key, stored in sorted(partition.states.items())},
    }


def _fill(path: Path) -> None:
    vector = orjson.loads(path.read_bytes())
    if "expected" in vector:
        return
    partition = new_partition(vector)
    vector["expected"] = [run_step(partition, step) for step in vector["steps"]]
    path.write_text(json.dumps(vector, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    for file in sorted(STATES.glob("*.json")):
        _fill(file)
