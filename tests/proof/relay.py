"""A relay in front of the broker, which answers some of what is produced with an error.

It knows Kafka's frames, and of their contents the produce requests alone. An error comes *before* the
effect (the broker never sees the request) or *after* it (the broker has appended, and says otherwise).
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal, NamedTuple

from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7

_PRODUCE, _VERSION = 0, 7
_NO_OFFSET = -1
_START_SECONDS_MAX = 10.0


class Trouble(NamedTuple):
    """An answer to a produce request."""

    code: int  # Kafka's, or 0: the line is cut
    when: Literal["before", "after"]


TROUBLES = (
    Trouble(19, "before"),  # NOT_ENOUGH_REPLICAS
    Trouble(20, "after"),  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
    Trouble(7, "after"),  # REQUEST_TIMED_OUT
    Trouble(7, "before"),
    Trouble(6, "before"),  # NOT_LEADER_OR_FOLLOWER
    Trouble(0, "after"),
    Trouble(10, "before"),  # MESSAGE_TOO_LARGE
)


class Relay:
    """Answers every `every`-th produce request with the next trouble, while it is `on`."""

    def __init__(self, broker_port: int, every: int) -> None:
        self.on = True
        self.troubles = 0
        self._broker_port = broker_port
        self._every = every
        self._requests = 0

    def _trouble(self, api_key: int, version: int) -> Trouble | None:
        if api_key != _PRODUCE or not self.on:
            return None
        assert version == _VERSION, f"produce requests have version {version}"
        self._requests += 1
        if self._requests % self._every:
            return None
        trouble = TROUBLES[self.troubles % len(TROUBLES)]
        self.troubles += 1
        return trouble

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        # What is to be answered, in the order of the requests, as Kafka has it: our own answer, or
        # the broker's with what becomes of it.
        order: asyncio.Queue[tuple[bytes | None, Trouble | None]] = asyncio.Queue()
        pumps = [
            asyncio.ensure_future(self._requests_of(reader, upstream[1], order)),
            asyncio.ensure_future(self._answers_of(upstream[0], writer, order)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for side in (writer, upstream[1]):
            side.close()

    async def _requests_of(
        self,
        client: asyncio.StreamReader,
        broker: asyncio.StreamWriter,
        order: "asyncio.Queue[tuple[bytes | None, Trouble | None]]",
    ) -> None:
        while True:
            frame = await _frame(client)
            api_key, version = (int.from_bytes(frame[i : i + 2], "big") for i in (0, 2))
            trouble = self._trouble(api_key, version)
            if trouble is not None and trouble.when == "before":
                order.put_nowait((_refusal(frame, trouble.code), trouble))
            else:
                order.put_nowait((None, trouble))
                broker.write(len(frame).to_bytes(4, "big") + frame)
                await broker.drain()

    async def _answers_of(
        self,
        broker: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        order: "asyncio.Queue[tuple[bytes | None, Trouble | None]]",
    ) -> None:
        while True:
            answer, trouble = await order.get()
            if answer is None:
                answer = await _frame(broker)
                if trouble is not None and not trouble.code:
                    return  # counted, and the client never hears of it
                if trouble is not None:
                    answer = answer[:4] + _with_code(answer[4:], trouble.code)
            client.write(len(answer).to_bytes(4, "big") + answer)
            await client.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def _refusal(frame: bytes, code: int) -> bytes:
    """Return the answer to a produce request that the broker never saw."""
    body = 10 + max(0, int.from_bytes(frame[8:10], "big", signed=True))  # after the client's id
    request: Any = ProduceRequest_v7.decode(BytesIO(frame[body:]))
    topics = [
        (topic, [(number, code, _NO_OFFSET, -1, -1) for number, _ in partitions])
        for topic, partitions in request.topics
    ]
    return frame[4:8] + bytes(ProduceResponse_v7(topics=topics, throttle_time_ms=0).encode())


def _with_code(answer: bytes, code: int) -> bytes:
    response: Any = ProduceResponse_v7.decode(BytesIO(answer))
    topics = [
        (topic, [(number, code, _NO_OFFSET, *more) for number, _, _, *more in partitions])
        for topic, partitions in response.topics
    ]
    return bytes(ProduceResponse_v7(topics=topics, throttle_time_ms=0).encode())


@contextlib.contextmanager
def relaying(port: int, broker_port: int, every: int) -> Iterator[Relay]:
    """Relay connections to a port of loopback, in a thread of its own."""
    relay = Relay(broker_port, every)
    loop = asyncio.new_event_loop()
    up = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(relay.serve, "127.0.0.1", port)
        up.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert up.wait(_START_SECONDS_MAX)
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_SECONDS_MAX)
        loop.close()
