"""A worker process of large ingestion jobs: it keeps what blocks are worked with, from one block to the next."""

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

import structlog

from actors.hosting import opened_kernel
from configs.settings import Settings
from kernel.errors import CodexError
from kernel.knowledge.sources.scratch import sweep
from kernel.knowledge.work import Block, Order
from kernel.storage.jobs import JobLost, Lease, VectorsMoved

log = structlog.get_logger()

T = TypeVar("T")
Verdict = Literal["settled", "again", "lost"]

MOST_ORDERS = 8
NICENESS = 10
"""Answers come first: the processor is these workers' while nobody else wants it."""


class BlockWorker:
    """Blocking, for one caller at a time. It has an event loop of its own, in a thread that ends with the process."""

    def __init__(self) -> None:
        os.nice(NICENESS)
        sweep()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="blocks", daemon=True).start()
        self._orders: OrderedDict[Lease, Order] = OrderedDict()
        self._opened, self._kernel = self._run(opened_kernel(Settings(), name="blocks"))

    def work(self, lease: Lease, block: Block) -> Verdict:
        """What became of a block: settled, to be run again, or the job is not its driver's any more."""
        return self._run(self._work(lease, block))

    async def _work(self, lease: Lease, block: Block) -> Verdict:
        try:
            await self._kernel.ingestion.take_in(await self._order(lease), block)
        except JobLost:
            return "lost"
        except VectorsMoved:
            self._orders.pop(lease, None)
            return "again"
        except CodexError as error:
            if not error.can_retry:
                raise
            log.warning("block is put off", job_id=lease.job_id, block=block.number, error=str(error))
            return "again"
        return "settled"

    async def _order(self, lease: Lease) -> Order:
        """Kept for the next blocks: its sources may have read ahead."""
        if lease not in self._orders:
            _, self._orders[lease] = await self._kernel.ingestion.specs.open(lease)
        self._orders.move_to_end(lease)
        while len(self._orders) > MOST_ORDERS:
            self._orders.popitem(last=False)
        return self._orders[lease]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
