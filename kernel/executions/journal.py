"""What a runner has to say of one execution, on its way to the store.

Events and node records gather here and leave together: at once when the engine needs them to be durable,
otherwise after at most `coalesce_ms`, so that a chatty model does not cost an fsync for each token.
"""

import asyncio
import random
from collections.abc import Callable

from kernel.clock import Clock
from kernel.errors import Unavailable
from kernel.executions.events import Event, NodeEvent
from kernel.executions.record import NodeRecord
from kernel.storage.executions import Ending, ExecutionStore
from kernel.storage.queue import Claim


class Fenced(Exception):
    """Another runner has taken the execution over: nothing more may be written or called for it."""


class Journal:
    """The only writer of its execution, as long as its claim holds."""

    def __init__(
        self,
        store: ExecutionStore,
        claim: Claim,
        clock: Clock,
        coalesce_ms: int,
        on_fenced: Callable[[], None],
    ):
        self._store, self._claim, self._clock = store, claim, clock
        self._coalesce_s = coalesce_ms / 1000
        self._on_fenced = on_fenced
        self._seq = claim.seq
        self._events: list[bytes] = []
        self._nodes: dict[str, bytes] = {}
        self._ending: Ending | None = None
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._demanded = False
        self.fenced = False

    def note(self, event: NodeEvent, node: NodeRecord | None = None) -> None:
        """Gathers an event, and the new state of its node if given."""
        self._events.append(event.encode())
        if node is not None:
            self._nodes[event.node_id] = node.encode()
        self._write_later()

    def set(self, node_id: str, node: NodeRecord) -> None:
        """Gathers a node's new state that no event tells of."""
        self._nodes[node_id] = node.encode()

    async def commit(self) -> None:
        """Returns when all that was noted is durable. Raises Fenced."""
        if self._pending or self._writing:
            self._demanded = True
            await asyncio.shield(self._start())
        if self.fenced:
            raise Fenced

    async def end(self, event: Event, ending: Ending) -> None:
        """The terminal step, with whatever was noted before it. Raises Fenced."""
        self._events.append(event.encode())
        self._ending = ending
        await self.commit()

    def abandon(self) -> None:
        """Drops what was not written: the lease is lost."""
        self.fenced = True
        self._events.clear()
        self._nodes.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> "asyncio.Task[None]":
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return self._writing

    @property
    def _pending(self) -> bool:
        return bool(self._events or self._nodes or self._ending) and not self.fenced

    def _write_later(self) -> None:
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(self._coalesce_s, self._start)

    async def _write(self) -> None:
        try:
            await self._write_once()
            while self._pending and self._demanded:
                await self._write_once()
        finally:
            self._writing = None
            if self._pending:
                self._write_later()

    async def _write_once(self) -> None:
        self._demanded = False
        events, self._events = self._events, []
        nodes, self._nodes = self._nodes, {}
        ending, self._ending = self._ending, None
        try:
            written = await self._put(events, nodes, ending)
        except BaseException:
            self._events[:0], self._nodes = events, nodes | self._nodes
            self._ending = ending
            raise
        if written:
            self._seq += len(events)
        else:
            self.abandon()
            self._on_fenced()

    async def _put(self, events: list[bytes], nodes: dict[str, bytes], ending: Ending | None) -> bool:
        """Tries until the store answers: a commit whose answer was lost is recognised there by its seq."""
        claim, delay = self._claim, 0.05
        while True:
            try:
                return await self._store.commit(
                    *(claim.workspace_id, claim.execution_id, claim.epoch, self._seq, self._clock.now_ms()),
                    *(events, nodes, ending),
                )
            except Unavailable:
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, 1.0)
