"""Large ingestion jobs on the cluster, as Ray Data pipelines; beside the directory the only place that talks to Ray.

A job comes in windows of blocks. Each block is one task: read, embedded and written in one go, by a worker process that
is kept warm for the next. Everything a block changes it commits itself, so that only verdicts come back. Windows of
several jobs run side by side, each with its share of the processors; the shares are made anew with each window.

The pipelines run in a child process that joins Ray as a driver of its own, and ends when nothing was to do for a
minute. Ray keeps workers only for a driver that lives, and whoever started the actor that asks has long ended: it would
get a new worker for each window, and one at a time. What Ray Data takes of memory ends with the child, too.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import orjson
import ray
import structlog
from ray.exceptions import RayError, RayTaskError

from configs.settings import Ingestion, Settings
from kernel.frames import receive, send
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block
from kernel.logs import configure
from kernel.storage.jobs import JobLost, Lease

if TYPE_CHECKING:
    from actors.blocks import BlockWorker

log = structlog.get_logger()

AHEAD = 32
"""Blocks of a window, for each processor."""
AHEAD_GPU = 64
"""The same where a window starts workers that load a model first."""
NO_PROGRESS_S = 7_200
"""A window in which no block ends for so long is given up: longer than a block of slow documents takes."""
COMPANIONS = ("datasets_stats_actor", "AutoscalingCoordinator")
"""Actors that Ray Data starts beside its workers."""
REST_AFTER_S = 60.0
RETRIES = 2
"""Of a block that its worker died of; then it is suspect."""
ENVIRONMENT = {"env_vars": {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}}
"""Of the workers, which also keeps them for these blocks: nothing else asks for the same."""
PROGRAM = "from actors.bulk import drive; drive()"
"""Of the child. Not `-m`: what it hands to workers would be of a module that they do not know."""

MOST_WARM = 16
CPUS = 0.75
"""That a worker asks Ray for, so that one fits on each processor beside the replicas, which ask for a little."""
TITLE = "ray::IngestionPipelines"
"""Of the child, as Ray names its own."""

_constructing = threading.Lock()


@dataclass(frozen=True, slots=True)
class Window:
    """What the child is asked. blocks: as `Block.encode` has them. share: of the workers, of whom each has `gpus`."""

    lease: Lease
    blocks: Sequence[str]
    share: int
    gpus: float

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Window":
        return cls(**told | {"lease": Lease(**told["lease"])})


@dataclass(frozen=True, slots=True)
class Told:
    """What it answers. verdicts: what became of each block; of those that were lost with their workers, nothing. lost:
    why not all were tried. failed: what went wrong otherwise, as a traceback."""

    verdicts: dict[int, str] = field(default_factory=dict)
    lost: str = ""
    failed: str = ""

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Told":
        return cls(**told | {"verdicts": {int(number): one for number, one in told["verdicts"].items()}})


class WindowFailed(Exception):
    """Our own fault, in the words of a traceback."""


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
        self._child: _Child | None = None

    @property
    def blocks(self) -> int:
        return (AHEAD_GPU if self._settings.gpus_per_worker else AHEAD) * self._share()

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        """Suspect is a block without a verdict, if others of its window have one or it was alone. Raises JobLost."""
        self._places = await asyncio.to_thread(self._count_places)
        child = self._living()
        self._turns = self._turns or asyncio.Semaphore(self._places)
        async with self._turns:
            told = await self._begin(child, lease, blocks)
        if told.failed:
            raise WindowFailed(told.failed)
        if told.lost:
            log.warning("a window was lost", job_id=lease.job_id, reason=told.lost)
        if "lost" in told.verdicts.values():
            raise JobLost("")
        again = {number for number, verdict in told.verdicts.items() if verdict == "again"}
        silent = {block.number for block in blocks} - told.verdicts.keys()
        if told.lost or (not told.verdicts and len(blocks) > 1):
            return Left(again | silent)
        return Left(again, silent)

    def close(self) -> None:
        """Ends the child, and with it what it has under way."""
        if self._child is not None:
            self._child.end()

    def _living(self) -> "_Child":
        if self._resting is not None:
            self._resting.cancel()
        if self._child is None or self._child.ended:
            warm = 0 if self._settings.gpus_per_worker else min(self._places, MOST_WARM)
            self._child = _Child(ray.get_runtime_context().gcs_address, warm)
        return self._child

    def _begin(self, child: "_Child", lease: Lease, blocks: Sequence[Block]) -> "asyncio.Future[Told]":
        """A window counts as open until its tasks have ended, also when nobody waits for them any more."""
        self._open += 1
        loop = asyncio.get_running_loop()
        encoded = [block.encode().decode() for block in blocks]
        window = child.ask(Window(lease, encoded, self._share(), self._settings.gpus_per_worker))
        window.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, loop))
        return asyncio.wrap_future(window)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._open -= 1
        if self._resting is not None:
            self._resting.cancel()
        self._resting = loop.call_later(REST_AFTER_S, self._rest)

    def _rest(self) -> None:
        if self._open == 0:
            self.close()

    def _share(self) -> int:
        """Workers of one window: all, which Ray hands to windows by turns, unless they are given a number together."""
        if not self._settings.cpus and not self._settings.gpus_per_worker:
            return self._places
        return max(1, self._places // max(1, self._open))

    def _count_places(self) -> int:
        """How many workers there can be. They take what answers leave of a processor, so none is kept from them."""
        total = ray.cluster_resources()
        if gpus := self._settings.gpus_per_worker:
            return max(1, int(total.get("GPU", 0) / gpus))
        return max(1, int(self._settings.cpus or total.get("CPU", 1)))


class _Child:
    """The process that drives the pipelines, as whoever asks it has it."""

    def __init__(self, address: str, warm: int):
        """warm: workers that are started before Ray Data, which takes seconds to begin, asks for them."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, address, str(warm)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        self._socket, self._line = ours, ours.makefile("rwb")
        self._changing, self._sender = threading.Lock(), ThreadPoolExecutor(1, "bulk")
        self._asked: dict[int, Future[Told]] = {}
        self._count = 0
        self.ended = False
        threading.Thread(target=self._listen, name="bulk", daemon=True).start()

    def ask(self, window: Window) -> "Future[Told]":
        future: Future[Told] = Future()
        future.set_running_or_notify_cancel()  # whoever stops waiting does not cancel it
        with self._changing:
            self._count += 1
            self._asked[self._count] = future
            if self.ended:
                self._give_up()
            else:
                self._sender.submit(self._send, self._count, window)
        return future

    def _send(self, number: int, window: Window) -> None:
        """The child reads nothing while it starts. When it has died, `_listen` answers for it."""
        with suppress(OSError):
            send(cast(Any, self._line), orjson.dumps((number, window)))

    def _listen(self) -> None:
        with suppress(OSError):
            while frame := receive(cast(Any, self._line)):
                number, told = orjson.loads(frame)
                self._asked.pop(number).set_result(Told.of(told))
        self._process.wait()
        with self._changing:
            self.ended = True
            self._give_up()
        self._sender.shutdown()
        with suppress(OSError):  # of what could not be sent
            self._line.close()
        self._socket.close()

    def _give_up(self) -> None:
        while self._asked:
            self._asked.popitem()[1].set_result(Told(lost="the pipelines' process ended"))

    def end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def drive() -> None:
    """The child: runs windows, as many at once as it is asked. It ends when the other side does."""
    configure(Settings().log_level)
    cast(Any, ray._raylet).setproctitle(TITLE)
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    warming: Any = ray.remote(_warm).options(num_cpus=CPUS, runtime_env=ENVIRONMENT)
    for _ in range(int(sys.argv[2])):
        warming.remote()
    _ray_data()
    threads, answering = ThreadPoolExecutor(64, "window"), threading.Lock()
    with socket.socket(fileno=0) as line, line.makefile("rwb") as stream:

        def work(number: int, window: Window) -> None:
            told = _worked(window)
            with answering, suppress(OSError):
                send(cast(Any, stream), orjson.dumps((number, told), option=orjson.OPT_NON_STR_KEYS))

        with suppress(OSError):
            while frame := receive(cast(Any, stream)):
                number, window = orjson.loads(frame)
                threads.submit(work, number, Window.of(window))
    _end_companions()
    os._exit(0)


