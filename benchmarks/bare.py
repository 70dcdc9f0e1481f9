"""Measure a bare consumer, which only parses each event: the ceiling for the worker.

python -m benchmarks.bare BOOTSTRAP TOPIC COUNT
"""

import resource
import sys
import time
import uuid

import orjson
from confluent_kafka import Consumer


def main(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bare-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "queued.min.messages": 1_000_000,
            "max.partition.fetch.bytes": 10_485_760,
        }
    )
    consumer.subscribe([topic])
    read = first = 0
    began = cpu = 0.0
    while read < count:
        messages = consumer.consume(10_000, timeout=1.0)
        if messages and not began:
            began, cpu, first = time.perf_counter(), time.process_time(), len(messages)
        read += len(messages)
        for message in messages:
            orjson.loads(message.value() or b"")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    consumer.close()
    return {
        "events": read - first,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(orjson.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))).decode())
