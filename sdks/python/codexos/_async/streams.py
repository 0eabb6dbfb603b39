"""Events as they happen. A connection that breaks is opened again where it ended, so none is missed or told twice."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, Protocol, Self, TypeVar

import httpx2

from codexos._async.concurrency import sleep
from codexos._async.transport import AsyncTransport
from codexos._call import Call, Countdown
from codexos._retries import pause
from codexos.errors import APIConnectionError, CodexOSError, WaitTimeoutError, error_of

SILENCE_S = 45.0
"""The server sends something at least every 15 s; after three times that the connection is taken for dead."""
LIVED_S = 15.0
"""A connection that held this long was a good one: losing it does not count with losses before."""
LARGEST_EVENT = 64 * 1024 * 1024


class Numbered(Protocol):
    @property
    def seq(self) -> int: ...

    @property
    def is_last(self) -> bool: ...


E = TypeVar("E", bound=Numbered)


class AsyncEventStream(Generic[E]):
    """Iterate over it once. `seq` is that of the last event, from which another stream can go on (`after`).

    Leave a loop early inside `async with`, so that the connection is closed at once.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        path: str,
        read: Callable[[Mapping[str, Any]], E],
        after: int = 0,
        timeout: float | None = None,
    ):
        self._transport, self._path, self._read = transport, path, read
        self._left = Countdown(timeout)
        self.seq = after
        self._events = self._resumed()

    def __aiter__(self) -> AsyncIterator[E]:
        return self._events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._events.aclose()

    async def _resumed(self) -> AsyncGenerator[E, None]:
        """Until the last event. Raises WaitTimeoutError, and what ends the attempts to come back."""
        failures = 0
        while True:
            before, began = self.seq, time.monotonic()
            try:
                async with aclosing(self._connected()) as events:
                    async for event in events:
                        self.seq = event.seq
                        yield event
                        if event.is_last:
                            return
                return
            except CodexOSError as error:
                self._patience()
                failures = 0 if self.seq > before or time.monotonic() - began > LIVED_S else failures
                if (wait_s := pause(error, failures, self._transport.options.max_retries)) is None:
                    raise
            await sleep(wait_s)
            failures += 1

    async def _connected(self) -> AsyncGenerator[E, None]:
        """The events of one connection."""
        call = Call("GET", self._path, headers={"last-event-id": str(self.seq)} if self.seq else {})
        async with self._transport.open(call, self._patience()) as response:
            if response.status_code == 204:
                return
            async for message in httpx2.EventSource(response, LARGEST_EVENT):
                if message.event == "error":
                    raise _told(message.data)
                yield self._read(json.loads(message.data))
                self._patience()
        raise APIConnectionError("The stream broke off")

    def _patience(self) -> float:
        """Seconds that nothing may come. Raises WaitTimeoutError at the deadline."""
        left = self._left()
        if left == 0:
            raise WaitTimeoutError(f"{self._path} has not come to its end in time")
        return SILENCE_S if left is None else min(SILENCE_S, left)


def _told(data: str) -> CodexOSError:
    """The error that ends a stream. What may pass by coming again is told as a lost connection."""
    body = json.loads(data)
    error = error_of(401 if body["error"]["code"] == "AUTHENTICATION_ERROR" else 500, body, {})
    return APIConnectionError(str(error)) if error.retryable else error
