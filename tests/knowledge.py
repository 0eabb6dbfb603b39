"""Collections on real stores, with documents put into them as a job does, and an embedder that knows a few words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from configs.settings import Ingestion
from kernel.clock import ManualClock
from kernel.ids import new_id
from kernel.knowledge.collections import Collections
from kernel.knowledge.contract import Chunk, Row, chunk_id, content_version, document_id
from kernel.knowledge.record import CollectionCreate, CollectionRecord
from kernel.knowledge.reindex import Places, Reindexes
from kernel.knowledge.search import Found, Search, SearchOrder
from kernel.models.seam import Tokens
from kernel.storage import keys
from kernel.storage.embedded import EmbeddedStore
from kernel.storage.jobs import JobStore, Lease, NewJob, Room, Settled
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.objects import ObjectStore
from kernel.storage.reindex import ReindexStore
from kernel.storage.room import Room as RoomOnDisk
from kernel.storage.store import Store
from kernel.storage.vectors import VectorStore

WS = "ws_" + "0" * 26
WORDS = ["cat", "dog", "car", "engine", "key", "login", "soup", "bread"]
"""What the embedder understands: a dimension for each."""


class Words:
    """An `Embedder`: a text is what words it has."""

    dimension = len(WORDS)

    async def embed(self, texts: Sequence[str], used: Callable[[Tokens], None] | None = None) -> Any:
        if used:
            used(Tokens(sum(len(text.split()) for text in texts)))
        return np.array([self.vector(text) for text in texts], np.float32)

    def vector(self, text: str) -> list[float]:
        counts = [1e-3 + sum(1.0 for one in text.lower().split() if word in one) for word in WORDS]
        length = sum(count * count for count in counts) ** 0.5
        return [count / length for count in counts]


class Models:
    """The models that these tests name: two that embed, in one way, and one that ranks by length, the longest first."""

    default_embedding, default_rerank = "words", "longest"

    def check_embedding(self, model_id: str) -> str | None:
        return None if model_id in ("words", "other") else f"Model '{model_id}' is not supported"

    def dimension(self, model_id: str) -> int:
        return Words.dimension

    def check_rerank(self, model_id: str) -> str | None:
        return None if model_id == "longest" else f"Model '{model_id}' is not a rerank model"

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        """USD: `words` is 2 for a million tokens, of `other` it is not known."""
        return tokens.input * 2e-6 if model_id == "words" else None

    async def rerank(self, model_id: str, query: str, texts: Sequence[str]) -> list[float]:
        return [len(text) / 1000 for text in texts]


@dataclass(frozen=True)
class Doc:
    """A document: its chunks, and what is told of it. A chunk may be a text with its page."""

    location: str
    chunks: Sequence[str | tuple[str, int]]
    source_type: str = "text"
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> list[Chunk]:
        pairs = [one if isinstance(one, tuple) else (one, None) for one in self.chunks]
        return [Chunk(n, text, 10 * n, page) for n, (text, page) in enumerate(pairs)]


class Library:
    """One workspace's collections."""

    def __init__(self, store: Store, vectors: VectorStore, clock: ManualClock, folder: Path):
        self.store, self.vectors, self.clock = store, vectors, clock
        self.jobs, self.objects, self.room = (
            JobStore(store),
            ObjectStore(folder),
            RoomOnDisk(folder, 0, clock),
        )
        self.collections = self.away(vectors)
        self.embedded: list[str] = []
        self.search = self._over(self.collections)

    async def make(self, name: str = "docs", ws: str = WS, **more: Any) -> CollectionRecord:
        return await self.collections.create(ws, CollectionCreate(name=name, **more))

    async def add(self, record: CollectionRecord, *docs: Doc, ws: str = WS) -> Lease:
        """As a job does it: rows first, then the manifest."""
        lease = await self.job(record, ws)
        for doc in docs:
            await self.write(record, doc, lease.job_id)
        entries = [self.settled(record, doc, lease.job_id) for doc in docs]
        live = str((await self.collections.get(ws, record.id)).stored.live)
        known = await self.jobs.entries(ws, record.id, [one.document_id for one in entries])
        entries = [self.settled(record, doc, lease.job_id, known) for doc in docs]
        assert await self.jobs.commit(lease, 0, self.clock.now_ms(), live, entries) == []
        return lease

    async def job(self, record: CollectionRecord, ws: str = WS) -> Lease:
        """One that this process holds."""
        new = NewJob(ws, new_id("job"), record.id, b"{}", "small", "key_1", self.clock.now_ms(), 100)
        await self.jobs.create(new)
        claims = await self.jobs.claim(keys.shard_of(ws), "d1", 600_000, Room(9, 9, 9), 5, b"{}")
        return next(claim.lease for claim in claims if claim.lease.job_id == new.job_id)

    async def write(self, record: CollectionRecord, doc: Doc, job_id: str) -> None:
        """Its chunks alone, which no search shows yet."""
        name, version = document_id(record.id, doc.location), _version(doc, job_id)
        rows = [
            Row(
                chunk_id(name, version, chunk.position),
                name,
                version,
                chunk,
                Words().vector(chunk.text),
                doc.source_type,
                doc.location,
                doc.title,
                dict(doc.metadata),
            )
            for chunk in doc.parts()
        ]
        await self.vectors.upsert(record.vectors, rows)

    def settled(
        self, record: CollectionRecord, doc: Doc, job_id: str, known: Mapping[str, bytes] | None = None
    ) -> Settled:
        name = document_id(record.id, doc.location)
        size = sum(len(chunk.text) for chunk in doc.parts())
        entry = {
            "location": doc.location,
            "title": doc.title,
            "source_type": doc.source_type,
            "version": _version(doc, job_id),
            "chunks": len(doc.chunks),
            "bytes": size,
            "metadata": dict(doc.metadata),
            "job_id": job_id,
            "at": self.clock.now_ms(),
        }
        before = (known or {}).get(name)
        return Settled(name, "done", b"{}", before, orjson.dumps(entry), len(doc.chunks), size)

    async def find(self, record: CollectionRecord, query: str = "cat", **more: Any) -> Found:
        """In the collection as it is now."""
        fresh = await self.collections.get(WS, record.id)
        return await self.search.answer(WS, "key_1", [fresh], SearchOrder(query=query, **more))

    async def texts(self, record: CollectionRecord, query: str = "cat", **more: Any) -> list[str]:
        return [one.hit.text for one in (await self.find(record, query, **more)).results]

    def over(self, vectors: VectorStore) -> Search:
        """Search in the same collections, in another vector store."""
        return self._over(self.away(vectors))

    def away(self, vectors: VectorStore) -> Collections:
        """The same collections, in another vector store."""
        store = KnowledgeStore(self.store)
        places = Places(store, vectors, Models().dimension, self.clock)
        reindexes = Reindexes(ReindexStore(self.store), places, self.room, Ingestion())
        return Collections(store, vectors, Models(), self.objects, self.clock, reindexes)

    def _over(self, collections: Collections) -> Search:
        return Search(collections, self._embedder, Models(), EmbeddedStore(self.store, self.clock))

    async def _embedder(self, ws: str, model: str) -> Words:
        self.embedded.append(model)
        return Words()


def _version(doc: Doc, job_id: str) -> str:
    told = [*map(str, doc.chunks), job_id]
    return content_version("\n".join(told).encode())
