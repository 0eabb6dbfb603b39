"""From chunks to rows of the vector store, and out of it again."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from kernel.errors import CodexError
from kernel.knowledge.contract import Chunk, Row, chunk_id
from kernel.knowledge.reading import Ready, failed
from kernel.knowledge.work import Order, Tools, Version
from kernel.models.seam import Tokens
from kernel.storage.chunks import VectorsMissing, VectorsRefused
from kernel.storage.embedded import Embedded
from kernel.storage.jobs import Settled, VectorsMoved

log = structlog.get_logger()

BATCHES = 4
"""Batches of the embedder that are embedded and written at once."""
STALE_AT_ONCE = 1_000


@dataclass(slots=True)
class Writer:
    """`written` is what it has put into the vector store: document id -> version. `embedded` counts with it."""

    tools: Tools
    order: Order
    written: dict[str, str] = field(default_factory=dict)
    embedded: list[Embedded] = field(default_factory=list)

    @property
    def group(self) -> int:
        """Chunks that are best given at once."""
        return BATCHES * self.tools.settings.embed_batch

    async def write(self, group: Sequence[Ready]) -> dict[str, Settled]:
        """Embeds and stores; where that is refused, each document for itself. Raises a retryable CodexError,
        VectorsMoved."""
        try:
            await self.store(group)
        except VectorsMissing:
            raise VectorsMoved from None
        except (CodexError, VectorsRefused) as error:
            if isinstance(error, CodexError) and error.can_retry:
                raise
            if len(group) == 1:
                return {group[0].document_id: _refused(group[0], error)}
            alone = [await self.write([one]) for one in group]
            return {document: settled for each in alone for document, settled in each.items()}
        return {one.document_id: one.taken() for one in group}

    async def delete(self, versions: Sequence[Version]) -> bool:
        """Whether they are deleted. What is left is never shown, so that work goes on without it."""
        try:
            if versions:
                await self.tools.vectors.delete(self.order.place.vectors, versions)
        except (CodexError, VectorsMissing, VectorsRefused) as error:
            log.warning("chunks are left over", count=len(versions), error=repr(error))
            return False
        return True

    async def clear(self) -> None:
        """Deletes the chunks of what the collection does not show any more."""
        workspace, collection = self.order.lease.workspace_id, self.order.lease.collection_id
        while versions := await self.tools.stale.stale(workspace, collection, STALE_AT_ONCE):
            if not await self.delete(versions) or not await self.tools.stale.cleared(
                workspace, collection, self.order.place.live, versions
            ):
                return

    async def store(self, group: Sequence[Ready]) -> None:
        """Raises CodexError, VectorsMissing, VectorsRefused."""
        self.written |= {one.document_id: one.entry["version"] for one in group}
        chunks = [(one, chunk) for one in group for chunk in one.chunks]
        for start in range(0, len(chunks), self.group):
            some = chunks[start : start + self.group]
            vectors = await self._embedded(
                [chunk.text for one, chunk in some if chunk.text not in one.vectors]
            )
            rows = [
                _row(one, chunk, one.vectors[chunk.text] if chunk.text in one.vectors else next(vectors))
                for one, chunk in some
            ]
            await _through(self.tools.vectors.upsert(self.order.place.vectors, rows))

    async def _embedded(self, texts: Sequence[str]) -> Iterator[Sequence[float]]:
        if not texts:
            return iter(())
        embedder = await self.tools.embedder(self.order.lease.workspace_id, self.order.place.model)
        return iter(await embedder.embed(texts, self._used))

    def _used(self, tokens: Tokens) -> None:
        model, collection = self.order.place.model, self.order.lease.collection_id
        self.embedded.append(Embedded(model, tokens.input, self.tools.cost(model, tokens), collection))


async def _through(work: Coroutine[Any, Any, None]) -> None:
    """To its end, also when it is cancelled: what is deleted after that must not be written later."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _refused(one: Ready, error: Exception) -> Settled:
    reason = error.message if isinstance(error, CodexError) else "The vector store refused it"
    log.warning("document refused", document_id=one.document_id, error=repr(error))
    return failed(one.document_id, one.listed, reason)


def _row(one: Ready, chunk: Chunk, vector: Sequence[float]) -> Row:
    entry = one.entry
    return Row(
        chunk_id=chunk_id(one.document_id, entry["version"], chunk.position),
        document_id=one.document_id,
        version=entry["version"],
        chunk=chunk,
        vector=vector,
        source_type=entry["source_type"],
        location=entry["location"],
        title=entry["title"],
        metadata=entry["metadata"],
    )
