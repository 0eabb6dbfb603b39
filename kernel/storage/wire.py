"""One connection to Redis that many callers share.

Calls made in one turn of the event loop leave in one write and are answered in order, so a busy process pays
for few system calls and the server's one fsync serves all of them. hiredis does the protocol.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import unquote, urlparse

import hiredis

from kernel.errors import CodexError, Unavailable

Argument = str | bytes | int | float
Push = Callable[[Any], None]

ANSWER_WITHIN_S = 2.0
CONNECT_WITHIN_S = 5.0


class StoreRefused(Exception):
    """The server answered a command with an error that our code did not expect."""


ROUND_FAULTS = (CodexError, StoreRefused, OSError, ValueError)
"""What may fail one round of work that comes again by itself, or one workspace's part of it."""


def refusal(text: str) -> Exception:
    """The error a caller should see for an error reply."""
    word = text.split(" ", 1)[0]
    if "OOM" in text or "maxmemory" in text:
        return Unavailable(
            "The store is full: raise its memory or delete executions", {"reason": "store_full"}, 5.0
        )
    if word in {
        "LOADING",
        "BUSY",
        "MASTERDOWN",
        "READONLY",
        "MISCONF",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "NOSCRIPT",
        "NOREPLICAS",
    }:
        return Unavailable("The store is starting or cannot write", {"reason": word.lower()}, 1.0)
    return StoreRefused(text)


class Wire(asyncio.Protocol):
    """A live connection. `lost` is set once it is of no more use; every call in flight then fails."""

    def __init__(self, on_push: Push | None = None, answer_within: float | None = ANSWER_WITHIN_S):
        self.lost = asyncio.Event()
        self._on_push = on_push
        self._answer_within = answer_within
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None

    def call(self, *command: Argument) -> "asyncio.Future[Any]":
        """Sends one command; the future has its answer, an error reply as an exception."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.lost.is_set():
            future.set_exception(Unavailable("The store cannot be reached"))
            return future
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_packed(command))
        self._waiting.append((future, self._loop.time()))
        if self._watch is None and self._answer_within is not None:
            self._watch = self._loop.call_later(self._answer_within, self._overdue)
        return future

    def send(self, *command: Argument) -> None:
        """Sends a command whose answers arrive as pushes (SUBSCRIBE and its kin)."""
        if not self.lost.is_set():
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out.append(_packed(command))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _NOTHING:
            if self._on_push is not None and not self._waiting:
                self._on_push(answer)
            else:
                self._settle(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        if self._watch is not None:
            self._watch.cancel()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(Unavailable("The store went away", {"reason": "store_lost"}))
        self._waiting.clear()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.lost.is_set():
            self._transport.write(b"".join(out))

    def _settle(self, answer: Any) -> None:
        future, _ = self._waiting.popleft()
        if future.done():
            return
        if isinstance(answer, hiredis.ReplyError):
            future.set_exception(refusal(str(answer)))
            if str(answer).startswith("NOSCRIPT"):
                self.close()  # the server has lost our scripts: a new connection brings them
        else:
            future.set_result(answer)

    def _overdue(self) -> None:
        """Gives the connection up when its oldest call has waited too long (a stopped or hung server)."""
        self._watch = None
        if not self._waiting or self._answer_within is None:
            return
        left = self._waiting[0][1] + self._answer_within - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._overdue)
        else:
            self.close()


_NOTHING = object()


def _packed(command: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub asks for one-tuples
    return packed


async def connect(
    url: str, name: str, on_push: Push | None = None, answer_within: float | None = ANSWER_WITHIN_S
) -> Wire:
    """Opens `redis://[user:password@]host:port/db` (`rediss://` for TLS). Raises Unavailable."""
    parts = urlparse(url)
    secure = ssl.create_default_context() if parts.scheme == "rediss" else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            _, wire = await loop.create_connection(
                lambda: Wire(on_push, answer_within),
                parts.hostname or "127.0.0.1",
                parts.port or 6379,
                ssl=secure,
            )
            await _greet(
                wire, _credentials(parts.username, parts.password), parts.path.strip("/") or "0", name
            )
    except (OSError, TimeoutError) as error:
        raise Unavailable("The store cannot be reached", {"reason": "store_down"}) from error
    return wire


def _credentials(user: str | None, password: str | None) -> list[str]:
    return ([unquote(user)] if user else []) + ([unquote(password)] if password else [])


async def _greet(wire: Wire, credentials: Iterable[str], database: str, name: str) -> None:
    words = list(credentials)
    try:
        if words:
            await wire.call("AUTH", *words)
        await wire.call("SELECT", database)
        await wire.call("CLIENT", "SETNAME", name)
    except BaseException:
        wire.close()
        raise
