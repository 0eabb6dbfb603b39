"""A small HTTP server for tests of what goes out: it answers, or misbehaves, as a function says."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import psutil


@dataclass
class Exchange:
    """One request, and the wire its answer is written to."""

    head: str
    body: bytes
    _writer: asyncio.StreamWriter
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client hangs up."""

    @property
    def asker(self) -> int:
        """The process at the other end."""
        port = self._writer.get_extra_info("peername")[1]
        held = psutil.net_connections("tcp4")
        (pid,) = {one.pid for one in held if one.laddr.port == port and one.pid and one.raddr}
        return int(pid)

    @property
    def json(self) -> dict[str, object]:
        return orjson.loads(self.body)

    def header(self, name: str) -> str | None:
        lines = (line.partition(": ") for line in self.head.split("\r\n")[1:])
        return next((value for key, _, value in lines if key.lower() == name), None)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def events(self, *data: bytes, content_type: str = "text/event-stream") -> None:
        """Begins an endless SSE answer: it ends when the handler returns."""
        await self.send(f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n\r\n".encode())
        for one in data:
            await self.send(b"data: " + one + b"\n\n")

    def reset(self) -> None:
        self._writer.transport.abort()


Answer = Callable[[Exchange], Awaitable[None]]


@dataclass
class Web:
    answer: Answer
    port: int = 0
    host: str = "127.0.0.1"
    exchanges: list[Exchange] = field(default_factory=list)
    connections: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.ensure_future(self._handle(reader, writer)))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip()
            exchange = Exchange(head, b"", writer)
            exchange.body = await reader.readexactly(int(exchange.header("content-length") or 0))
            self.exchanges.append(exchange)
            await self._while_connected(exchange, reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away: some tests are about just that
        finally:
            writer.close()

    async def _while_connected(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        answering = asyncio.ensure_future(self.answer(exchange))
        leaving = asyncio.ensure_future(reader.read())
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            exchange.closed.set()
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


@asynccontextmanager
async def serve(
    answer: Answer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Web]:
    """host: an address of this machine."""
    web = Web(answer, host=host)
    server = await asyncio.start_server(web.accept, host, 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        for connection in web.connections:
            connection.cancel()
        await asyncio.gather(*web.connections, return_exceptions=True)
