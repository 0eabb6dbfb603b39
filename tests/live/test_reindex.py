"""A large re-index on a Ray of this test's own: its driver is killed while others search, write and delete; no search
ever sees a document twice, half, or not at all."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.directory import ray_cluster
from actors.ingestion import IngestionHost
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.knowledge.contract import document_id
from kernel.knowledge.jobs import Asker
from kernel.knowledge.record import CollectionCreate, CollectionPatch, CollectionRecord
from kernel.knowledge.search import SearchOrder
from kernel.knowledge.written import WrittenDocument
from kernel.paging import PageQuery
from kernel.storage.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.filterwarnings("default")]

WS = "ws_" + "0" * 26
COUNT = 600
STAYS = 400
"""Documents from this number on are changed or deleted meanwhile, those before are not."""
TEXT = "Document number {0} tells of the matter {0} at some length. " * 12


@pytest.fixture
def settings(valkey_url: str, milvus_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """By the environment, which drivers and workers have too."""
    monkeypatch.setenv("CODEXOS_HOME", str(tmp_path))
    monkeypatch.setenv("CODEXOS_STORE__URL", valkey_url)
    monkeypatch.setenv("CODEXOS_VECTORS__URL", milvus_url)
    monkeypatch.setenv("CODEXOS_INGESTION__BLOCK", "50")
    monkeypatch.setenv("RAY_enable_worker_prestart", "0")
    return Settings()


@pytest.fixture
async def kernel(settings: Settings, store: Store) -> AsyncGenerator[Kernel]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        async with Kernel.opened(settings) as kernel:
            yield kernel
    finally:
        ray.shutdown()


async def driver() -> tuple[Any, int]:
    """One in a process of its own, which ends when the first of this pair is let go; and the process's id."""
    remote: Any = ray.remote(IngestionHost)
    actor = remote.options(num_cpus=0, max_restarts=0, max_concurrency=10).remote("driver", ray_cluster)
    await actor.ready.remote()
    return actor, await actor.__ray_call__.remote(lambda _: os.getpid())


async def until(kernel: Kernel, job_id: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    async with asyncio.timeout(200):
        while not holds(job := await kernel.ingestion.jobs.get(WS, job_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return job


def written(*numbers: int, text: str = TEXT) -> list[WrittenDocument]:
    return [WrittenDocument(id=f"{n}", text=text.format(n)) for n in numbers]


def ended(job: dict[str, Any]) -> bool:
    return job["status"] not in ("queued", "running")


async def searched(kernel: Kernel, record: CollectionRecord, seen: set[int]) -> None:
    """Searches all the time: what nobody changes is found with its best chunk first, and no chunk twice."""
    number = 0
    while True:
        number = (number + 37) % STAYS
        now = await kernel.collections.get(WS, record.id)
        order = SearchOrder(query=TEXT.format(number)[:200], top_k=20)
        results = (await kernel.search.answer(WS, "key_1", [now], order)).results
        chunks = [one.hit.chunk_id for one in results]
        assert len(set(chunks)) == len(chunks) == 20, (now.stored.live, chunks)
        assert f"{number}" in [one.hit.location for one in results], (now.stored.live, number)
        seen.add(now.stored.live)
        await asyncio.sleep(0.02)


async def test_a_driver_that_is_killed_loses_and_doubles_nothing(kernel: Kernel) -> None:
    drivers = [await driver()]
    record = await kernel.collections.create(
        WS, CollectionCreate(name="docs", chunk_size=400, chunk_overlap=50)
    )
    jobs = kernel.ingestion.jobs
    await until(kernel, await jobs.write(Asker(WS, "key_1"), record.id, written(*range(COUNT))), ended)
    before = await kernel.collections.get(WS, record.id)
    seen: set[int] = set()
    searching = asyncio.create_task(searched(kernel, record, seen))

    pending = await kernel.collections.patch(WS, record.id, CollectionPatch(chunk_size=250, metric="l2"))
    job_id = pending.stored.reindex
    await until(kernel, job_id, lambda job: job["progress"]["done"] > 100)
    os.kill(drivers[0][1], signal.SIGKILL)
    gone = [document_id(record.id, f"{n}") for n in range(STAYS, STAYS + 100)]
    assert await kernel.collections.store.remove_documents(WS, record.id, gone) == 100
    assert (await kernel.collections.get(WS, record.id)).stored.live == 1
    drivers.append(await driver())
    changed = [*range(COUNT - 100, COUNT + 50)]
    changing = await jobs.write(Asker(WS, "key_1"), record.id, written(*changed, text="Now it is {0}."))
    job = await until(kernel, job_id, ended)
    assert job["status"] == "completed", job
    assert (await until(kernel, changing, ended))["status"] == "completed"
    await asyncio.sleep(0.5)
    assert not searching.done(), searching.exception()
    searching.cancel()

    after = await kernel.collections.get(WS, record.id)
    assert (after.item.chunk_size, after.item.metric, after.stored.live) == (250, "l2", 2)
    assert after.stored.documents == COUNT - 100 + 50
    assert seen == {1, 2}
    assert after.stored.chunks > before.stored.chunks
    assert await kernel.collections.vectors.count(after.vectors) == after.stored.chunks
    chunks = 0
    for page in range(-(-after.stored.documents // 100)):
        query = PageQuery(limit=100, page=page + 1)
        chunks += sum(
            one["chunks"] for one in (await kernel.collections.documents(WS, record.id, query)).items
        )
    assert chunks == after.stored.chunks
