"""Watching executions: wait for an end, or follow the events as they are written."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from kernel.errors import Unavailable
from kernel.executions.events import is_terminal
from kernel.executions.lookup import Lookup
from kernel.storage import keys
from kernel.storage.following import Log, StreamEvent, follow
from kernel.storage.subscriptions import Subscriptions


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

    def follow(self, workspace_id: str, execution_id: str, after: int) -> AsyncGenerator[StreamEvent]:
        """Events from `after` + 1 to the terminal one. Raises SlowReader."""
        log = Log(
            channel=keys.channel("stream", workspace_id, id=execution_id),
            read=partial(self._lookup.events, workspace_id, execution_id),
            runs=partial(self._runs, workspace_id, execution_id),
            is_terminal=is_terminal,
        )
        return follow(self._subscriptions, log, after)

    async def _runs(self, workspace_id: str, execution_id: str) -> bool:
        return await self._lookup.status(workspace_id, execution_id) == "running"

    async def _told(
        self, workspace_id: str, execution_id: str, future: "asyncio.Future[bytes]"
    ) -> bytes | None:
        """What its runner told; a lost connection wakes all waiters, each to look for itself."""
        try:
            return await future
        except ConnectionError:
            self._expected[execution_id] = asyncio.get_running_loop().create_future()
            try:
                still_runs = await self._runs(workspace_id, execution_id)
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