def _worked(window: Window) -> Told:
    from ray.data.exceptions import ExecutionTimeoutError

    verdicts: dict[int, str] = {}
    try:
        for some in _verdicts(window):
            verdicts |= some
    except RayTaskError:
        return Told(verdicts, failed=traceback.format_exc())
    except (RayError, ExecutionTimeoutError) as error:
        return Told(verdicts, lost=repr(error))
    return Told(verdicts)


def _verdicts(window: Window) -> Iterator[dict[int, str]]:
    data, gpus = _ray_data(), window.gpus
    function: Any = PoolWorker if gpus else take_in
    rows = [{"block": block} for block in window.blocks]
    pool = data.ActorPoolStrategy(min_size=1, max_size=window.share) if gpus else None
    with _constructing, data.DataContext.current(_context(window.share if gpus else window.share * CPUS)):
        done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            function,
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"lease": window.lease},
            compute=pool,
            num_cpus=None if gpus else CPUS,
            num_gpus=gpus or None,
            runtime_env=ENVIRONMENT,
            ray_remote_args_fn=None if gpus else _bounded,
            **({"max_task_retries": RETRIES} if gpus else {}),
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
def _worker() -> "BlockWorker":
    """Of this process; kept as long as it lives."""
    from actors.blocks import BlockWorker

    return BlockWorker()


def _warm() -> None:
    _worker()
    _ray_data()


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


def _context(processors: float) -> Any:
    """No progress bars, no more tasks at once than that, and one that fails does not end the others."""
    data = _ray_data()
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.execution_options.resource_limits = data.ExecutionResources(cpu=processors)
    return context
