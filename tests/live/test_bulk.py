"""Large ingestion jobs on a Ray of this test's own: spread over worker processes, exact when these die, cancelled."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.bulk import RayCluster
from actors.ingestion import Driver
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.knowledge.jobs import Asker
from kernel.knowledge.record import CollectionCreate
from kernel.knowledge.written import WrittenDocument
from kernel.storage.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.filterwarnings("default")]

WS = "ws_" + "0" * 26
COUNT = 2_000


@pytest.fixture
def settings(valkey_url: str, milvus_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """By the environment, which the workers have too."""
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
            driver = Driver(
                "driver-test", kernel.ingestion, kernel.subscriptions, RayCluster(settings.ingestion), 2
            )
            serving = asyncio.create_task(driver.serve())
            yield kernel
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    finally:
        ray.shutdown()


async def begin(kernel: Kernel) -> tuple[str, str]:
    """A collection and a job that fills it, a few documents of which are taken in."""
    record = await kernel.collections.create(WS, CollectionCreate(name="docs"))
    documents = [WrittenDocument(id=f"{n}", text=f"Document {n}. " * 40) for n in range(COUNT)]
    job_id = await kernel.ingestion.jobs.write(Asker(WS, "key_1"), record.id, documents)
    await until(kernel, job_id, lambda job: job["progress"]["done"] > 100)
    return record.vectors, job_id


async def until(kernel: Kernel, job_id: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    async with asyncio.timeout(150):
        while not holds(job := await kernel.ingestion.jobs.get(WS, job_id)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return job


def workers() -> list[int]:
    """Those that are at a block: Ray names them after what they do."""
    found = subprocess.run(["pgrep", "-f", "^ray::MapBatches"], capture_output=True, text=True, check=False)
    home = f"CODEXOS_HOME={os.environ['CODEXOS_HOME']}"
    return [pid for pid in map(int, found.stdout.split()) if home_of(pid) == home]


def home_of(pid: int) -> str:
    """The installation that a process belongs to; none of a process that has ended."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((part.decode() for part in environment if part.startswith(b"CODEXOS_HOME=")), "")


async def settled(count: Callable[[], Awaitable[int]]) -> int:
    """What a count comes to when nothing changes it any more."""
    before = -1
    while (now := await count()) != before:
        before = now
        await asyncio.sleep(3)
    return now


async def test_workers_that_die_leave_no_trace(kernel: Kernel) -> None:
    vectors, job_id = await begin(kernel)
    killed = 0
    while killed < 2:
        for worker in workers()[:1]:
            os.kill(worker, signal.SIGKILL)
            killed += 1
        await asyncio.sleep(0.5)
    job = await until(kernel, job_id, lambda job: job["status"] not in ("queued", "running"))
    assert job["status"] == "completed", job
    assert job["progress"] == {"discovered": COUNT, "done": COUNT, "skipped": 0, "failed": 0, "deleted": 0}
    assert await kernel.ingestion.tools.vectors.count(vectors) == job["chunks"]  # type: ignore[attr-defined]


async def test_a_cancelled_one_stops_and_leaves_what_is_shown(kernel: Kernel) -> None:
    vectors, job_id = await begin(kernel)
    await kernel.ingestion.jobs.cancel(WS, job_id)
    job = await kernel.ingestion.jobs.get(WS, job_id)
    assert job["status"] == "cancelled"
    assert 0 < job["progress"]["done"] < COUNT
    rows = await settled(lambda: kernel.ingestion.tools.vectors.count(vectors))  # type: ignore[attr-defined]
    assert rows == job["chunks"]
