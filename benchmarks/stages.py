"""The stages of ingestion that cost most, each alone: on all processors at once, with the platform's own code.

Its rate is the limit of what a pipeline of them can reach.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernel.knowledge import plain
from kernel.knowledge.chunking import cut
from kernel.knowledge.contract import Chunk, Row, document_id
from kernel.models.embedding import LocalEmbedder
from kernel.models.wordllama import DIMENSION
from kernel.storage.vectors import Milvus

SIZE, OVERLAP = 1000, 200
BLOCK = 1_000
COLLECTION = "stage"

Stage = Callable[[Sequence[Any]], Any]


def embed_rate(folder: Path, files: int) -> float:
    """Chunks per second."""
    return _rate(_embedding, folder, files, "")


def insert_rate(folder: Path, files: int, url: str) -> float:
    """The same, of rows with vectors of chance, into an empty vector store that can search by words."""
    store = Milvus(url)
    store.create(COLLECTION, DIMENSION, "cosine")
    try:
        return _rate(_inserting, folder, files, url)
    finally:
        store.close()


def _rate(stage: Callable[..., Any], folder: Path, files: int, url: str) -> float:
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(cores), context.Queue()
    parts = [sorted(folder.glob("*.md"))[:files][number::cores] for number in range(cores)]
    workers = [context.Process(target=_timed, args=(stage, part, url, barrier, told)) for part in parts]
    for worker in workers:
        worker.start()
    found = [told.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    counts, begins, ends = zip(*found, strict=True)
    return float(sum(counts) / (max(ends) - min(begins)))


def _timed(stage: Callable[..., Any], files: Sequence[Path], url: str, barrier: Any, told: Any) -> None:
    """One of the processes; they begin together."""
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    prepared, work = stage(files, url)
    barrier.wait()
    began = time.monotonic()
    for start in range(0, len(prepared), BLOCK):
        work(prepared[start : start + BLOCK])
    told.put((len(prepared), began, time.monotonic()))


def _embedding(files: Sequence[Path], _: str) -> tuple[Sequence[str], Stage]:
    embedder = LocalEmbedder()
    embedder.embed_now(["warm"])
    return [chunk.text for _, chunk in _chunks(files)], embedder.embed_now


def _inserting(files: Sequence[Path], url: str) -> tuple[Sequence[Row], Stage]:
    store, chance = Milvus(url), np.random.default_rng(0)
    rows = [_row(name, chunk, chance) for name, chunk in _chunks(files)]
    store.count(COLLECTION)
    return rows, lambda some: store.upsert(COLLECTION, some)


def _chunks(files: Sequence[Path]) -> Iterator[tuple[str, Chunk]]:
    for file in files:
        for chunk in cut(plain.read("markdown", file.read_bytes()), SIZE, OVERLAP):
            yield file.name, chunk


def _row(name: str, chunk: Chunk, chance: Any) -> Row:
    document, version = document_id("col_stage", name), "0" * 32
    vector = chance.standard_normal(DIMENSION).astype(np.float32)
    identity = f"{document}.{version[:16]}.{chunk.position}"
    return Row(identity, document, version, chunk, vector, "documents", name, name, {})
