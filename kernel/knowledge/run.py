"""One ingestion job in its driver's hands: it lists, hands out blocks, takes out what is gone, and ends.

The first documents are taken in by the driver itself, so that a small job is done at once; what goes beyond is spread
over the cluster.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import orjson
import structlog

from kernel.errors import CodexError, Problem, Unavailable, ValidationError
from kernel.knowledge.listing import Listing, Seen, in_blocks, weight_of
from kernel.knowledge.patience import patiently
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.suspects import Left, convict, taken_apart
from kernel.knowledge.work import Block, Listed, Order, Place, Tools
from kernel.knowledge.writing import Writer
from kernel.storage.jobs import JobStore, Lease, VectorsMoved

log = structlog.get_logger()

HERE = 10
"""Documents of a block that the driver takes in itself."""
PATIENCE_S = 600.0
"""A job that gets nowhere for so long fails."""
PAUSE_S = 2.0
WAITS_S = (0.2, 0.6, 1.5, 3.0, 6.0, 12.0)
"""Between the tries to do what comes after the blocks."""

How = Callable[[Sequence[Block]], Awaitable[Sequence[Block]]]
"""Works blocks off; returns those that are to be run again."""


class Cluster(Protocol):
    """Where the blocks of large jobs are worked off."""

    @property
    def blocks(self) -> int:
        """How many it is best given at once."""
        ...

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        """Raises JobLost."""
        ...


class Opening(Protocol):
    """Reads anew what a job is worked under."""

    async def place(self, lease: Lease) -> Place:
        """Raises NotFound when the collection is gone."""
        ...


@dataclass(slots=True)
class Run:
    """sync: what is not listed any more is taken out. `listing` tells how far it is.

    at_home: the driver takes the first documents in itself. Not so when they may have cost drivers their lives.
    """

    order: Order
    sync: bool
    listing: Listing
    tools: Tools
    jobs: JobStore
    opening: Opening
    cluster: Cluster
    at_home: bool = True
    pause_s: float = PAUSE_S
    _number: int = field(default=0)
    _documents: int = field(default=0)
    _bytes: int = field(default=0)
    _moved: bool = field(default=False)
    _seen: Seen = field(default_factory=Seen)

    @property
    def lease(self) -> Lease:
        return self.order.lease

    async def perform(self) -> None:
        """To the end, whatever that is. Raises JobLost, and Unavailable when the end could not be written."""
        problem = b""
        try:
            await self.tools.embedder(self.lease.workspace_id, self.order.place.model)
            await self._work()
        except CodexError as error:
            problem = orjson.dumps(error.body())
        finally:
            await self.listing.close()
        status: Literal["completed", "failed"] = "failed" if problem else "completed"
        await patiently(WAITS_S, self.jobs.end, self.lease, status, self._now(), self.listing.count, problem)

    async def _work(self) -> None:
        await self._take_all()
        if self.listing.problems:
            raise _unlisted(self.listing.problems)
        await patiently(WAITS_S, self._tidy)

    async def _take_all(self) -> None:
        while listed := await self.listing.take(self.tools.settings.inline_documents + 1):
            if not self._fits(listed):
                break
            await self._off(listed, HERE, self._here)
        while listed:
            listed += await self.listing.take(self.window - len(listed))
            await self._off(listed, self.tools.settings.block, self._there)
            listed = await self.listing.take(self.window)

    @property
    def window(self) -> int:
        """Documents that the cluster is given at once."""
        return self.cluster.blocks * self.tools.settings.block

    def _fits(self, listed: Sequence[Listed]) -> bool:
        """Whether the driver takes in these too."""
        if not self.at_home:
            return False
        settings = self.tools.settings
        self._documents += len(listed)
        self._bytes += sum(map(weight_of, listed))
        return self._documents <= settings.inline_documents and self._bytes <= settings.inline_mb * 1_000_000

    async def _off(self, listed: Sequence[Listed], size: int, how: How) -> None:
        """Works them off in blocks, those that could not be again and again. Raises Unavailable when nothing moves."""
        if self.sync:
            self._seen.add(self.lease.collection_id, listed)
        blocks: Sequence[Block] = in_blocks(listed, size, self._number)
        self._number += len(blocks)
        stuck = time.monotonic()
        while blocks:
            left = await how(blocks)
            if len(left) < len(blocks):
                stuck = time.monotonic()
            if left and time.monotonic() - stuck > PATIENCE_S:
                raise Unavailable(f"Nothing could be written for {PATIENCE_S / 60:.0f} minutes")
            if left:
                await asyncio.sleep(self.pause_s * random.uniform(0.5, 1.5))
            blocks = left

    async def _here(self, blocks: Sequence[Block]) -> Sequence[Block]:
        return [block for block in blocks if not await self._taken_in(block)]

    async def _taken_in(self, block: Block) -> bool:
        try:
            await self._find_place()
            await self._take_in(block)
        except VectorsMoved:
            self._moved = True
            return False
        except CodexError as error:
            if not error.can_retry:
                raise
            log.warning("block is put off", job_id=self.lease.job_id, block=block.number, error=str(error))
            return False
        return True

    async def _take_in(self, block: Block) -> None:
        await ingest_batch(self.tools, self.order, block)

    async def _there(self, blocks: Sequence[Block]) -> Sequence[Block]:
        left = await self.cluster.work(self.lease, blocks)
        again = [block for block in blocks if block.number in left.again]
        for block in blocks:
            if block.number in left.suspect:
                again += await self._judged(block)
        return again

    async def _judged(self, suspect: Block) -> Sequence[Block]:
        """What is to be run in its place."""
        if len(suspect.listed) > 1:
            apart = await taken_apart(self.jobs, self.order, suspect, self._number)
            self._number += len(apart)
            return apart
        try:
            await self._find_place()
            await self._convict(suspect)
        except VectorsMoved:
            self._moved = True
            return [suspect]
        return []

    async def _convict(self, suspect: Block) -> None:
        await convict(self.tools, self.order, suspect)

    async def _find_place(self) -> None:
        """Reads it anew when it has changed."""
        if self._moved:
            self.order = replace(self.order, place=await self.opening.place(self.lease))
            self._moved = False

    async def _tidy(self) -> None:
        """Takes out what is gone, first out of sight, then its chunks; also those that others have left over."""
        if self.sync:
            await self._drop_gone()
        await Writer(self.tools, self.order).clear()

    async def _drop_gone(self) -> None:
        """Takes documents of these sources out that they did not list."""
        lease, listed, keys = self.lease, self._seen.close(), set(self.order.keys)
        async for entries in self.jobs.manifest(lease.workspace_id, lease.collection_id):
            gone = []
            for document, text in entries.items():
                entry = orjson.loads(text)
                if entry.get("source") in keys and not listed(document):
                    gone.append((document, text, entry))
            if gone:
                await self._drop(gone)

    def _now(self) -> int:
        return self.tools.clock.now_ms()

    async def _drop(self, gone: Sequence[tuple[str, bytes, dict[str, Any]]]) -> None:
        rows = [
            (document, text, orjson.dumps({"document_id": document, "location": entry["location"]}))
            for document, text, entry in gone
        ]
        await self.jobs.drop(self.lease, self._now(), rows)


def _unlisted(problems: Mapping[int, str]) -> ValidationError:
    told = [Problem(f"sources[{source}].location", reason) for source, reason in problems.items()]
    return ValidationError.of("A source could not be read", told)
