"""Large ingestion jobs on the cluster, as Ray Data pipelines; beside the directory the only place that talks to Ray.

A job comes in windows of blocks. Each block is one task: read, embedded and written in one go, by a worker process that
is kept warm for the next. Everything a block changes it commits itself, so that only verdicts come back. Windows of
several jobs run side by side, each with its share of the processors; the shares are made anew with each window.
"""

import asyncio
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Any

import ray
import structlog
from ray.exceptions import RayError, RayTaskError

from actors.blocks import BlockWorker
from configs.settings import Ingestion
from kernel.knowledge.work import Block
from kernel.storage.jobs import JobLost, Lease

log = structlog.get_logger()

AHEAD = 8
"""Blocks of a window, for each processor."""
AHEAD_GPU = 64
"""The same where a window starts workers that load a model first."""
NO_PROGRESS_S = 7_200
"""A window in which no block ends for so long is given up: longer than a block of slow documents takes."""
COMPANIONS = ("datasets_stats_actor", "AutoscalingCoordinator")
"""Actors that Ray Data starts beside its workers."""
REST_AFTER_S = 60.0
RETRIES = 3
"""Of a block that its worker died of; then the window ends, and what it has not done is put off."""
ENVIRONMENT = {"env_vars": {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}}
"""Of the workers, which also keeps them for these blocks: nothing else asks for the same."""

_constructing = threading.Lock()


class RayCluster:
    """`kernel.knowledge.run.Cluster` by Ray Data. One for a process.

    No more windows are open at once than there were places for workers at first; jobs take turns then.
    """

    def __init__(self, settings: Ingestion):
        self._settings = settings
        self._open = 0
        self._places = 1
        self._turns: asyncio.Semaphore | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(settings.jobs, "bulk")

    @property
    def blocks(self) -> int:
        return (AHEAD_GPU if self._settings.gpus_per_worker else AHEAD) * self._share()

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> set[int]:
        """The numbers of blocks that are to be run again. Raises JobLost."""
        self._places = await asyncio.to_thread(self._count_places)
        self._turns = self._turns or asyncio.Semaphore(self._places)
        async with self._turns:
            verdicts = await self._begin(lease, blocks)
        if "lost" in verdicts.values():
            raise JobLost("")
        return {block.number for block in blocks if verdicts.get(block.number) != "settled"}

    def _begin(self, lease: Lease, blocks: Sequence[Block]) -> "asyncio.Future[dict[int, str]]":
        """A window counts as open until its tasks have ended, also when nobody waits for them any more."""
        self._open += 1
        loop = asyncio.get_running_loop()
        window = self._threads.submit(self._window, lease, blocks, self._share())
        window.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, loop))
        return asyncio.wrap_future(window)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._open -= 1
        if self._resting is not None:
            self._resting.cancel()
        self._resting = loop.call_later(REST_AFTER_S, self._rest)

    def _rest(self) -> None:
        """Ends what Ray Data keeps beside its workers: some 120 MB each. It starts them again when it needs them."""
        if self._open == 0:
            self._threads.submit(_end_companions)

    def _share(self) -> int:
        """Workers of one window."""
        return max(1, self._places // max(1, self._open))

    def _count_places(self) -> int:
        """How many workers there can be: one processor is left to answers, and more where the settings say so."""
        total = ray.cluster_resources()
        if gpus := self._settings.gpus_per_worker:
            return max(1, int(total.get("GPU", 0) / gpus))
        return max(1, int(self._settings.cpus or total.get("CPU", 1) - 1))

    def _window(self, lease: Lease, blocks: Sequence[Block], share: int) -> dict[int, str]:
        """What became of each block; of those that were lost with their worker, nothing."""
        from ray.data.exceptions import ExecutionTimeoutError

        verdicts: dict[int, str] = {}
        try:
            for told in self._told(lease, blocks, share):
                verdicts |= told
        except RayTaskError:
            raise
        except (RayError, ExecutionTimeoutError) as error:
            log.warning("workers were lost", job_id=lease.job_id, error=type(error).__name__)
        return verdicts

    def _told(self, lease: Lease, blocks: Sequence[Block], share: int) -> Iterator[dict[int, str]]:
        gpus = self._settings.gpus_per_worker
        data = _ray_data()
        function: Any = PoolWorker if gpus else take_in
        rows = [{"block": block.encode()} for block in blocks]
        pool = data.ActorPoolStrategy(min_size=1, max_size=share) if gpus else None
        with _constructing, data.DataContext.current(_context(share)):
            done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                function,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={"lease": lease},
                compute=pool,
                num_cpus=None if gpus else 1,
                num_gpus=gpus or None,
                runtime_env=ENVIRONMENT,
                ray_remote_args_fn=None if gpus else _bounded,
            )
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            told: Any = table
            yield dict(zip(told["number"].to_pylist(), told["verdict"].to_pylist(), strict=True))


def take_in(table: Any, lease: Lease) -> Any:
    """A task: works blocks off, and tells the verdict on each."""
    import pyarrow

    blocks = [Block.decode(text) for text in table["block"].to_pylist()]
    verdicts = [_worker().work(lease, block) for block in blocks]
    return pyarrow.table({"number": [block.number for block in blocks], "verdict": verdicts})


class PoolWorker:
    """The same in an actor that has a GPU."""

    def __call__(self, table: Any, lease: Lease) -> Any:
        return take_in(table, lease)


@lru_cache(maxsize=1)
def _worker() -> BlockWorker:
    """Of this process; kept as long as it lives."""
    return BlockWorker()


@lru_cache(maxsize=1)
def _ray_data() -> Any:
    """Imported with the first window, for the memory it takes; its log is of errors only."""
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # There is no other way yet to bound how often a task is run again.
    warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
    return data


def _end_companions() -> None:
    for named in ray.util.list_named_actors(all_namespaces=True):
        if named["name"] in COMPANIONS:
            with suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(**named))


def _bounded() -> dict[str, Any]:
    return {"max_retries": RETRIES}


def _context(processors: int) -> Any:
    """No progress bars, and no more tasks at once than that."""
    data = _ray_data()
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.execution_options.resource_limits = data.ExecutionResources(cpu=processors)
    return context
