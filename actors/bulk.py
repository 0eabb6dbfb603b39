"""Large ingestion jobs on the cluster, as Ray Data pipelines; beside the directory the only place that talks to Ray.

A job comes in windows of blocks. Each block is one task: read, embedded and written in one go, by a worker process that
is kept warm for the next. Everything a block changes it commits itself, so that only verdicts come back. Windows of
several jobs run side by side, each with its share of the processors; the shares are made anew with each window.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from actors.blocks import BlockWorker
from configs.settings import Ingestion
from kernel.errors import Unavailable
from kernel.knowledge.work import Block, Listed
from kernel.storage.jobs import JobLost, Lease

AHEAD = 16
"""Blocks of a window, for each processor."""
AHEAD_GPU = 64
"""The same where a window starts workers that load a model first."""
NO_PROGRESS_S = 900
ENVIRONMENT = {"env_vars": {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}}
"""Of the workers, which also keeps them for these blocks: nothing else asks for the same."""

_constructing = threading.Lock()


class RayCluster:
    """`kernel.knowledge.run.Cluster` by Ray Data. One for a process."""

    def __init__(self, settings: Ingestion):
        self._settings = settings
        self._active = 0
        self._threads = ThreadPoolExecutor(settings.jobs, "bulk")
        logging.getLogger("ray.data").setLevel(logging.WARNING)

    @property
    def blocks(self) -> int:
        return (AHEAD_GPU if self._settings.gpus_per_worker else AHEAD) * self._share()

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> set[int]:
        """The numbers of blocks that are to be run again. Raises JobLost, Unavailable."""
        self._active += 1
        try:
            loop = asyncio.get_running_loop()
            verdicts = await loop.run_in_executor(self._threads, self._window, lease, blocks, self._share())
        finally:
            self._active -= 1
        if "lost" in verdicts.values():
            raise JobLost("")
        return {block.number for block in blocks if verdicts.get(block.number) != "settled"}

    def _share(self) -> int:
        """Processors for one job's window."""
        return max(1, self._processors() // max(1, self._active))

    def _processors(self) -> int:
        if self._settings.cpus:
            return max(1, int(self._settings.cpus))
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _window(self, lease: Lease, blocks: Sequence[Block], share: int) -> dict[int, str]:
        """What became of each block; of those that were lost with their worker, nothing."""
        verdicts: dict[int, str] = {}
        try:
            for told in self._told(lease, blocks, share):
                verdicts |= told
        except RayTaskError:
            raise
        except RayError as error:
            if not verdicts:
                raise Unavailable("Workers of the cluster were lost") from error
        return verdicts

    def _told(self, lease: Lease, blocks: Sequence[Block], share: int) -> Iterator[dict[int, str]]:
        gpus = self._settings.gpus_per_worker
        function: Any = PoolWorker if gpus else take_in
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=share) if gpus else None
        with _constructing, ray.data.DataContext.current(_context(share)):
            done = ray.data.from_arrow([_table(block) for block in blocks]).map_batches(
                function,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"lease": lease},
                compute=pool,
                num_cpus=None if gpus else 1,
                num_gpus=gpus or None,
                runtime_env=ENVIRONMENT,
            )
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            rows: Any = table
            yield dict(zip(rows["number"].to_pylist(), rows["verdict"].to_pylist(), strict=True))


def take_in(table: pa.Table, lease: Lease) -> pa.Table:
    """A task: works blocks off, and tells the verdict on each."""
    numbers: list[int] = table["number"].to_pylist()
    listed = [Listed.decode(text) for text in table["listed"].to_pylist()]
    blocks = [
        Block(number, [one for one, its in zip(listed, numbers, strict=True) if its == number])
        for number in dict.fromkeys(numbers)
    ]
    verdicts = [_worker().work(lease, block) for block in blocks]
    return pa.table({"number": [block.number for block in blocks], "verdict": verdicts})


class PoolWorker:
    """The same in an actor that has a GPU."""

    def __call__(self, table: pa.Table, lease: Lease) -> pa.Table:
        return take_in(table, lease)


@lru_cache(maxsize=1)
def _worker() -> BlockWorker:
    """Of this process; kept as long as it lives."""
    return BlockWorker()


def _table(block: Block) -> pa.Table:
    listed = [one.encode() for one in block.listed]
    return pa.table({"number": [block.number] * len(listed), "listed": pa.array(listed, pa.binary())})


def _context(processors: int) -> Any:
    """No progress bars, and no more tasks at once than that."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=processors)
    return context
