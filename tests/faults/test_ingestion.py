"""Processes are killed while a large job runs. It goes on by itself, and in the end its collection has the very chunks
of a run that nobody disturbed, in the vector store and to every search."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import httpx2
import orjson
import psutil
import pytest

from cluster.environment import child_environment
from cluster.layout import ROOT, Home
from cluster.state import read_state
from configs.settings import Settings
from kernel.knowledge.contract import chunk_id
from kernel.knowledge.record import CollectionRecord
from kernel.knowledge.suspects import REASON
from kernel.storage.jobs import JobStore
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.store import opened
from kernel.storage.vectors import VectorStore
from tests.platform import Platform, free_port, until
from tests.sites import path_of
from tests.web import Exchange, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

COUNT = 2_000
KILLS = 3
BATCH = 1_000
DOCUMENTS = [
    {"id": f"{n:04}", "text": "".join(f"Line {line} of the report {n:04}. " for line in range(12))}
    for n in range(COUNT)
]
VICTIMS = {
    "driver": "ray::IngestionHost",
    "pipelines": "ray::IngestionPipelines",
    "worker": "ray::MapBatches",
}
"""By what their command line says."""

NODE = """
import sys
from ray._private.node import Node
from ray._private.parameter import RayParams
ports = {"min_worker_port": 0, "max_worker_port": 0, "dashboard_agent_listen_port": int(sys.argv[2])}
place = {"gcs_address": sys.argv[1], "node_ip_address": "127.0.0.1", "include_log_monitor": False}
node = Node(RayParams(num_cpus=1, object_store_memory=80_000_000, **ports, **place), head=False, spawn_reaper=False)
node.all_processes["raylet"][0].process.wait()
"""
"""A node as `ray start` begins it, which itself refuses a second one on loopback. Ends with its raylet."""

Chunks = set[tuple[str, int, str]]
"""Of documents: id, position, digest of the text."""


@pytest.fixture
async def api(platform: Platform) -> AsyncGenerator[httpx2.AsyncClient]:
    async with platform.client() as client:
        yield client


@dataclass(frozen=True)
class Job:
    """One that fills a collection of its own."""

    api: httpx2.AsyncClient
    id: str
    collection_id: str

    @classmethod
    async def begun(cls, api: httpx2.AsyncClient) -> "Job":
        body = {"name": os.urandom(8).hex(), "chunk_size": 250, "chunk_overlap": 50}
        collection = (await asked(api, "POST", "/rag/collections", body))["id"]
        path = f"/rag/collections/{collection}/documents"
        return cls(api, (await asked(api, "POST", path, {"documents": DOCUMENTS}))["job_id"], collection)

    async def shown(self) -> dict[str, Any]:
        return await asked(self.api, "GET", f"/rag/jobs/{self.id}")

    async def is_over(self) -> bool:
        return (await self.shown())["status"] not in ("queued", "running")

    async def ended(self) -> dict[str, Any]:
        async with asyncio.timeout(150):
            while not await self.is_over():  # noqa: ASYNC110  # across a store that is killed, there is nothing to follow
                await asyncio.sleep(0.2)
        return await self.shown()


async def asked(api: httpx2.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    """The answer. While the store is away, it asks again: with a key, so that nothing is made twice."""
    headers = {"Idempotency-Key": os.urandom(8).hex()} if method == "POST" and "search" not in path else {}
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await api.request(method, path, json=body, headers=headers)
            except httpx2.TransportError:
                continue
            if answer.status_code != 503 and not (answer.status_code == 409 and headers):
                return answer.raise_for_status().json()
            await asyncio.sleep(0.1)


async def chunks(platform: Platform, collection_id: str) -> Chunks:
    """All that the vector store has of a collection, which is what its manifest says."""
    state = read_state(Home(platform.home))
    assert state is not None
    vectors = VectorStore(f"http://127.0.0.1:{state.ports.milvus}")
    found: Chunks = set()
    async with opened(platform.store_url) as store:
        workspace = await workspace_of(platform)
        record = await KnowledgeStore(store).collection(workspace, collection_id)
        assert record is not None
        place = CollectionRecord.of(record).vectors
        async for entries in JobStore(store).manifest(workspace, collection_id):
            names = {
                chunk_id(document, entry["version"], position): entry["location"]
                for document, entry in ((one, orjson.loads(text)) for one, text in entries.items())
                for position in range(entry["chunks"])
            }
            kept = await vectors.kept(place, list(names), False)
            assert kept.keys() == names.keys()
            found |= {
                (names[key], one.position, sha256(one.text.encode()).hexdigest()) for key, one in kept.items()
            }
    assert await vectors.count(place) == len(found), "chunks that no document has"
    await vectors.aclose()
    return found


async def workspace_of(platform: Platform) -> str:
    async with platform.client() as api:
        return str((await asked(api, "GET", "/me"))["workspace"]["id"])


@pytest.fixture(scope="module")
async def undisturbed(platform: Platform) -> Chunks:
    async with platform.client() as api:
        job = await Job.begun(api)
        assert (await job.ended())["status"] == "completed"
        return await chunks(platform, job.collection_id)


@dataclass
class Storm:
    """Jobs one after the other, while something is killed time and again."""

    platform: Platform
    api: httpx2.AsyncClient
    jobs: list[Job] = field(default_factory=list)

    async def rage(self, find: Callable[[], list[int]]) -> None:
        """Kills one of what is found at a random moment of a running job, and another one of these when it is back."""
        killed: set[int] = set()
        while len(killed) < KILLS:
            if not self.jobs or await self.jobs[-1].is_over():
                self.jobs.append(await Job.begun(self.api))
            await asyncio.sleep(random.uniform(0.1, 1.5))
            for pid in [pid for pid in find() if pid not in killed][:1]:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    async def settle(self, undisturbed: Chunks) -> None:
        for job in self.jobs:
            shown = await job.ended()
            assert shown["status"] == "completed", shown
            counts = {"discovered": COUNT, "done": COUNT, "skipped": 0, "failed": 0, "deleted": 0}
            assert (shown["progress"], shown["chunks"]) == (counts, len(undisturbed))
            assert await chunks(self.platform, job.collection_id) == undisturbed
            await self.check_searches(job)
            (await self.api.delete(f"/rag/collections/{job.collection_id}")).raise_for_status()

    async def check_searches(self, job: Job) -> None:
        path = f"/rag/collections/{job.collection_id}/search"
        for document in random.sample(DOCUMENTS, 10):
            query = {"query": f"the report {document['id']}", "mode": "keyword", "top_k": 1}
            (result,) = (await asked(self.api, "POST", path, query))["results"]
            assert result["metadata"]["location"] == document["id"]


@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_process_of_the_cluster_killed_in_mid_job(
    platform: Platform, api: httpx2.AsyncClient, undisturbed: Chunks, victim: str
) -> None:
    storm = Storm(platform, api)
    await storm.rage(lambda: pids(platform, VICTIMS[victim]))
    await storm.settle(undisturbed)


@pytest.mark.parametrize(("part", "role"), [("vectors", "milvus"), ("store", "valkey")])
async def test_a_store_killed_in_mid_job(
    platform: Platform, api: httpx2.AsyncClient, undisturbed: Chunks, part: str, role: str
) -> None:
    def find() -> list[int]:
        state = read_state(Home(platform.home))
        return [state.parts[part].processes[role].pid] if state and state.parts[part].processes else []

    storm = Storm(platform, api)
    await storm.rage(find)
    await storm.settle(undisturbed)


async def test_a_document_that_ends_the_driver_fails_alone(
    platform: Platform, api: httpx2.AsyncClient
) -> None:
    """In a small job, which the driver does by itself until it has cost two of them their lives."""
    deaths: list[str] = []

    async def answer(exchange: Exchange) -> None:
        if path_of(exchange) == "/deadly":
            deaths.append(psutil.Process(exchange.asker).cmdline()[0].split(":")[2])
            os.kill(exchange.asker, signal.SIGKILL)
        await exchange.answer(200, b"A page.", "content-type: text/plain")

    async with serve(answer) as web:
        sources = [{"type": "url", "location": f"{web.url}/{page}"} for page in ("a", "deadly", "b")]
        collection = (await asked(api, "POST", "/rag/collections", {"name": os.urandom(8).hex()}))["id"]
        path = f"/rag/collections/{collection}/ingest"
        job = Job(api, (await asked(api, "POST", path, {"sources": sources}))["job_id"], collection)
        shown = await job.ended()
    assert shown["progress"] == {"discovered": 3, "done": 2, "skipped": 0, "failed": 1, "deleted": 0}
    assert [(one["location"], one["reason"]) for one in shown["errors"]] == [(f"{web.url}/deadly", REASON)]
    assert deaths == 2 * ["IngestionHost"] + 6 * ["MapBatches(take_in)"]


async def test_a_second_node_that_dies_in_mid_job(
    platform: Platform, api: httpx2.AsyncClient, undisturbed: Chunks
) -> None:
    storm = Storm(platform, api)
    async with second_node(platform) as raylets:
        await storm.rage(lambda: [pid for pid in raylets() if has_work(pid)])
    await storm.settle(undisturbed)


def pids(platform: Platform, words: str) -> list[int]:
    """Processes of this platform whose command line has these words."""
    named = [
        process
        for process in psutil.process_iter(["cmdline"])
        if words in " ".join(process.info["cmdline"] or ())
    ]
    return [process.pid for process in named if belongs(process, platform)]


def belongs(process: psutil.Process, platform: Platform) -> bool:
    try:
        return process.environ().get("CODEXOS_HOME") == str(platform.home)
    except psutil.Error:
        return False


def has_work(raylet: int) -> bool:
    """Whether a worker of this node is at a block, or starts for one."""
    try:
        titles = [" ".join(worker.cmdline()) for worker in psutil.Process(raylet).children()]
        return any("MapBatches" in title or "default_worker.py" in title for title in titles)
    except psutil.Error:
        return False


@asynccontextmanager
async def second_node(platform: Platform) -> AsyncIterator[Callable[[], list[int]]]:
    """Another raylet, as another machine has one, and another one whenever it is gone. Gives their pids."""
    before = set(pids(platform, "/raylet/raylet"))
    started: list[subprocess.Popen[bytes]] = []

    def raylets() -> list[int]:
        found = [pid for pid in pids(platform, "/raylet/raylet") if pid not in before]
        if not found and (not started or started[-1].poll() is not None):
            started.append(start_node(platform))
        return found

    raylets()
    await asyncio.to_thread(until, lambda: bool(raylets()), 60, "a second raylet")
    try:
        yield raylets
    finally:
        for pid in raylets():
            os.kill(pid, signal.SIGTERM)
        for process in started:
            process.wait(30)


def start_node(platform: Platform) -> "subprocess.Popen[bytes]":
    home = Home(platform.home)
    state = read_state(home)
    assert state is not None
    settings = Settings(home=platform.home, port=platform.port)
    more = {name: value for name, value in platform.environment.items() if name.startswith("CODEXOS_")}
    return subprocess.Popen(
        [sys.executable, "-c", NODE, f"127.0.0.1:{state.ports.gcs}", str(free_port())],
        cwd=ROOT,
        env=child_environment(home, settings, state.ports) | more,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
