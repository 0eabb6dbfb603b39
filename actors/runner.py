"""A runner holds many executions at once: it claims them, keeps its lease alive, and lets the performer work.

It holds no truth. Killed, its lease ends and others go on from the journal; stopped and woken, its writes are refused.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

import structlog

from actors.hosting import opened_kernel, patient, serve_or_exit
from configs.settings import Runner as RunnerSettings
from configs.settings import Settings
from kernel.errors import Unavailable
from kernel.executions.performer import LOST_PROBLEM, Performer, Stop, lost_event
from kernel.executions.placement import Placement
from kernel.models.seam import ChatModel
from kernel.storage import keys
from kernel.storage.queue import Claim, QueueStore
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions

log = structlog.get_logger()

CLAIM_MOST = 64
BLOCK_S = 10
"""A wait for work is asked anew after this long, so that a dead connection is noticed."""


@dataclass(slots=True)
class Held:
    claim: Claim
    stop: Stop
    task: "asyncio.Task[None]"


@dataclass(slots=True)
class Runner:
    """`name` is unique to this process: a restarted runner is another one."""

    name: str
    store: Store
    queue: QueueStore
    performer: Performer
    subscriptions: Subscriptions
    settings: RunnerSettings
    held: dict[str, Held] = field(default_factory=dict)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _draining: bool = False

    async def serve(self) -> None:
        """Runs until cancelled."""
        await self.subscriptions.listen(keys.channel("orders", runner=self.name), self._order)
        async with asyncio.TaskGroup() as group:
            group.create_task(patient(self._claim_loop))
            group.create_task(patient(self._renew_loop))

    async def drain(self) -> None:
        """Takes nothing new and hands back what it holds."""
        self._draining = True
        for held in self.held.values():
            held.stop.lose()
        await self.queue.release(self.name, range(keys.SHARDS))

    async def _claim_loop(self) -> None:
        wire = await self.store.open(f"{self.name}-wait", answer_within=2 * BLOCK_S)
        try:
            shards = list(range(keys.SHARDS))
            while not self._draining:
                await self._until_room()
                random.shuffle(shards)
                wakes = (keys.shard_key("wake", shard) for shard in shards)
                if (token := await wire.call("BLPOP", *wakes, BLOCK_S)) is not None:
                    await self._claim(keys.shard_of_key(token[0].decode()))
        finally:
            wire.close()

    async def _until_room(self) -> None:
        while len(self.held) >= self.settings.capacity:
            self._room.clear()
            await self._room.wait()

    async def _claim(self, shard: int) -> None:
        most = min(CLAIM_MOST, self.settings.capacity - len(self.held))
        for claim in await self.queue.claim(shard, self.name, self.settings.lease_ms, most):
            if (earlier := self.held.get(claim.member)) is not None:
                earlier.stop.lose()  # taken from us while we stalled, and claimed again
            stop = Stop()
            task = asyncio.create_task(self._perform(claim, stop))
            self.held[claim.member] = Held(claim, stop, task)

    async def _perform(self, claim: Claim, stop: Stop) -> None:
        try:
            await self.performer.perform(claim, stop)
        except Exception:  # the runner's edge: recorded here, and the work is given to another try
            log.exception("execution crashed its runner", execution_id=claim.execution_id)
            if self._holds(claim, stop):
                with suppress(Unavailable):  # then the next renewal finds it
                    await self._give_back(claim.member)
        finally:
            if self._holds(claim, stop):
                del self.held[claim.member]
            self._room.set()

    def _holds(self, claim: Claim, stop: Stop) -> bool:
        """Whether this very claim is the one held, and not a later one of the same execution."""
        held = self.held.get(claim.member)
        return held is not None and held.stop is stop

    async def _renew_loop(self) -> None:
        while True:
            await self.queue.show_life(self.name, self.performer.clock.now_ms())
            await asyncio.sleep(self.settings.heartbeat_ms / 1000 * random.uniform(0.8, 1.0))
            shards = {keys.shard_of(held.claim.workspace_id) for held in self.held.values()}
            await asyncio.gather(*(self._renew(shard) for shard in shards))

    async def _give_back(self, member: str) -> None:
        workspace_id, execution_id = member.split(" ", 1)
        event = lost_event(self.performer.clock.now_ms())
        await self.queue.give_back(
            workspace_id, execution_id, self.name, self.settings.max_deliveries, LOST_PROBLEM, event
        )

    async def _renew(self, shard: int) -> None:
        """Settles what the store and this process know differently: lost leases, cancels, claims never heard of."""
        before = dict(self.held)
        phases = await self.queue.renew(shard, self.name, self.settings.lease_ms)
        for member, held in before.items():
            if keys.shard_of(held.claim.workspace_id) != shard:
                continue
            if member not in phases:
                held.stop.lose()
            elif phases[member] == "cancelling":
                held.stop.cancel()
        for member in phases.keys() - self.held.keys() - before.keys():
            await self._give_back(member)

    def _order(self, message: bytes | None) -> None:
        """An order lost on the way is found again by the next renewal."""
        if message is not None and (held := self.held.get(message.decode())):
            held.stop.cancel()


class RunnerHost:
    """The actor around a runner: it opens the kernel, serves, and ends its process if serving ever ends.

    model, placement: the local model and the other nodes, as this cluster offers them.
    place: tells the id of the cluster node it runs on.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, name: str, model: ChatModel, placement: Placement, place: Callable[[], str]
    ):
        settings = Settings()
        self._opened, kernel = await opened_kernel(settings, local=model, name=name)
        self._runner = Runner(
            f"{name}-{uuid4().hex[:8]}",
            *(
                kernel.store,
                kernel.queue,
                kernel.performer(place(), placement),
                kernel.subscriptions,
                settings.runner,
            ),
        )
        self._serving = serve_or_exit(self._runner.serve())

    async def ready(self) -> str:
        return self._runner.name

    async def drain(self) -> None:
        await self._runner.drain()
