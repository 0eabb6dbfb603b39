"""Bulk ingestion of files of 2 KB beside what a user would write or pick instead, and what it leaves of search.

Jobs are ordered over the REST API and timed from the first request until the last has ended: files of a folder are read
and written in batches, as the Python SDK does it, those of a bucket are read by the platform. Every run goes into a
collection of its own, in the embedded vector store, with an index of vectors and one of words.
"""

import itertools
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import corpus, stages
from benchmarks.beside import running
from benchmarks.bucket import KEYS, serving
from benchmarks.footprint import footprint
from benchmarks.installation import PORT, WORK, Installation
from benchmarks.results import Figure
from benchmarks.vectorserver import empty_server
from kernel.models.embedding import LocalEmbedder
from kernel.storage.chunks import place

PEERS = Path(__file__).parent / "peers" / "ingest"
BATCH = 2_000
"""Documents of one request."""
EVERY_S = 0.05
"""Between looks at a job; its end is known so late at most."""
PATIENCE_S = 900.0
BUCKET_PORT = PORT + 2
FROM_BUCKET = KEYS | {
    "CODEXOS_INGESTION__S3_ENDPOINT": f"http://127.0.0.1:{BUCKET_PORT}",
    "CODEXOS_INGESTION__S3_ENVIRONMENT": "1",
    "CODEXOS_EGRESS_ALLOW": "127.0.0.0/8",
}
"""Settings of a platform that reads our bucket."""
STORES = ("milvus", "valkey")
"""Roles that keep what is ingested, and so grow with it."""
SEARCHES = 300
TOP_K = 5


@dataclass(frozen=True, slots=True)
class Run:
    """What was taken in, and how long that took."""

    chunks: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.chunks / self.seconds


