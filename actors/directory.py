"""The only place that talks to Ray: which actors there are, what they are called, and how to reach them.

Everything else in `actors/` is plain Python. What crosses the boundary are frozen models and strings.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from actors.courier import CourierHost
from actors.errands import ErrandWorker
from actors.ingestion import IngestionHost
from actors.meter import MeteringHost
from actors.models import ModelWorker
from actors.runner import RunnerHost
from actors.supervisor import SupervisorHost
from configs.settings import Settings
from kernel.agents.flow import Resources
from kernel.errors import CodexError, ProviderError, Unavailable
from kernel.executions.placement import Errand, Piece
from kernel.knowledge.run import Cluster
from kernel.models.seam import ChatRequest, Finish, TextDelta
from kernel.storage.meter import Ask, Packed, Settled, settled

NAMESPACE = "codexos"
MODEL_WORKER = "model-worker"
SUPERVISOR = "supervisor"
RUNNER = "runner-"
METER = "metering-"
INGESTION = "ingestion"
COURIER = "courier-"

FOREVER: dict[str, Any] = {
    "namespace": NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "num_cpus": 0,
    "max_restarts": -1,
}
"""Actors outlive whoever started them and come back when they die; they wait rather than compute, so they
reserve no CPU."""


def connect() -> None:
    """Joins the cluster this process belongs to, unless it is a Ray worker already."""
    if not ray.is_initialized():
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, configure_logging=False)


def start(meters: int, couriers: int) -> None:
    """Starts meters, couriers, supervisor and with it the runners, and ingestion. Returns when a runner is ready for
    work."""
    connect()
    started = [_start(MeteringHost, f"{METER}{lane}") for lane in range(meters)]
    started += [
        _start(CourierHost, f"{COURIER}{number}", f"{COURIER}{number}", number) for number in range(couriers)
    ]
    started.append(_start(SupervisorHost, SUPERVISOR, RayFleet()))
    started.append(_start(IngestionHost, INGESTION, INGESTION, ray_cluster))
    ray.get([actor.ready.remote() for actor in started])


def ray_cluster(settings: Settings) -> Cluster:
    """Imported where it is used: Ray Data takes memory that API replicas have no use for."""
    from actors.bulk import RayCluster

    return RayCluster(settings.ingestion)


def here() -> str:
    """The id of the cluster node that this process runs on."""
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def _start(actor: type, name: str, *args: Any) -> Any:
    """The handle of the actor of that name, started if there is none."""
    remote: Any = ray.remote(actor)
    return remote.options(name=name, **FOREVER).remote(*args)


class RayFleet:
    """The runners of this cluster (`actors.supervisor.Fleet`). Raises Unavailable for what Ray cannot do now."""

    async def runners(self) -> list[str]:
        named = await _asked(ray.util.list_named_actors, True)
        return sorted(
            one["name"] for one in named if one["namespace"] == NAMESPACE and one["name"].startswith(RUNNER)
        )

    async def add(self, name: str) -> None:
        runner = await _asked(_start, RunnerHost, name, name, RemoteModel(), RayPlacement(), here)
        await _answer(runner.ready.remote())

    async def drain(self, name: str) -> None:
        runner = await _asked(ray.get_actor, name, NAMESPACE)
        await _answer(runner.drain.remote())
        await asyncio.to_thread(ray.kill, runner)

    async def cpus(self) -> int:
        resources = await _asked(ray.cluster_resources)
        return max(1, int(resources.get("CPU", 1)))

    async def unload_idle_model(self, after_s: float) -> None:
        try:
            worker = await _asked(ray.get_actor, MODEL_WORKER, NAMESPACE)
        except Unavailable:
            return
        if await _answer(worker.idle_s.remote()) > after_s:
            ray.kill(worker)


class RemoteMeter:
    """The metering actors (`kernel.metering.admission.Meter`), as every API replica reaches them."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._actors: dict[int, Any] = {}

    async def settle(self, lane: int, asks: Sequence[Ask]) -> Sequence[Settled]:
        return await settled(asks, partial(self._settle, lane))

    async def _settle(self, lane: int, steps: Sequence[Packed]) -> Sequence[bytes]:
        if lane not in self._actors:
            self._actors[lane] = await _asked(ray.get_actor, f"{METER}{lane}", NAMESPACE)
        try:
            answers: Sequence[bytes] = await _answer(self._actors[lane].settle.remote(steps))
        except Unavailable:
            self._actors.pop(lane, None)  # another may have been started under its name
            raise
        return answers


class RemoteModel:
    """The local model, which one worker of the cluster holds for all runners. Started by the first call."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        worker = await asyncio.to_thread(_start, ModelWorker, MODEL_WORKER)
        pieces: Any = worker.stream.options(num_returns="streaming").remote(request)
        try:
            async for piece in pieces:
                yield await piece
        except RayError as error:
            stopped = ProviderError("The local model stopped working", None, None, True)
            raise _cause(error, stopped) from None
        finally:
            ray.cancel(pieces)


class RayPlacement:
    """Runs nodes where the resources are that they ask for (`kernel.executions.placement.Placement`)."""

    async def run(self, errand: Errand, resources: Resources) -> AsyncGenerator[Piece]:
        worker = await asyncio.to_thread(_start_errand, resources)
        pieces: Any = worker.run.options(num_returns="streaming").remote(errand)
        try:
            async for piece in pieces:
                yield await piece
        except RayError as error:
            raise _cause(error, Unavailable("The place where the node ran is lost")) from None
        finally:
            ray.kill(worker)


def _start_errand(resources: Resources) -> Any:
    asked: dict[str, Any] = {"num_cpus": resources.num_cpus or 0, "num_gpus": resources.num_gpus or 0}
    if resources.memory_mb:
        asked["memory"] = resources.memory_mb * 1_000_000
    if resources.accelerator_type:
        asked["accelerator_type"] = resources.accelerator_type
    if resources.labels:
        asked["label_selector"] = resources.labels
    remote: Any = ray.remote(ErrandWorker)
    return remote.options(**asked).remote(RemoteModel(), here, resources.num_gpus or 0.0)


def _cause(error: RayError, otherwise: CodexError) -> CodexError:
    """What the far side raised, if it was one of ours."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, CodexError) else otherwise


async def _asked(question: Callable[..., Any], *args: Any) -> Any:
    """What Ray answers to a blocking call. Raises Unavailable when it cannot, or knows no such actor."""
    try:
        return await asyncio.to_thread(question, *args)
    except (RayError, ValueError) as error:
        raise Unavailable("The cluster cannot be asked") from error


async def _answer(reference: Any) -> Any:
    """An actor's answer. Raises Unavailable when the actor is gone or starting."""
    try:
        return await reference
    except RayError as error:
        raise Unavailable("A part of the cluster is restarting") from error
