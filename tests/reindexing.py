"""A workspace whose collections are filled by real jobs and re-indexed, on a real store, with vectors in memory."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.settings import Ingestion as Settings
from kernel.clock import ManualClock
from kernel.ids import new_id
from kernel.knowledge.chunking import cut
from kernel.knowledge.contract import Row, document_id
from kernel.knowledge.ingestion import Ingestion
from kernel.knowledge.listing import Listing
from kernel.knowledge.record import CollectionPatch, CollectionRecord
from kernel.knowledge.run import Cluster, Run
from kernel.knowledge.spec import Spec, Specs
from kernel.knowledge.suspects import Left
from kernel.knowledge.work import Block, Order, Tools
from kernel.models.seam import Tokens
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.jobs import Claim, NewJob, Room
from kernel.storage.store import Store
from tests.ingestion import Documents, Memory, Nowhere, Plain, walk_of
from tests.knowledge import WS, Library, Words

Hook = Callable[[str], Awaitable[None]]


async def nothing(verb: str) -> None: ...


@dataclass
class Shaken(Memory):
    """Something may happen before each of its steps: `upsert`, `kept`, `delete`."""

    meanwhile: Hook = nothing

    async def upsert(self, name: str, rows: Sequence[Row]) -> None:
        await self.meanwhile("upsert")
        await super().upsert(name, rows)

    async def kept(self, name: str, chunk_ids: Sequence[str], with_vectors: bool) -> Any:
        await self.meanwhile("kept")
        return await super().kept(name, chunk_ids, with_vectors)

    async def delete(self, name: str, versions: Sequence[tuple[str, str]]) -> None:
        await self.meanwhile("delete")
        await super().delete(name, versions)

    async def drop(self, name: str) -> None:
        self.rows.pop(name, None)


@dataclass
class Rig:
    """embedded: model and text of all that was. settings: a block is small, so that jobs have several."""

    store: Store
    clock: ManualClock
    folder: Path
    settings: Settings = field(default_factory=lambda: Settings(block=3, inline_documents=1_000))
    vectors: Shaken = field(default_factory=Shaken)
    embedded: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        library = self.library = Library(self.store, self.vectors, self.clock, self.folder)  # type: ignore[arg-type]
        self.collections, self.jobs = library.collections, library.jobs
        self.tools = Tools(
            Plain(),
            cut,
            self._embedder,
            lambda model, tokens: 1.0,
            self.vectors,
            self.jobs,
            self.collections.store,
            self.clock,
            self.settings,
        )
        specs = Specs(self.jobs, self.collections.store, library.objects, lambda ws: None)  # type: ignore[arg-type,return-value]
        of_no_use: Any = None
        self.ingestion = Ingestion(
            *(self.jobs, of_no_use, of_no_use, specs, self.tools), reindexes=self.collections.reindexes.store
        )

    def rework(self, **tools: Any) -> None:
        """From now on with other tools."""
        self.tools = replace(self.tools, **tools)
        self.ingestion = replace(self.ingestion, tools=self.tools)

    async def _embedder(self, ws: str, model: str) -> "Embedder":
        return Embedder(model, self.embedded)

    async def make(self, texts: dict[str, str], **more: Any) -> CollectionRecord:
        """A collection of these documents."""
        record = await self.library.make(**{"chunk_size": 60, "chunk_overlap": 10} | more)
        await self.ingest(record, texts)
        return await self.get(record)

    async def get(self, record: CollectionRecord) -> CollectionRecord:
        return await self.collections.get(WS, record.id)

    async def patch(self, record: CollectionRecord, **changes: Any) -> CollectionRecord:
        return await self.collections.patch(WS, record.id, CollectionPatch(**changes), key_id="key_1")

    async def ingest(self, record: CollectionRecord, texts: dict[str, str], **more: Any) -> dict[str, bytes]:
        claim = await self.begin(record)
        await (await self.run_of(claim, Documents(texts, **more))).perform()
        return await self.jobs.read(WS, claim.lease.job_id) or {}

    async def begin(self, record: CollectionRecord) -> Claim:
        """An ingestion job in a driver's hands."""
        spec = Spec(sources=[], count=0)
        now = self.clock.now_ms()
        new = NewJob(WS, new_id("job"), record.id, spec.encode(), "small", "key_1", now, 100)
        await self.jobs.create(new)
        return next(one for one in await self.claim() if one.lease.job_id == new.job_id)

    async def run_of(self, claim: Claim, *sources: Documents) -> Run:
        place = await self.ingestion.specs.place(claim.lease)
        order = Order(claim.lease, place, sources, [f"source-{n}" for n in range(len(sources))])
        listing = Listing(walk_of(sources), len(sources), 100)
        return Run(order, False, listing, self.tools, self.jobs, self.ingestion.specs, Nowhere(), pause_s=0)

    async def claim(self, lost: bool = False) -> list[Claim]:
        """lost: as if the leases of others had ended."""
        shard, room = keys.shard_of(WS), Room(9, 9, 9)
        running = keys.shard_key("jobs_running", shard)
        for member in await self.store.call("ZRANGE", running, 0, -1) if lost else ():
            await self.store.call("ZADD", running, 0, member)
        return await self.jobs.claim(shard, "d1", 600_000, room, 99, b'{"code":"LOST"}')

    async def reindex(self, lost: bool = False, cluster: Cluster | None = None) -> None:
        """Performs the re-index that waits, or that a driver has lost."""
        (claim,) = await self.claim(lost)
        run = await self.ingestion.begin(claim.lease, cluster or Nowhere())
        run.pause_s = 0
        await run.perform()

    async def job(self, job_id: str) -> dict[str, bytes]:
        return await self.jobs.read(WS, job_id) or {}

    async def rows(self, record: CollectionRecord) -> dict[str, list[Row]]:
        """The chunks that searches show, by the location of their document. Nothing else is in the vectors in use, and
        the manifest counts just these."""
        record = await self.get(record)
        rows = self.vectors.rows.get(record.vectors, {}).values()
        page = await self.collections.documents(WS, record.id, PageQuery(limit=100))
        assert page.total == record.stored.documents
        found: dict[str, list[Row]] = {}
        for one in page.items:
            own = [row for row in rows if (row.document_id, row.version) == (one["id"], one["version"])]
            found[one["location"]] = sorted(own, key=lambda row: row.chunk.position)
            assert [row.chunk.position for row in found[one["location"]]] == list(range(one["chunks"]))
        assert sum(map(len, found.values())) == len(rows) == record.stored.chunks
        return found

    async def texts(self, record: CollectionRecord) -> dict[str, list[str]]:
        return {name: [row.chunk.text for row in rows] for name, rows in (await self.rows(record)).items()}

    async def is_held(self, record: CollectionRecord) -> bool:
        """Whether jobs would have to wait."""
        return await self.store.call("HGET", keys.key("collection", WS, id=record.id), "held") is not None

    async def delete(self, record: CollectionRecord, location: str) -> None:
        await self.collections.delete_document(WS, record.id, document_id(record.id, location))


