"""Run a golden vector: records in, usage records and stored states out.

A vector is a JSON file in `tests/golden/state/`. `steps` are batches of records (`apply`), of which
one may stand for many (`repeat`), and timers (`settle`, `seal`: the broker's clock in milliseconds).
`expected` has, after each step, the usage records as they are written and the stored state of every
conversation in hexadecimal. Vectors never change: a worker of today must read what one of last year
wrote, and write what a worker beside it writes.

`python -m tests.golden.vectors` fills in `expected` where a vector has none yet.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.catalog.policies import preset
from pipeline.events.times import parse_time
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult
from pipeline.stream.partition import Partition
from pipeline.stream.state import HAS_BASIS, PACKED

STATES = Path(__file__).parent / "state"
_FORM = 20
_HEADER_BYTES = 29


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def new_partition(vector: dict[str, Any]) -> Partition:
    timeline = Timeline([preset(vector["policy"])])
    partition = Partition("conversation.events", 0, lambda _: timeline)
    partition.schedule_all()
    return partition


def run_step(partition: Partition, step: dict[str, Any]) -> dict[str, Any]:
    """Run one step; return what it wrote and what is stored after it."""
    if "settle" in step:
        work = partition.settle(step["settle"], 1_000)
    elif "seal" in step:
        work = partition.seal(step["seal"], 1_000)
    else:
        work = partition.apply(list(_records(step["apply"])))
    return _outcome(partition, work)


def unpacked(stored: bytes) -> bytes:
    """Return a stored state with its payload unpacked: how zlib packs is up to its version."""
    if not stored[_FORM] & PACKED:
        return stored
    start = _HEADER_BYTES + (1 + stored[_HEADER_BYTES] if stored[_FORM] & HAS_BASIS else 0)
    return stored[:start] + zlib.decompress(stored[start:])


def without_basis(stored: bytes) -> bytes:
    """Return a stored state as a version wrote it that did not store the basis of due times."""
    if not stored[_FORM] & HAS_BASIS:
        return stored
    form = bytes([stored[_FORM] & ~HAS_BASIS])
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


def _outcome(partition: Partition, work: BatchResult) -> dict[str, Any]:
    return {
        "usage_records": [orjson.loads(output.value) for output in work.outputs],
        "dead_letters": [letter.reason for letter in work.dead_letters],
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
