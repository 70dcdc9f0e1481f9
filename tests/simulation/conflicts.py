"""Write usage records again, each with another value in one of its columns."""

import random

import msgspec

from pipeline.usage.record import UsageRecord, decode_record, encode_record
from tests.simulation.world import World


def append_conflict(world: World, draw: random.Random, written: set[bytes]) -> int:
    """Append such a record behind one that a worker wrote; return how many, and add it to `written`."""
    number, topic = draw.choice(list(enumerate(world.records.partitions)))
    ours = [record for record in topic if record.value not in written]
    if not ours:
        return 0
    record = draw.choice(ours)
    assert record.value is not None
    value = encode_record(_changed(decode_record(record.value), draw))
    written.add(value)
    world.records.append(number, world.time, record.key, value, record.headers)
    return 1


def _changed(record: UsageRecord, draw: random.Random) -> UsageRecord:
    """Return the record with another value in one column that its id does not fix."""
    column = draw.choice(
        ["outcome", "kind", "reason", "occurred_at", "policy", "policy_version", "evidence"]
        + ["supersedes"] * (record.quantity < 0)
    )
    values = {
        "kind": "reported" if record.kind != "reported" else "assumed",
        "occurred_at": record.occurred_at + 1,
        "policy_version": record.policy_version + 1,
        "evidence": (*record.evidence, "another"),
    }
    value = values.get(column, f"{getattr(record, column)}-")
    return msgspec.structs.replace(record, **{column: value})
