"""The only place that talks to Ray: which actors there are, what they are called, and how to reach them.

Everything else in `actors/` is plain Python. What crosses the boundary are frozen models and strings.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray.exceptions import RayError

from actors.models import ModelWorker
from actors.runner import RunnerHost
from actors.supervisor import SupervisorHost
from kernel.errors import CodexError, ProviderError, Unavailable
from kernel.models.seam import ChatRequest, Finish, TextDelta

NAMESPACE = "codexos"
MODEL_WORKER = "model-worker"
SUPERVISOR = "supervisor"
RUNNER = "runner-"

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


def start() -> None:
    """Starts the supervisor and with it the runners. Returns when a runner is ready for work."""
    connect()
    supervisor = _start(SupervisorHost, SUPERVISOR, RayFleet())
    ray.get(supervisor.ready.remote())


def here() -> str:
    """The id of the cluster node that this process runs on."""
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def _start(actor: type, name: str, *args: Any) -> Any:
    """The handle of the actor of that name, started if there is none."""
    remote: Any = ray.remote(actor)
    return remote.options(name=name, **FOREVER).remote(*args)


class RayFleet:
    """The runners of this cluster (`actors.supervisor.Fleet`)."""

    async def runners(self) -> list[str]:
        named = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        return sorted(
            one["name"] for one in named if one["namespace"] == NAMESPACE and one["name"].startswith(RUNNER)
        )

    async def add(self, name: str) -> None:
        runner = await asyncio.to_thread(_start, RunnerHost, name, name, RemoteModel(), here)
        await _answer(runner.ready.remote())

    async def drain(self, name: str) -> None:
        runner = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        await _answer(runner.drain.remote())
        ray.kill(runner)

    async def cpus(self) -> int:
        resources = await asyncio.to_thread(ray.cluster_resources)
        return max(1, int(resources.get("CPU", 1)))

    async def unload_idle_model(self, after_s: float) -> None:
        try:
            worker = await asyncio.to_thread(ray.get_actor, MODEL_WORKER, NAMESPACE)
        except ValueError:
            return
        if await _answer(worker.idle_s.remote()) > after_s:
            ray.kill(worker)


class RemoteModel:
    """The local model, which one worker of the cluster holds for all runners. Started by the first call."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        worker = await asyncio.to_thread(_start, ModelWorker, MODEL_WORKER)
        pieces: Any = worker.stream.options(num_returns="streaming").remote(request)
        try:
            async for piece in pieces:
                yield await piece
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, CodexError):
                raise cause from None
            raise ProviderError("The local model stopped working", None, None, True) from error
        finally:
            ray.cancel(pieces)


async def _answer(reference: Any) -> Any:
    """An actor's answer. Raises Unavailable when the actor is gone or starting."""
    try:
        return await reference
    except RayError as error:
        raise Unavailable("A part of the cluster is restarting") from error
