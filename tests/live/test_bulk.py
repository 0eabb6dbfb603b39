"""Large ingestion jobs on a Ray of this test's own: spread over worker processes, exact when these die, cancelled;
documents that cannot be read, and those that end whoever reads them."""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.bulk import RETRIES, TITLE, RayCluster
from actors.ingestion import Driver
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.knowledge.jobs import Asker, IngestOrder
from kernel.knowledge.record import CollectionCreate
from kernel.knowledge.suspects import REASON
from kernel.knowledge.written import WrittenDocument
from kernel.paging import PageQuery
from kernel.storage.store import Store
from tests.documents import docx, pdf, raw_pdf, zipped
from tests.sites import Page, path_of, site, typed
from tests.unit.test_parsing import BODY, LAUGHS
from tests.web import Exchange, serve

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
    monkeypatch.setenv("CODEXOS_INGESTION__PARSE_SECONDS", "1.5")
    monkeypatch.setenv("CODEXOS_INGESTION__MAX_DOCUMENT_MB", "1")
    monkeypatch.setenv("CODEXOS_EGRESS_ALLOW", "127.0.0.1/32")
    monkeypatch.setenv("RAY_enable_worker_prestart", "0")
    return Settings()


@pytest.fixture
async def kernel(settings: Settings, store: Store) -> AsyncGenerator[Kernel]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        async with Kernel.opened(settings) as kernel:
            cluster = RayCluster(settings.ingestion)
            driver = Driver("driver-test", kernel.ingestion, kernel.subscriptions, cluster, 2)
            serving = asyncio.create_task(driver.serve())
            yield kernel
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            cluster.close()
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


async def test_the_end_of_the_process_that_drives_leaves_no_trace(kernel: Kernel) -> None:
    vectors, job_id = await begin(kernel)
    (driving,) = [child for child in psutil.Process().children() if child.cmdline()[:1] == [TITLE]]
    driving.kill()
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


FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
PAGE = b"<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F1 " + FONT + b">>>>>>"
WORDS = b"<</Length 980036>>stream\nBT /F1 12 Tf " + b"(abcd) Tj " * 98_000 + b"ET\nendstream"
"""They all stand in one place, and each is compared with those before."""
POISON = {
    "broken.pdf": (pdf("words")[:300], "damaged"),
    "protected.pdf": (pdf("words", password="secret"), "password"),
    "picture.pdf": (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a PDF"),
    "bomb.docx": (docx(more={"word/styles.xml": b"0" * 20_000_000}), "far more than its size"),
    "laughs.docx": (docx(more={"word/document.xml": LAUGHS + BODY}), "XML entities"),
    "empty.md": (b"", "empty"),
    "line.txt": (b"word " * 230_000, "larger than 1 MB"),
    "bytes.txt": (b"caf\xc3\x28\xff" + bytes(range(32)) * 30, "not text"),
    "archive.txt": (zipped({"a": "b"}), "ZIP archive"),
    "hang.pdf": (raw_pdf(PAGE, WORDS), "longer than 1.5 s"),
}
"""What cannot be read, and a word of why."""


async def test_poison_fails_alone_and_says_why(kernel: Kernel) -> None:
    files: dict[str, Page] = {
        f"/{n}/{name}": typed("", data) for name, (data, _) in POISON.items() for n in range(5)
    }
    files |= {f"/{n}.md": f"Document {n}.".encode() for n in range(950)}
    pages = random.sample(list(files), len(files))
    record = await kernel.collections.create(WS, CollectionCreate(name="poison"))
    async with serve(site(files)) as web:
        order = IngestOrder(sources=[{"type": "url", "location": web.url + page} for page in pages])  # type: ignore[list-item]
        job_id = await kernel.ingestion.jobs.start(Asker(WS, "key_1"), record.id, order)
        job = await until(kernel, job_id, lambda job: job["status"] not in ("queued", "running"))
    assert job["status"] == "completed_with_errors", job
    assert job["progress"] == {"discovered": 1000, "done": 950, "skipped": 0, "failed": 50, "deleted": 0}
    failed = await kernel.ingestion.jobs.documents(WS, job_id, "failed", PageQuery(limit=100))
    told = {one["location"].removeprefix(web.url): one["reason"] for one in failed.items}
    assert len(told) == 50
    assert [page for page, reason in told.items() if POISON[page.rpartition("/")[2]][1] not in reason] == []
    assert await kernel.ingestion.tools.vectors.count(record.vectors) == 950  # type: ignore[attr-defined]


async def test_a_document_that_ends_whoever_reads_it_fails_alone(kernel: Kernel) -> None:
    """A server that kills what asks it for one page. The driver, which is this process, does not come near it."""
    pages, deaths = [f"/{number:03}" for number in range(130)], []

    async def answer(exchange: Exchange) -> None:
        if path_of(exchange) == "/070":
            deaths.append(exchange.asker)
            assert deaths[-1] != os.getpid()
            os.kill(deaths[-1], signal.SIGKILL)
        await exchange.answer(200, path_of(exchange).encode(), "content-type: text/plain")

    record = await kernel.collections.create(WS, CollectionCreate(name="deadly"))
    async with serve(answer) as web:
        order = IngestOrder(sources=[{"type": "url", "location": web.url + page} for page in pages])  # type: ignore[list-item]
        job_id = await kernel.ingestion.jobs.start(Asker(WS, "key_1"), record.id, order)
        job = await until(kernel, job_id, lambda job: job["status"] not in ("queued", "running"))
    assert job["status"] == "completed_with_errors", job
    assert job["progress"] == {"discovered": 130, "done": 129, "skipped": 0, "failed": 1, "deleted": 0}
    assert [(error["location"], error["reason"]) for error in job["errors"]] == [(f"{web.url}/070", REASON)]
    assert len(set(deaths)) == 2 * (RETRIES + 1), "it was tried, and tried by itself"
    assert await kernel.ingestion.tools.vectors.count(record.vectors) == job["chunks"] == 129  # type: ignore[attr-defined]
