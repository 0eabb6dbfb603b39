"""A re-index in its driver's hands: every document of a collection is taken from its vectors in use to new ones.

Nothing is fetched or parsed again: texts come out of the chunks that are stored. Chunks that are cut as before keep
their text, and their vector where the model stays. Otherwise the text is put together by the seams of its chunks, and
cut anew. A document that came with its vector was never cut, and is not now.

Documents come and go meanwhile, in the vectors in use. What does is noted in the same step as the manifest changes, and
looked at again after all others, until nothing is left and the script that puts the new vectors in use agrees. Jobs
that are quicker than that are held up for the last of it. Another driver that takes over goes by what the manifest
says is made.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from kernel.errors import InternalError, NotFound, Unavailable
from kernel.knowledge.contract import Chunk, Found, chunk_id
from kernel.knowledge.patience import patiently
from kernel.knowledge.reading import Ready
from kernel.knowledge.record import CollectionRecord, Making
from kernel.knowledge.run import HERE, WAITS_S, Run
from kernel.knowledge.seams import rebuilt
from kernel.knowledge.work import Block, Listed, Order, Tools
from kernel.knowledge.writing import Writer
from kernel.storage.chunks import VectorsMissing
from kernel.storage.jobs import JobStore, Lease
from kernel.storage.knowledge import REMADE, KnowledgeStore, told
from kernel.storage.reindex import ReindexStore, Remade

AT_ONCE = 1_000
"""Versions that are looked at again at once."""
ROUNDS = 3
"""Of catching up, beside those that it takes to look at everything once; then other jobs are held up."""


@dataclass(frozen=True, slots=True)
class _Document:
    """before: its entry as it was read; entry: the same, with the chunks that it has in the vectors in use."""

    id: str
    listed: Listed
    before: bytes
    entry: Mapping[str, Any]

    @property
    def chunk_ids(self) -> list[str]:
        return [chunk_id(self.id, self.entry["version"], n) for n in range(self.entry["chunks"])]

    def settled(self, number: int, chunks: int, is_new: bool) -> Remade:
        """chunks: in the vectors of that number."""
        size = self.entry["bytes"]
        shown = {"document_id": self.id, "location": self.entry["location"], "chunks": chunks, "bytes": size}
        entry = orjson.dumps({**self.entry, REMADE: [number, chunks]}) if is_new else None
        return Remade(self.id, self.before, entry, chunks, size, orjson.dumps(shown))


async def remake_batch(tools: Tools, store: ReindexStore, order: Order, block: Block) -> None:
    """Takes a block of documents to the new vectors. Those that change meanwhile are left for later.

    Raises JobLost, and a CodexError, retryable when it is to be run again.
    """
    await tools.manifest.check(order.lease)
    async with _there(tools, order.lease):
        await _Batch(tools, store, order).run(block)


async def documents_of(jobs: JobStore, lease: Lease, source: int) -> AsyncIterator[Found]:
    """What the manifest has, as one source."""
    async for entries in jobs.manifest(lease.workspace_id, lease.collection_id):
        for document, text in entries.items():
            yield _found(document, orjson.loads(text)["bytes"])


@asynccontextmanager
async def _there(tools: Tools, lease: Lease) -> AsyncGenerator[None]:
    """Vectors that are missing may have been dropped with their job: raises JobLost then, and Unavailable else."""
    try:
        yield
    except VectorsMissing:
        await tools.manifest.check(lease)
        raise Unavailable(
            "The vectors of this collection are not there", {"reason": "vectors_missing"}
        ) from None


class _Batch:
    """One run of a block."""

    def __init__(self, tools: Tools, store: ReindexStore, order: Order):
        assert order.was is not None
        self._tools, self._store, self._order, self._was = tools, store, order, order.was
        self._number = int(order.place.live)
        self._writer = Writer(tools, order)

    async def run(self, block: Block) -> None:
        settled: list[Remade] = []
        group: list[_Document] = []
        for one in await self._read(block):
            if chunks := _made_chunks(orjson.loads(one.before), self._number):
                settled.append(one.settled(self._number, chunks, is_new=False))
                continue
            group.append(one)
            if sum(each.entry["chunks"] for each in group) >= self._writer.group:
                settled += await self._remade(group)
                group = []
        settled += await self._remade(group)
        now = self._tools.clock.now_ms()
        await self._store.commit(self._order.lease, block.number, now, settled, self._writer.embedded)

    async def _read(self, block: Block) -> list[_Document]:
        """Those that are still there."""
        listed = {one.found.location: one for one in block.listed}
        entries = await self._entries(list(listed))
        live = int(self._was.live)
        return [_Document(id, listed[id], text, told(text, live)) for id, text in entries.items()]

    async def _entries(self, documents: Sequence[str]) -> dict[str, bytes]:
        lease = self._order.lease
        return await self._tools.manifest.entries(lease.workspace_id, lease.collection_id, documents)

    async def _remade(self, group: Sequence[_Document]) -> list[Remade]:
        ready = [one for one in await self._ready(group) if one is not None]
        await self._writer.store([one for _, one in ready])
        return [one.settled(self._number, len(made.chunks), is_new=True) for one, made in ready]

    async def _ready(self, group: Sequence[_Document]) -> list[tuple[_Document, Ready]]:
        same_model = self._order.place.model == self._was.model
        ids = [chunk for one in group for chunk in one.chunk_ids]
        kept = await self._tools.vectors.kept(self._was.vectors, ids, same_model)
        found, missing = [], []
        for one in group:
            rows = [kept[chunk] for chunk in one.chunk_ids if chunk in kept]
            if len(rows) < one.entry["chunks"]:
                missing.append(one)
                continue
            chunks = [
                Chunk(row.position, row.text, row.offset, row.page, row.heading, row.seam) for row in rows
            ]
            vectors = {row.text: row.vector for row in rows} if same_model else {}
            made = await self._cut(chunks)
            found.append((one, Ready(one.id, one.listed, one.entry, made, one.before, vectors)))
        await self._check_gone(missing)
        return found

    async def _cut(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        was, place = self._was, self._order.place
        how = (place.chunk_size, place.chunk_overlap, place.chunk_unit)
        if how == (was.chunk_size, was.chunk_overlap, was.chunk_unit) or not all(one.seam for one in chunks):
            return chunks
        return await asyncio.to_thread(self._tools.cut, rebuilt(chunks), *how)

    async def _check_gone(self, missing: Sequence[_Document]) -> None:
        """Chunks may only be missing of what the collection does not show any more. Raises InternalError."""
        entries = await self._entries([one.id for one in missing])
        for one in missing:
            text = entries.get(one.id)
            if text is not None and orjson.loads(text)["version"] == one.entry["version"]:
                raise InternalError(
                    f"Chunks of the document '{one.entry['location']}' are not in the vector store: ingest it again",
                    {"reason": "chunks_missing", "document_id": one.id},
                )


@dataclass(slots=True)
class Remaking(Run):
    """making: what the collection is to become."""

    store: ReindexStore = field(kw_only=True)
    collections: KnowledgeStore = field(kw_only=True)
    making: Making = field(kw_only=True)
    _rounds: int = field(default=0)

    async def _work(self) -> None:
        await self._take_all()
        _, behind = await self.store.behind(self.lease, 1)
        rounds = ROUNDS + behind // AT_ONCE
        while not await patiently(WAITS_S, self._switch):
            self._rounds += 1
            if self._rounds == rounds:
                await self.store.hold(self.lease)
            await patiently(WAITS_S, self._catch_up)

    async def _take_in(self, block: Block) -> None:
        await remake_batch(self.tools, self.store, self.order, block)

    async def _convict(self, suspect: Block) -> None:
        """Raises InternalError: a collection is made anew as a whole."""
        details = {"reason": "worker_lost", "document_id": suspect.listed[0].found.location}
        raise InternalError("What makes a document anew stops working, each time that it is tried", details)

    async def _catch_up(self) -> None:
        """Looks at some of what came or went meanwhile: what is shown is made, what is not is deleted."""
        versions, _ = await self.store.behind(self.lease, AT_ONCE)
        if not versions:
            raise InternalError("Documents are missing in the new vectors", {"reason": "documents_missing"})
        ids = list({document for document, _ in versions})
        texts = await self.jobs.entries(self.lease.workspace_id, self.lease.collection_id, ids)
        entries = {document: orjson.loads(text) for document, text in texts.items()}
        shown = {(document, entry["version"]) for document, entry in entries.items()}
        gone = set(versions) - shown
        if gone:
            async with _there(self.tools, self.lease):
                await self.tools.vectors.delete(self.order.place.vectors, list(gone))
        number = int(self.order.place.live)
        todo = [(one, entry) for one, entry in entries.items() if not _made_chunks(entry, number)]
        listed = [Listed(0, _found(document, entry["bytes"])) for document, entry in todo]
        if len(listed) <= self.tools.settings.inline_documents:
            await self._off(listed, HERE, self._here)
        else:
            await self._off(listed, self.tools.settings.block, self._there)
        await self.store.settle(self.lease, {version: version in gone for version in versions})

    async def _switch(self) -> bool:
        """Whether the new vectors are in use, and the job is done. Raises JobLost, NotFound, Unavailable."""
        lease, now = self.lease, self._now()
        stored = await self.collections.collection(lease.workspace_id, lease.collection_id)
        if stored is None:
            raise NotFound("Collection not found")
        item = CollectionRecord.of(stored).item.remade(self.making, now)
        return await self.store.switch(lease, stored.revision, item.encode(), now)


def _made_chunks(entry: Mapping[str, Any], number: int) -> int:
    """How many chunks a document has in the vectors of that number by a re-index; 0: it is not in them."""
    made, chunks = entry.get(REMADE, (0, 0))
    return chunks if made == number else 0


def _found(document: str, size: int) -> Found:
    """A document of the manifest, by its id."""
    return Found(document, "", "", size=size)
