"""Following a stream of events as they are written: replayed from the log, then live, without a gap.

Pub/sub only wakes; what a message did not bring, or brought out of order, is read from the log.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from kernel.errors import CodexError
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


@dataclass(frozen=True, slots=True)
class Log:
    """What is followed. read: some events after a seq. runs: whether more may come. is_terminal: of an event."""

    channel: str
    read: Callable[[int], Awaitable[Sequence[StoredEvent]]]
    runs: Callable[[], Awaitable[bool]]
    is_terminal: Callable[[bytes], bool]

    def shown(self, event: StoredEvent) -> StreamEvent:
        return StreamEvent(event.seq, with_seq(event.seq, event.body), self.is_terminal(event.body))


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


async def follow(subscriptions: Subscriptions, log: Log, after: int) -> AsyncGenerator[StreamEvent]:
    """Events from `after` + 1 to the terminal one. Raises SlowReader."""
    feed = Feed()
    await subscriptions.listen(log.channel, feed.push)
    try:
        last = after
        while True:
            async for event in _replay(log, last):
                yield event
                last = event.seq
                if event.terminal:
                    return
            if not await log.runs():
                async for event in _replay(log, last):
                    yield event
                return
            async for event in _live(log, feed, last):
                yield event
                last = event.seq
                if event.terminal:
                    return
    finally:
        subscriptions.unlisten(log.channel, feed.push)


async def _replay(log: Log, last: int) -> AsyncGenerator[StreamEvent]:
    while batch := await log.read(last):
        for event in batch:
            yield log.shown(event)
        last = batch[-1].seq


async def _live(log: Log, feed: Feed, last: int) -> AsyncGenerator[StreamEvent]:
    """Until an event is missing."""
    while (events := await feed.next()) is not None:
        for event in events:
            if event.seq > last + 1:
                return
            if event.seq == last + 1:
                last = event.seq
                yield log.shown(event)


def with_seq(seq: int, body: bytes) -> bytes:
    return b'{"seq":%d,' % seq + body[1:]