@dataclass
class Embedder:
    """Each model has vectors of its own."""

    model: str
    embedded: list[tuple[str, str]]

    async def embed(self, texts: Sequence[str], used: Callable[[Tokens], None] | None = None) -> Any:
        self.embedded += [(self.model, text) for text in texts]
        if used:
            used(Tokens(len(texts)))
        return np.array([vector_of(self.model, text) for text in texts], np.float32)


def vector_of(model: str, text: str) -> list[float]:
    vector = Words().vector(text)
    return vector if model == "words" else vector[::-1]


@dataclass
class Elsewhere:
    """A cluster in this process. failing: blocks that it loses, once each."""

    rig: Rig
    failing: int = 0
    blocks: int = 2
    worked: int = 0

    async def work(self, lease: Any, blocks: Sequence[Block]) -> Left:
        _, order = await self.rig.ingestion.specs.open(lease)
        again = set[int]()
        for block in blocks:
            self.worked += 1
            if self.failing:
                self.failing -= 1
                again.add(block.number)
            else:
                await self.rig.ingestion.take_in(order, block)
        return Left(again)


def given(text: str, vector: Sequence[float]) -> Documents:
    """A source of one document that comes with its vector."""

    class Given(Documents):
        async def list(self) -> Any:
            async for found in super().list():
                yield replace(found, handle={"vector": list(vector)})

    return Given({"given": text})
