"""Relay connections to a broker, and let some produce requests fail.

The relay splits the connection into Kafka's frames, and parses only produce requests and their
responses. A request fails *before* its effect (the broker never gets the request) or *after* it (the
broker has appended the records).
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


class ProduceError(NamedTuple):
    """One way in which a produce request fails."""

    code: int  # Kafka's error code; 0 cuts the connection instead
    when: Literal["before", "after"]


PRODUCE_ERRORS = (
    ProduceError(19, "before"),  # NOT_ENOUGH_REPLICAS
    ProduceError(20, "after"),  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
    ProduceError(7, "after"),  # REQUEST_TIMED_OUT
    ProduceError(7, "before"),
    ProduceError(6, "before"),  # NOT_LEADER_OR_FOLLOWER
    ProduceError(0, "after"),
    ProduceError(10, "before"),  # MESSAGE_TOO_LARGE
)


class Relay:
    """Lets every `every`-th produce request fail, with one error after the other, while `on`."""

    def __init__(self, broker_port: int, every: int) -> None:
        self.on = True
        self.errors = 0
        self._broker_port = broker_port
        self._every = every
        self._requests = 0

    def _next_error(self, api_key: int, version: int) -> ProduceError | None:
        if api_key != _PRODUCE or not self.on:
            return None
        assert version == _VERSION, f"produce requests have version {version}"
        self._requests += 1
        if self._requests % self._every:
            return None
        error = PRODUCE_ERRORS[self.errors % len(PRODUCE_ERRORS)]
        self.errors += 1
        return error

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side closes it."""
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.close()
            return
        # Kafka responds in the order of the requests. An entry is a request: the relay's response, or
        # None to wait for the broker's, and the error to put into the broker's response.
        order: asyncio.Queue[tuple[bytes | None, ProduceError | None]] = asyncio.Queue()
        pumps = [
            asyncio.ensure_future(self._relay_requests(reader, upstream[1], order)),
            asyncio.ensure_future(self._relay_responses(upstream[0], writer, order)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for side in (writer, upstream[1]):
            side.close()

    async def _relay_requests(
        self,
        client: asyncio.StreamReader,
        broker: asyncio.StreamWriter,
        order: "asyncio.Queue[tuple[bytes | None, ProduceError | None]]",
    ) -> None:
        while True:
            frame = await _frame(client)
            api_key, version = (int.from_bytes(frame[i : i + 2], "big") for i in (0, 2))
            error = self._next_error(api_key, version)
            if error is not None and error.when == "before":
                order.put_nowait((_error_response(frame, error.code), error))
            else:
                order.put_nowait((None, error))
                broker.write(len(frame).to_bytes(4, "big") + frame)
                await broker.drain()

    async def _relay_responses(
        self,
        broker: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        order: "asyncio.Queue[tuple[bytes | None, ProduceError | None]]",
    ) -> None:
        while True:
            response, error = await order.get()
            if response is None:
                response = await _frame(broker)
                if error is not None and not error.code:
                    return  # the broker has appended the records; the client gets no response
                if error is not None:
                    response = response[:4] + _with_code(response[4:], error.code)
            client.write(len(response).to_bytes(4, "big") + response)
            await client.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def _error_response(frame: bytes, code: int) -> bytes:
    """Return the response to a produce request that the broker never gets."""
    body = 10 + max(0, int.from_bytes(frame[8:10], "big", signed=True))  # behind the client id
    request: Any = ProduceRequest_v7.decode(BytesIO(frame[body:]))
    topics = [
        (topic, [(number, code, _NO_OFFSET, -1, -1) for number, _ in partitions])
        for topic, partitions in request.topics
    ]
    return frame[4:8] + bytes(ProduceResponse_v7(topics=topics, throttle_time_ms=0).encode())


def _with_code(response: bytes, code: int) -> bytes:
    decoded: Any = ProduceResponse_v7.decode(BytesIO(response))
    topics = [
        (topic, [(number, code, _NO_OFFSET, *more) for number, _, _, *more in partitions])
        for topic, partitions in decoded.topics
    ]
    return bytes(ProduceResponse_v7(topics=topics, throttle_time_ms=0).encode())


@contextlib.contextmanager
def relaying(port: int, broker_port: int, every: int) -> Iterator[Relay]:
    """Relay connections to `port` on loopback, in a separate thread."""
    relay = Relay(broker_port, every)
    loop = asyncio.new_event_loop()
    has_started = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(relay.serve, "127.0.0.1", port)
        has_started.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert has_started.wait(_START_SECONDS_MAX)
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_SECONDS_MAX)
        loop.close()
