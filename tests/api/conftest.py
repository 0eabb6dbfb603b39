"""The whole API in this process, over a real store: no Ray, no network but for WebSockets."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI

from actors.runner import Runner
from configs.settings import Settings
from kernel.access.access import Access
from kernel.access.members import MemberCreate
from kernel.access.record import ApiKey, KeyCreate
from kernel.access.roles import Role
from kernel.access.scopes import Scope
from kernel.access.workspaces import WorkspaceCreate
from kernel.assembly import Kernel
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block
from kernel.storage import keys
from kernel.storage.access import id_in
from kernel.storage.jobs import Lease, Room
from kernel.storage.keys import shard_of
from kernel.storage.store import Store
from serve_apps.api import create_app

HELLO = {
    "nodes": [{"id": "hello", "type": "template", "config": {"template": "Hello {{ input.name }}"}}],
    "edges": [],
}
FOREVER = {
    "nodes": [
        {
            "id": "slow",
            "type": "llm",
            "config": {"model": "scripted", "prompt": "x", "script": {"delay_ms": 600_000}},
        }
    ],
    "edges": [],
}


@dataclass(frozen=True)
class Client:
    """Calls the API with one key."""

    http: httpx2.AsyncClient
    key: str | None

    async def __call__(self, method: str, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        own = {"authorization": f"Bearer {self.key}"} if self.key else {}
        headers = [*own.items(), *options.pop("headers", {}).items()]
        return await self.http.request(method, path, json=json, headers=headers, **options)

    async def ok(self, method: str, path: str, json: Any = None, **options: Any) -> Any:
        """The body of an answer that must be a success."""
        answer = await self(method, path, json, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def agent(self, flow: Any = HELLO, **fields: Any) -> str:
        made: dict[str, str] = await self.ok("POST", "/v1/agents", {"name": "Greeter", "flow": flow} | fields)
        return made["id"]

    async def execution(self, flow: Any = HELLO, **options: Any) -> str:
        body = {"flow": flow, "input": {"name": "Ada"}, "options": options}
        started: dict[str, str] = await self.ok("POST", "/v1/executions", body)
        return started["execution_id"]

    async def collection(self, name: str = "docs", **fields: Any) -> str:
        made: dict[str, str] = await self.ok("POST", "/v1/rag/collections", {"name": name} | fields)
        return made["id"]

    async def ended(self, flow: Any = HELLO) -> str:
        body = {"flow": flow, "input": {"name": "Ada"}}
        ended: dict[str, str] = await self.ok("POST", "/v1/executions?wait=20", body)
        return ended["id"]


@pytest.fixture
def settings(valkey_url: str, milvus_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        store={"url": valkey_url},
        vectors={"url": milvus_url},
        scripted_model=True,
        runner={"coalesce_ms": 5},
    )


@pytest.fixture
async def kernel(settings: Settings, store: Store) -> AsyncGenerator[Kernel]:
    async with Kernel.opened(settings) as kernel:
        yield kernel


@pytest.fixture
def app(settings: Settings, kernel: Kernel) -> FastAPI:
    @asynccontextmanager
    async def as_opened(settings: Settings) -> AsyncGenerator[Kernel]:
        yield kernel

    app = create_app(settings, as_opened)
    app.state.kernel = kernel
    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncGenerator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.test") as client:
        yield client


@pytest.fixture
async def key(kernel: Kernel) -> str:
    """The owner's key."""
    key = await kernel.access.bootstrap("test")
    assert key is not None
    return key


@pytest.fixture
async def owner(http: httpx2.AsyncClient, key: str) -> Client:
    return Client(http, key)


@pytest.fixture
def anonymous(http: httpx2.AsyncClient) -> Client:
    return Client(http, None)


@pytest.fixture
async def stranger(http: httpx2.AsyncClient, kernel: Kernel, owner: Client) -> Client:
    """A key of another user in another workspace, with every right there."""
    access, who = kernel.access, await kernel.access.authenticate(owner.key or "")
    workspace = await access.workspaces.create(who, WorkspaceCreate(name="Elsewhere"))
    joined = await access.members.add(who, workspace.id, MemberCreate(name="Stranger", role=Role.OWNER))
    await access.members.change(who, workspace.id, who.user_id, None)
    key = ApiKey(
        id=id_in(shard_of(workspace.id), "key"),
        workspace_id=workspace.id,
        user_id=joined["user_id"],
        environment="test",
        name="Stranger",
        scopes=[Scope.ADMIN],
        created_at=kernel.clock.now_ms(),
    )
    return Client(http, (await access.keys.store(key, "")).token)


async def limited(access: Access, owner: Client, **order: Any) -> str:
    """Another key, such as `scopes=["agents:read"]`."""
    who = await access.authenticate(owner.key or "")
    issued = await access.keys.create(who, KeyCreate.model_validate({"name": "limited"} | order))
    return issued.token


@pytest.fixture
async def runner(kernel: Kernel) -> AsyncGenerator[Runner]:
    """Executions run while a test asks for this."""
    parts = (
        kernel.store,
        kernel.queue,
        kernel.performer("test"),
        kernel.subscriptions,
        kernel.settings.runner,
    )
    async with serving(Runner("runner-test", *parts)) as runner:
        yield runner


class Server(Protocol):
    """A runner or a driver."""

    held: Any

    async def serve(self) -> None: ...


S = TypeVar("S", bound=Server)


@asynccontextmanager
async def serving(server: S) -> AsyncGenerator[S]:
    """It works while the block runs; then it is stopped with all that it holds."""
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        tasks = [task, *(held.task for held in server.held.values())]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncGenerator[str]:
    """The application behind a real socket: host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve([listener]))
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


class Nowhere:
    """A cluster that is not to be asked."""

    blocks = 1

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        raise AssertionError("nothing should go to the cluster")


async def take_in(kernel: Kernel, client: Client, collection_id: str, *sources: dict[str, Any]) -> str:
    """Ingests and waits; returns the job's id."""
    path = f"/v1/rag/collections/{collection_id}/ingest"
    job: str = (await client.ok("POST", path, {"sources": sources}))["job_id"]
    await work_off(kernel)
    assert (await client.ok("GET", f"/v1/rag/jobs/{job}"))["status"] == "completed"
    return job


async def work_off(kernel: Kernel) -> None:
    """Every ingestion job that waits, one after the other."""
    for shard in range(keys.SHARDS):
        for claim in await kernel.ingestion.store.claim(shard, "test", 60_000, Room(9, 9, 9), 5, b"{}"):
            await (await kernel.ingestion.begin(claim.lease, Nowhere())).perform()
