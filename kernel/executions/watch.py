"""Watching executions: wait for an end, or follow the events as they are written.

Pub/sub only wakes; what a message did not bring, or brought out of order, is read from the stream.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kernel.errors import CodexError, Unavailable
from kernel.executions.events import is_terminal, with_seq
from kernel.executions.lookup import Lookup
from kernel.storage import keys
from kernel.storage.executions import StoredEvent
from kernel.storage.subscriptions import Subscriptions

MOST_EVENTS = 1000
MOST_BYTES = 1_000_000


class SlowReader(CodexError):
    """The reader is too far behind; it may come again with `after`."""

    code, status, retryable = "UNAVAILABLE", 503, True


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """`body` is the event as JSON, `seq` included."""

    seq: int
    body: bytes
    terminal: bool


class Feed:
    """What has been published since a reader last looked. Bounded: a slow reader is told so, never waited for."""

    def __init__(self) -> None:
        self._events: deque[StoredEvent] = deque()
        self._bytes = 0
        self._gap = False
        self._overflown = False
        self._news = asyncio.Event()

    def push(self, message: bytes | None) -> None:
        if message is None:
            self._gap = True
        elif not self._overflown:
            first, *bodies = message.split(b"\n")
            if bodies == [b""] or (not self._events and len(bodies) > MOST_EVENTS):
                self._gap = True  # too much for a message: it is to be read
                bodies = []
            self._events += (StoredEvent(seq, body) for seq, body in enumerate(bodies, int(first)))
            self._bytes += len(message)
            self._overflown = len(self._events) > MOST_EVENTS or self._bytes > MOST_BYTES
        self._news.set()

    async def next(self) -> list[StoredEvent] | None:
        """Events since the last call; None when some may be missing. Raises SlowReader."""
        await self._news.wait()
        self._news.clear()
        if self._overflown:
            raise SlowReader("The reader is too slow: come again with the last seq it has")
        if self._gap:
            self._gap = False
            return None
        events, self._bytes = list(self._events), 0
        self._events.clear()
        return events


class Watch:
    """One for each process that serves callers. `address` is where ends are announced to it."""

    def __init__(self, lookup: Lookup, subscriptions: Subscriptions, address: str):
        self._lookup, self._subscriptions, self.address = lookup, subscriptions, address
        self._expected: dict[str, asyncio.Future[bytes]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def expect(self, execution_id: str) -> None:
        """To be called before the execution is created, so that its end cannot be missed."""
        if self._listening is None or (self._listening.done() and self._listening.exception() is not None):
            channel = keys.channel("replies", id=self.address)
            self._listening = asyncio.create_task(self._subscriptions.listen(channel, self._reply))
        await asyncio.shield(self._listening)
        self._expected[execution_id] = asyncio.get_running_loop().create_future()

    def forget(self, execution_id: str) -> None:
        self._expected.pop(execution_id, None)

    async def ended(self, workspace_id: str, execution_id: str, seconds: float) -> bytes | None:
        """None when it did not end in time, else the execution as JSON, or nothing when that is to be read.

        Quickest when `expect` was called.
        """
        try:
            async with asyncio.timeout(seconds):
                while (future := self._expected.get(execution_id)) is not None:
                    if (told := await self._told(workspace_id, execution_id, future)) is not None:
                        return told
                async for _ in self.follow(workspace_id, execution_id, 0):
                    pass
                return b""
        except (TimeoutError, Unavailable):
            return None
        finally:
            self.forget(execution_id)

    async def follow(self, workspace_id: str, execution_id: str, after: int) -> AsyncGenerator[StreamEvent]:
        """Events from `after` + 1 to the terminal one. Raises SlowReader."""
        feed, channel = Feed(), keys.channel("stream", workspace_id, id=execution_id)
        await self._subscriptions.listen(channel, feed.push)
        try:
            last = after
            while True:
                async for event in self._replay(workspace_id, execution_id, last):
                    yield event
                    last = event.seq
                    if event.terminal:
                        return
                if await self._lookup.status(workspace_id, execution_id) != "running":
                    async for event in self._replay(workspace_id, execution_id, last):
                        yield event
                    return
                async for event in self._live(feed, last):
                    yield event
                    last = event.seq
                    if event.terminal:
                        return
        finally:
            self._subscriptions.unlisten(channel, feed.push)

    async def _replay(self, workspace_id: str, execution_id: str, last: int) -> AsyncGenerator[StreamEvent]:
        while batch := await self._lookup.events(workspace_id, execution_id, last):
            for event in batch:
                yield _shown(event)
            last = batch[-1].seq

    async def _live(self, feed: Feed, last: int) -> AsyncGenerator[StreamEvent]:
        """Until an event is missing."""
        while (events := await feed.next()) is not None:
            for event in events:
                if event.seq > last + 1:
                    return
                if event.seq == last + 1:
                    last = event.seq
                    yield _shown(event)

    async def _told(
        self, workspace_id: str, execution_id: str, future: "asyncio.Future[bytes]"
    ) -> bytes | None:
        """What its runner told; a lost connection wakes all waiters, each to look for itself."""
        try:
            return await future
        except ConnectionError:
            self._expected[execution_id] = asyncio.get_running_loop().create_future()
            try:
                still_runs = await self._lookup.status(workspace_id, execution_id) == "running"
            except Unavailable:
                return None
            return None if still_runs else b""

    def _reply(self, message: bytes | None) -> None:
        if message is not None:
            execution_id, _, told = message.partition(b"\n")
            future = self._expected.get(execution_id.decode())
            if future is not None and not future.done():
                future.set_result(told)
            return
        for future in self._expected.values():
            if not future.done():
                future.set_exception(ConnectionError("ends may have been missed"))


def _shown(event: StoredEvent) -> StreamEvent:
    return StreamEvent(event.seq, with_seq(event.seq, event.body), is_terminal(event.body))
