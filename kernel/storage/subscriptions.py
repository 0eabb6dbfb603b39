"""One pub/sub connection of a process, shared by all who listen. Messages are only a wake-up: whoever listens
reads the truth from its key, and is told (`None`) to do so when messages may have been missed."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kernel.errors import Unavailable
from kernel.storage.store import Store
from kernel.storage.wire import StoreRefused, Wire

Listener = Callable[[bytes | None], None]

PING_S = 10.0
"""A connection that says nothing for two of these is given up."""


class Subscriptions:
    """`listen` and `unlisten` are cheap; the connection opens with the first and heals by itself."""

    def __init__(self, store: Store):
        self._store = store
        self._listeners: dict[str, list[Listener]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._wire: Wire | None = None
        self._heard = True
        self._keeper: asyncio.Task[None] | None = None

    async def listen(self, channel: str, listener: Listener) -> None:
        """Returns once the server has confirmed, so that nothing published after is missed."""
        listeners = self._listeners.setdefault(channel, [])
        listeners.append(listener)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        if len(listeners) == 1:
            self._confirmed[channel] = asyncio.Event()
            if self._wire is not None:
                self._wire.send("SUBSCRIBE", channel)
        try:
            async with asyncio.timeout(5):
                await self._confirmed[channel].wait()
        except TimeoutError:
            self.unlisten(channel, listener)
            raise Unavailable("The store cannot be reached", {"reason": "store_down"}) from None
        except asyncio.CancelledError:
            self.unlisten(channel, listener)
            raise

    def unlisten(self, channel: str, listener: Listener) -> None:
        listeners = self._listeners.get(channel, [])
        with suppress(ValueError):
            listeners.remove(listener)
        if not listeners and self._listeners.pop(channel, None) is not None:
            self._confirmed.pop(channel).set()
            if self._wire is not None:
                self._wire.send("UNSUBSCRIBE", channel)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        if self._wire is not None:
            self._wire.close()

    async def _keep(self) -> None:
        delay = 0.02
        while True:
            try:
                wire = await self._store.open(f"{self._store.name}-sub", self._on_push, answer_within=None)
            except (Unavailable, StoreRefused):
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, 0.5)
                continue
            self._wire = wire
            if self._listeners:
                wire.send("SUBSCRIBE", *self._listeners)
            opened = asyncio.get_running_loop().time()
            await self._watch(wire)
            self._wire = None
            delay = 0.02 if asyncio.get_running_loop().time() - opened > 1 else min(delay * 2, 0.5)
            await asyncio.sleep(delay)

    async def _watch(self, wire: Wire) -> None:
        """Returns when the connection is lost, also when nobody has said so."""
        while not wire.lost.is_set():
            self._heard = False
            wire.send("PING")
            with suppress(TimeoutError):
                await asyncio.wait_for(wire.lost.wait(), PING_S)
            if not self._heard:
                wire.close()
                await wire.lost.wait()

    def _on_push(self, message: list[Any] | bytes) -> None:
        self._heard = True
        if not isinstance(
            message, list
        ):  # an answer to PING, or the refusal of a server that is still loading
            return
        kind, channel = message[0], message[1].decode()
        if kind == b"message":
            self._tell(channel, message[2])
        elif kind == b"subscribe" and (confirmed := self._confirmed.get(channel)):
            if confirmed.is_set():
                self._tell(channel, None)
            confirmed.set()

    def _tell(self, channel: str, payload: bytes | None) -> None:
        for listener in tuple(self._listeners.get(channel, ())):
            listener(payload)
