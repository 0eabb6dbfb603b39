"""The driver of ingestion: it claims jobs, keeps its leases on them alive, and performs them.

Small jobs it does itself, at once; the blocks of large ones go to the cluster. It holds no truth: killed, its leases
end, and the next driver counts a job's documents anew, of which those that were taken in are not touched again.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

import orjson
import structlog

from actors.hosting import opened_kernel, patient, serve_or_exit
from configs.settings import Settings
from kernel.errors import CodexError, InternalError, Unavailable
from kernel.knowledge.ingestion import Ingestion
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.sources.scratch import sweep
from kernel.storage import keys
from kernel.storage.jobs import Claim, JobLost, Lease, Room
from kernel.storage.subscriptions import Subscriptions

log = structlog.get_logger()

LEASE_MS = 6_000
HEARTBEAT_S = 1.5
LOOK_EVERY_S = 1.0
"""Word of new jobs comes by pub/sub; this is for when it was lost, and for jobs of lost drivers."""
SMALL = 8
"""Small jobs at once: they do not wait for large ones."""
MOST_DELIVERIES = 5
LOST = InternalError("The job stopped its driver again and again")


@dataclass(slots=True)
class Held:
    """A claimed job. run: once it is begun."""

    claim: Claim
    task: "asyncio.Task[None]"
    run: Run | None = None


@dataclass(slots=True)
class Driver:
    """`name` is unique to this process: a restarted driver is another one. jobs: large ones at once."""

    name: str
    ingestion: Ingestion
    subscriptions: Subscriptions
    cluster: Cluster
    jobs: int
    lease_ms: int = LEASE_MS
    heartbeat_s: float = HEARTBEAT_S
    held: dict[str, Held] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Runs until cancelled."""
        await self.subscriptions.listen(keys.channel("jobs"), self._told)
        async with asyncio.TaskGroup() as group:
            group.create_task(patient(self._claim_loop))
            group.create_task(patient(self._renew_loop))

    async def _claim_loop(self) -> None:
        shards = list(range(keys.SHARDS))
        while True:
            self._news.clear()
            random.shuffle(shards)
            while await self._claim(shards):
                pass
            try:
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.8, 1.2)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _claim(self, shards: list[int]) -> bool:
        """One large job of each shard and all the small ones, as far as there is room. Whether there may be more."""
        any_large = False
        for shard in shards:
            room = self._room()
            if room.small + room.large == 0:
                return False
            one = Room(room.small, min(room.large, 1), room.share)
            problem = orjson.dumps(LOST.body())
            for claim in await self.ingestion.store.claim(
                shard, self.name, self.lease_ms, one, MOST_DELIVERIES, problem
            ):
                self._begin(claim)
                any_large = any_large or claim.size == "large"
        return any_large

    def _room(self) -> Room:
        """Half of the places for large jobs are one workspace's at most."""
        sizes = [held.claim.size for held in self.held.values()]
        small, large = SMALL - sizes.count("small"), self.jobs - sizes.count("large")
        return Room(max(0, small), max(0, large), max(1, self.jobs // 2))

    def _begin(self, claim: Claim) -> None:
        member = claim.lease.member
        if (earlier := self.held.get(member)) is not None:
            earlier.task.cancel()  # taken from us while we stalled, and claimed again
        self.held[member] = held = Held(claim, asyncio.create_task(self._perform(claim)))
        held.task.add_done_callback(lambda _: self._forget(member, held))

    def _forget(self, member: str, held: Held) -> None:
        if self.held.get(member) is held:
            del self.held[member]
        self._news.set()

    async def _perform(self, claim: Claim) -> None:
        lease = claim.lease
        try:
            run = await self.ingestion.begin(lease, self.cluster, claim.lost)
            self.held[lease.member].run = run
            await run.perform()
            self.held.pop(lease.member, None)  # it has ended: nothing is left to renew
            await self.ingestion.specs.forget(lease)
        except JobLost:
            log.info("job is not ours any more", job_id=lease.job_id)
        except Unavailable as error:
            log.warning("job is left to its lease", job_id=lease.job_id, error=str(error))
        except CodexError as error:
            await self._fail(lease, error)
        except Exception:  # the driver's edge: recorded here, and the job fails
            log.exception("job crashed its driver", job_id=lease.job_id)
            await self._fail(lease, InternalError())

    async def _fail(self, lease: Lease, error: CodexError) -> None:
        problem, now = orjson.dumps(error.body()), self.ingestion.tools.clock.now_ms()
        try:
            await self.ingestion.store.end(lease, "failed", now, 0, problem)
        except Unavailable:
            log.warning("job is left to its lease", job_id=lease.job_id)

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s * random.uniform(0.8, 1.0))
            await self._renew(list(self.held.values()))

    async def _renew(self, held: list[Held]) -> None:
        """Also finds out what was cancelled, or taken by another driver."""
        for shard in {keys.shard_of(one.claim.lease.workspace_id) for one in held}:
            some = [one for one in held if keys.shard_of(one.claim.lease.workspace_id) == shard]
            kept = await self.ingestion.store.renew(shard, self.lease_ms, [_progress(one) for one in some])
            for one, ours in zip(some, kept, strict=True):
                if not ours:
                    one.task.cancel()

    def _told(self, message: bytes | None) -> None:
        """A job waits, or one was cancelled."""
        held = self.held.get(message.decode()) if message is not None else None
        if held is None:
            self._news.set()
        else:
            held.task.cancel()


def _progress(held: Held) -> tuple[Lease, int, bool]:
    run = held.run
    return held.claim.lease, run.listing.count if run else 0, run.listing.ended if run else False


class IngestionHost:
    """The actor around a driver. cluster: where the blocks of large jobs are worked off."""

    async def __init__(self, name: str, cluster: Callable[[Settings], Cluster]):  # type: ignore[misc]  # Ray awaits it
        settings = Settings()
        await asyncio.to_thread(sweep)
        self._opened, kernel = await opened_kernel(settings, name=name)
        self._driver = Driver(
            f"{name}-{uuid4().hex[:8]}",
            kernel.ingestion,
            kernel.subscriptions,
            cluster(settings),
            settings.ingestion.jobs,
        )
        self._serving = serve_or_exit(self._driver.serve())

    async def ready(self) -> str:
        return self._driver.name
