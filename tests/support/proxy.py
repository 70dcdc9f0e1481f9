"""An HTTP proxy on loopback that connects its clients to where they ask (CONNECT)."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def connect_proxy(credentials: str = "") -> AsyncIterator[tuple[int, list[str]]]:
    """Yield the proxy's port, and the addresses that it has connected to.

    With `credentials` (`user:password`), a client without them gets 407.
    """
    connected: list[str] = []
    expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else ""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, address, _ = head.split("\r\n", 1)[0].split(" ")
        assert method == "CONNECT"
        if expected and f"Proxy-Authorization: {expected}" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        host, _, port = address.partition(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        connected.append(address)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connected
    finally:
        server.close()
        await server.wait_closed()