@dataclass(frozen=True, slots=True)
class Rag:
    """A platform's collections over its REST API."""

    api: httpx2.Client

    def collection(self) -> str:
        body = {"name": f"bench-{time.time_ns()}"} | {
            "chunk_size": stages.SIZE,
            "chunk_overlap": stages.OVERLAP,
        }
        collection: str = self._asked("POST", "/collections", body)["id"]
        return collection

    def write(self, collection: str, files: Sequence[Path]) -> list[dict[str, Any]]:
        """The jobs, when they have ended."""
        jobs = []
        for start in range(0, len(files), BATCH):
            documents = [
                {"id": file.name, "text": file.read_text(), "title": file.name}
                for file in files[start : start + BATCH]
            ]
            jobs.append(self._asked("POST", f"/collections/{collection}/documents", {"documents": documents}))
        return [self._ended(job["job_id"]) for job in jobs]

    def read_bucket(self, collection: str) -> dict[str, Any]:
        """The same of all that is in our bucket."""
        source = {"type": "file", "location": "s3://bench/", "source_type": "s3"}
        job: dict[str, Any] = self._asked("POST", f"/collections/{collection}/ingest", {"sources": [source]})
        return self._ended(job["job_id"])

    def search(self, collection: str, query: str) -> Any:
        body = {"query": query, "mode": "hybrid", "top_k": TOP_K}
        return self._asked("POST", f"/collections/{collection}/search", body)

    def delete(self, collection: str) -> None:
        self.api.delete(f"/collections/{collection}").raise_for_status()

    def _ended(self, job_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        job: dict[str, Any]
        while (job := self._asked("GET", f"/jobs/{job_id}"))["status"] in ("queued", "running"):
            if time.monotonic() > deadline:
                raise SystemExit(f"job {job_id} takes longer than {PATIENCE_S:.0f} s")
            time.sleep(EVERY_S)
        if job["status"] != "completed":
            raise SystemExit(
                f"job {job_id} ended as {job['status']}: {job.get('error') or job['errors'][:1]}"
            )
        return job

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.api.request(method, path, json=body)
        if answer.is_error:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()


@contextmanager
def rag_of(installation: Installation) -> Iterator[Rag]:
    """The installation must run."""
    with httpx2.Client(
        base_url=f"{installation.url}/v1/rag", headers=installation.headers, trust_env=False, timeout=60
    ) as api:
        yield Rag(api)


def beside_peers(files: int, rounds: int) -> Iterator[Figure]:
    """Each round: the loop, LlamaIndex with one and two workers, then a platform that was just started, twice."""
    folder = corpus.folder(WORK / f"files-{files}", files)
    for _ in range(rounds):
        runs = {
            "loop": _peer("loop", folder),
            "llamaindex w=1": _peer("llamaindex", folder, "1"),
            "llamaindex w=2": _peer("llamaindex", folder, "2"),
        }
        with Installation("ingest").running() as installation, rag_of(installation) as rag:
            runs["codexos first"] = written(rag, folder)
            runs["codexos"] = written(rag, folder)
        for case, run in runs.items():
            yield Figure(case, "seconds", run.seconds)
            yield Figure(case, "chunks_s", run.rate)
        yield from _ratios(runs)


def _ratios(runs: dict[str, Run]) -> Iterator[Figure]:
    """Of the time for all files: how many chunks they come to differs a little."""
    framework = min(run.seconds for case, run in runs.items() if case.startswith("llamaindex"))
    yield Figure("codexos/loop", "ratio", runs["loop"].seconds / runs["codexos"].seconds)
    yield Figure("codexos first/loop", "ratio", runs["loop"].seconds / runs["codexos first"].seconds)
    yield Figure("codexos/llamaindex", "ratio", framework / runs["codexos"].seconds)


def _peer(name: str, folder: Path, *more: str) -> Run:
    """Against a vector store of its own. Ends the benchmark unless all it has written is there."""
    python = WORK / f"py-{name}" / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing: bash benchmarks/peers/ingest/setup.sh")
    with empty_server() as url:
        done = subprocess.run(
            [python, PEERS / f"{name}.py", url, folder, *more],
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    if done.returncode:
        raise SystemExit(f"{name} ended {done.returncode}\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["stored"] != told["chunks"]:
        raise SystemExit(f"{name} has stored {told['stored']} of {told['chunks']} chunks")
    return Run(told["chunks"], told["seconds"])


def written(rag: Rag, folder: Path) -> Run:
    """Into a collection that is deleted then."""
    collection, files = rag.collection(), sorted(folder.glob("*.md"))
    began = time.monotonic()
    jobs = rag.write(collection, files)
    seconds = time.monotonic() - began
    if (done := sum(job["progress"]["done"] for job in jobs)) != len(files):
        raise SystemExit(f"{done} of {len(files)} files were taken in")
    rag.delete(collection)
    return Run(sum(job["chunks"] for job in jobs), seconds)


def large(installation: Installation, files: int) -> Iterator[Figure]:
    """Many files at once, beside the two stages that cost most, each alone on all processors."""
    folder = corpus.folder(WORK / f"files-{files}", files)
    with installation.running(), rag_of(installation) as rag:
        written(rag, corpus.folder(WORK / "files-1000", 1_000))
        run = written(rag, folder)
    embed = stages.embed_rate(folder, files // 5)
    with empty_server() as url:
        insert = stages.insert_rate(folder, files, url)
    yield Figure("codexos", "seconds", run.seconds)
    yield Figure("codexos", "chunks_s", run.rate)
    yield Figure("embed alone", "chunks_s", embed)
    yield Figure("insert alone", "chunks_s", insert)
    yield Figure("codexos/slowest stage", "ratio", run.rate / min(embed, insert))


def memory(installation: Installation, documents: int) -> Iterator[Figure]:
    """Of all processes while a bucket is read that makes its objects when they are asked for.

    growth_mb: between the second quarter of the job and the last, without the stores, which keep what is ingested.
    """
    with serving(documents, BUCKET_PORT), installation.running(), rag_of(installation) as rag:
        idle = footprint(installation.processes()).pss_mb
        samples: list[tuple[float, float]] = []
        job = _while_sampling(partial(rag.read_bucket, rag.collection()), installation, samples)
    if job["progress"]["done"] != documents:
        raise SystemExit(f"{job['progress']['done']} of {documents} documents were taken in")
    quarter = len(samples) // 4
    second, last = (
        statistics.median(rest for _, rest in some)
        for some in (samples[quarter : 2 * quarter], samples[-quarter:])
    )
    yield Figure("platform", "idle_pss_mb", idle)
    yield Figure("platform", "above_idle_mb", max(whole for whole, _ in samples) - idle)
    yield Figure("platform", "growth_mb", last - second)


def _while_sampling(
    work: Callable[[], dict[str, Any]], installation: Installation, samples: list[tuple[float, float]]
) -> dict[str, Any]:
    """samples: PSS of everything, and without the stores, each few seconds."""
    found: list[dict[str, Any]] = []
    working = threading.Thread(target=lambda: found.append(work()))
    working.start()
    while working.is_alive():
        roles = installation.processes()
        whole = footprint(roles).pss_mb
        stores = footprint([pid for pid, role in roles.items() if role in STORES]).pss_mb
        samples.append((whole, whole - stores))
        working.join(2.0)
    if not found:
        raise SystemExit("the job failed")
    return found[0]


def again(installation: Installation, documents: int) -> Iterator[Figure]:
    """A bucket of which one object in a hundred has changed since it was read."""
    with serving(documents, BUCKET_PORT) as bucket, installation.running(), rag_of(installation) as rag:
        collection = rag.collection()
        began = time.monotonic()
        rag.read_bucket(collection)
        between = time.monotonic()
        httpx2.put(f"{bucket}/change/100", trust_env=False).raise_for_status()
        changed = time.monotonic()
        job = rag.read_bucket(collection)
        ended = time.monotonic()
    yield Figure("first", "seconds", between - began)
    yield Figure("again", "seconds", ended - changed)
    yield Figure("again", "percent", (ended - changed) / (between - began) * 100)
    yield Figure("again", "wrongly_embedded", abs(job["progress"]["done"] - documents // 100))


def search(installation: Installation, files: int, busy_files: int) -> Iterator[Figure]:
    """Hybrid search by one caller, beside Milvus asked the same directly; then while a bulk job runs."""
    folder = corpus.folder(WORK / f"files-{busy_files}", busy_files)
    queries = [" ".join(text.split()[20:26]) for text in corpus.texts(50)]
    with installation.running(), rag_of(installation) as rag:
        collection = rag.collection()
        jobs = rag.write(collection, sorted(folder.glob("*.md"))[:files])
        ask = partial(rag.search, collection)
        _times(ask, queries, 50)
        ours = _times(ask, queries, SEARCHES)
        milvus = _times(_milvus(installation, collection), queries, SEARCHES)
        busy = _times_while(ask, queries, partial(written, rag, folder))
    yield Figure("idle", "chunks", sum(job["chunks"] for job in jobs))
    for case, times in (("idle", ours), ("milvus", milvus), ("busy", busy)):
        yield Figure(case, "p50_ms", statistics.median(times))
        yield Figure(case, "p95_ms", statistics.quantiles(times, n=20)[-1])
    yield Figure("idle", "above_milvus_ms", statistics.median(ours) - statistics.median(milvus))
    yield Figure(
        "busy/idle", "p95_ratio", statistics.quantiles(busy, n=20)[-1] / statistics.quantiles(ours, n=20)[-1]
    )


def _times(ask: Callable[[str], Any], queries: Sequence[str], count: int) -> list[float]:
    """Milliseconds of each."""
    return [_timed(ask, query) for query in itertools.islice(itertools.cycle(queries), count)]


def _timed(ask: Callable[[str], Any], query: str) -> float:
    began = time.perf_counter()
    ask(query)
    return (time.perf_counter() - began) * 1000


def _times_while(ask: Callable[[str], Any], queries: Sequence[str], work: Callable[[], Any]) -> list[float]:
    """Those of searches that ended before the work did; a pause between two, so that they are no load themselves."""
    working = threading.Thread(target=work)
    times: list[float] = []
    working.start()
    for query in itertools.cycle(queries):
        took = _timed(ask, query)
        if not working.is_alive():
            return times
        times.append(took)
        time.sleep(0.02)
    return times


def _milvus(installation: Installation, collection: str) -> Callable[[str], Any]:
    """Its own hybrid search, of the same collection."""
    from pymilvus import AnnSearchRequest, MilvusClient, RRFRanker

    _, state = running(installation)
    client, embedder = MilvusClient(f"http://127.0.0.1:{state.ports.milvus}"), LocalEmbedder()
    name = place(collection, 1)

    def ask(query: str) -> Any:
        vector = embedder.embed_now([query])[0].tolist()
        asked = [
            AnnSearchRequest([vector], "dense", {"metric_type": "COSINE"}, TOP_K),
            AnnSearchRequest([query], "sparse", {"metric_type": "BM25"}, TOP_K),
        ]
        return client.hybrid_search(name, asked, RRFRanker(), limit=TOP_K, output_fields=["text"])

    return ask
