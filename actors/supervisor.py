"""The supervisor keeps work moving: it takes executions back from lost runners, sizes the pool of runners by what
waits, moves ended executions to the archive, closes and samples usage, deletes what the vector store could not when it
was due, and lets an idle local model go. One for a cluster; it holds no truth."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from actors.hosting import opened_kernel, serve_or_exit
from configs.settings import Settings
from kernel.access.chain import Chain
from kernel.clock import Clock
from kernel.executions.archivist import Archivist
from kernel.executions.performer import LOST_PROBLEM, lost_event
from kernel.knowledge.collections import Collections
from kernel.metering.books import Books
from kernel.storage.queue import QueueStore
from kernel.storage.wire import ROUND_FAULTS

log = structlog.get_logger()

RECLAIM_EVERY_S = 0.5
SIZE_EVERY_S = 1.0
SWEEP_EVERY_S = 60.0
SEAL_EVERY_S = 1.0
TIDY_EVERY_S = 60.0
MODEL_IDLE_S = 900
ROUNDS_BEFORE_LESS = 60
"""Rounds of little load before a runner is let go."""


class Fleet(Protocol):
    """The runners of the cluster, however they are started."""

    async def runners(self) -> list[str]: ...

    async def add(self, name: str) -> None: ...

    async def drain(self, name: str) -> None: ...

    async def cpus(self) -> int: ...

    async def unload_idle_model(self, after_s: float) -> None: ...


def wanted_runners(now: int, most: int, capacity: int, queued: int, held: int) -> int:
    """The pool's next size: one more while work waits that the pool has no room for, one less when it idles."""
    if queued > 0 and held >= 0.8 * now * capacity:
        return min(most, now + 1)
    if now > 1 and queued == 0 and held <= 0.3 * (now - 1) * capacity:
        return now - 1
    return now


@dataclass(slots=True)
class Supervisor:
    settings: Settings
    queue: QueueStore
    fleet: Fleet
    archivist: Archivist
    books: Books
    chain: Chain
    collections: Collections
    clock: Clock
    _calm: int = field(default=0)

    async def serve(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(RECLAIM_EVERY_S, self.reclaim))
            group.create_task(self._every(SIZE_EVERY_S, self.size))
            group.create_task(self._every(SWEEP_EVERY_S, self.sweep))
            group.create_task(self._every(SEAL_EVERY_S, self.chain.round))
            group.create_task(self._every(TIDY_EVERY_S, self.collections.tidy))
            group.create_task(self._every(self.settings.retention.every_s, self.archivist.round))
            group.create_task(self._every(self.settings.metering.roll_every_s, self.books.ledger.round))
            group.create_task(self._every(self.settings.metering.sample_every_s, self.books.sampler.round))
            group.create_task(self._every(60, lambda: self.fleet.unload_idle_model(MODEL_IDLE_S)))

    async def reclaim(self) -> None:
        taken, dead = await self.queue.reclaim(
            self.settings.runner.max_deliveries, LOST_PROBLEM, lost_event(self.clock.now_ms())
        )
        if taken or dead:
            log.warning("took executions back from lost runners", queued_again=taken, given_up=dead)

    async def sweep(self) -> None:
        """Every end frees its slot, so there is nothing to find; a fault of ours must not lock a workspace out."""
        if leaked := await self.queue.free_leaked_slots():
            log.error("concurrency slots had leaked and are free again", count=len(leaked), first=leaked[:10])

    async def size(self) -> None:
        names = await self.fleet.runners()
        if not names:
            await self.fleet.add("runner-1")
            return
        backlog = await self.queue.backlog()
        most = self.settings.runner.max_runners or await self.fleet.cpus()
        wanted = wanted_runners(len(names), most, self.settings.runner.capacity, backlog.queued, backlog.held)
        self._calm = self._calm + 1 if wanted < len(names) else 0
        if wanted > len(names):
            await self.fleet.add(_free_name(names))
        elif self._calm >= ROUNDS_BEFORE_LESS:
            self._calm = 0
            await self.fleet.drain(max(names))

    async def _every(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        """A round that fails is told and tried again: the store or a node may be away for a while."""
        while True:
            try:
                await action()
            except ROUND_FAULTS as error:
                log.warning("supervisor's round failed", error=repr(error))
            await asyncio.sleep(seconds * random.uniform(0.9, 1.1))


def _free_name(names: list[str]) -> str:
    number = 1
    while f"runner-{number}" in names:
        number += 1
    return f"runner-{number}"


class SupervisorHost:
    """The actor around the supervisor. `fleet` is how it reaches the runners."""

    async def __init__(self, fleet: Fleet):  # type: ignore[misc]  # Ray awaits it
        settings = Settings()
        self._opened, kernel = await opened_kernel(settings, name="supervisor")
        parts = (kernel.queue, fleet, kernel.archivist, kernel.books, kernel.chain())
        self._supervisor = Supervisor(settings, *parts, kernel.collections, kernel.clock)
        self._serving = serve_or_exit(self._supervisor.serve())

    async def ready(self) -> None:
        """Answers once a runner takes work."""
        await self._supervisor.size()
