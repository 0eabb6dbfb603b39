"""The collections of a workspace and what is in them: made, found, changed, emptied, deleted.

Vectors are made before the record that has them in use and dropped after it is gone. What is meant to be dropped is
noted first, so that a store that is away, or a process that dies, leaves nothing behind for good.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import structlog

from kernel.clock import Clock
from kernel.errors import Conflict, NotFound, Problem, Unavailable, ValidationError
from kernel.ids import is_id, new_id
from kernel.knowledge.record import (
    CollectionCreate,
    CollectionPatch,
    CollectionRecord,
    Item,
    Making,
    shown_document,
)
from kernel.knowledge.reindex import Reindexes
from kernel.knowledge.spec import folder
from kernel.paging import Page, PageQuery
from kernel.storage import keys
from kernel.storage.chunks import VectorsMissing, VectorsRefused
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.objects import ObjectStore
from kernel.storage.vectors import VectorStore

log = structlog.get_logger()

STALE_AT_ONCE = 500
WEIGHED_AT_ONCE = 200
FLOAT_BYTES = 4


class EmbeddingModels(Protocol):
    """As `kernel.models.catalog.Catalog` has it."""

    def check_embedding(self, model_id: str) -> str | None:
        """None when a collection may name it, else the reason."""
        ...

    def dimension(self, model_id: str) -> int:
        """Of a model that a collection may name."""
        ...

    @property
    def default_embedding(self) -> str: ...


class Collections:
    """`store`, `vectors` and `reindexes` are public: searches and jobs go by them too."""

    def __init__(
        self,
        store: KnowledgeStore,
        vectors: VectorStore,
        models: EmbeddingModels,
        objects: ObjectStore,
        clock: Clock,
        reindexes: Reindexes,
    ):
        self.store = store
        self.vectors, self._models = vectors, models
        self._objects, self._clock, self.reindexes = objects, clock, reindexes

    async def create(
        self,
        ws: str,
        order: CollectionCreate,
        *,
        collection_id: str | None = None,
        idempotency_record: str = "",
    ) -> CollectionRecord:
        """collection_id: what an earlier, lost try had made. Raises ValidationError, Conflict (name), Unavailable."""
        item = Item.of(order, self._models.default_embedding, self._clock.now_ms())
        self._check(item)
        if collection_id is None or await self.store.collection(ws, collection_id) is None:
            await self.store.check_free(ws, item.name)
            collection_id = collection_id or new_id("col")
            await self.reindexes.places.make(ws, collection_id, 1, item)
            await self.store.create(ws, collection_id, item.name, item.encode(), idempotency_record)
        return await self.get(ws, collection_id)

    async def get(self, ws: str, collection_id: str) -> CollectionRecord:
        """Raises NotFound, also for another workspace's."""
        stored = await self.store.collection(ws, collection_id) if is_id("col", collection_id) else None
        if stored is None:
            raise NotFound("Collection not found")
        return CollectionRecord.of(stored)

    async def named(self, ws: str, name: str) -> CollectionRecord:
        """By id, or by name in any case. Raises NotFound."""
        found = name if is_id("col", name) else await self.store.named(ws, name)
        return await self.get(ws, found or "")

    async def list(self, ws: str, only: Collection[str] | None, query: PageQuery) -> Page[dict[str, Any]]:
        """only: the collections a limited key reaches."""
        total, rows = await self.store.page(ws, only, query)
        items = [CollectionRecord.of(row).shown() for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def patch(
        self,
        ws: str,
        collection_id: str,
        patch: CollectionPatch,
        if_match: str | None = None,
        key_id: str = "",
    ) -> CollectionRecord:
        """Another model, other chunks or another metric make all vectors anew. key_id: who pays for that.

        Raises NotFound, ValidationError, RateLimitError, Unavailable, and Conflict when `if_match` is not its ETag, the
        name is taken, or the vectors are being made anew already.
        """
        while True:
            record = await self._fetch(ws, collection_id, if_match)
            item = record.item.patched(patch)
            if item == record.item:
                return record
            item = item.model_copy(update={"updated_at": self._clock.now_ms()})
            names = (record.item.name, item.name)
            if item.making != record.item.making:
                changed = await self._remake(ws, record, item, key_id)
            else:
                changed = await self.store.update(ws, record.stored, names, item.encode())
            if changed:
                return await self.get(ws, collection_id)

    async def delete(self, ws: str, collection_id: str, if_match: str | None = None) -> None:
        """All of it: record, manifest, jobs, files, vectors. Raises NotFound, Conflict."""
        while True:
            record = await self._fetch(ws, collection_id, if_match)
            if await self.store.delete(ws, record.stored, record.item.name):
                break
        await self._objects.delete_folder(folder(ws, collection_id))
        await self.drop_left(ws)

    async def documents(self, ws: str, collection_id: str, query: PageQuery) -> Page[dict[str, Any]]:
        """By the time they were taken in, newest first. Raises NotFound."""
        page = None
        if is_id("col", collection_id):
            page = await self.store.page_documents(ws, collection_id, query)
        if page is None:
            raise NotFound("Collection not found")
        items = [shown_document(*row) for row in page.items]
        return Page(items, page.total, page.last_id, page.more)

    async def document(self, ws: str, collection_id: str, document_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        entry = None
        if is_id("col", collection_id) and is_id("doc", document_id):
            entry = await self.store.document(ws, collection_id, document_id)
        if entry is None:
            raise NotFound("Document not found")
        return shown_document(document_id, entry)

    async def delete_document(self, ws: str, collection_id: str, document_id: str) -> None:
        """No search shows it from now on. Raises NotFound."""
        record = await self.get(ws, collection_id)
        if not is_id("doc", document_id) or not await self.store.remove_documents(
            ws, record.id, [document_id]
        ):
            raise NotFound("Document not found")
        try:
            await self.clear(ws, record)
        except (Unavailable, VectorsMissing) as error:
            log.warning("chunks are left over", collection_id=collection_id, error=repr(error))

    async def stats(self, ws: str, collection_id: str) -> dict[str, Any]:
        """Raises NotFound, Unavailable."""
        record = await self.get(ws, collection_id)
        kinds = await self.store.kinds(ws, collection_id)
        server = await self.vectors.capabilities()
        return {
            "collection_id": record.id,
            "documents": record.stored.documents,
            "chunks": record.stored.chunks,
            "bytes": record.stored.bytes,
            "source_types": dict(sorted(kinds.items())),
            "vectors": {
                "dimension": self._models.dimension(record.item.embedding_model),
                "metric": record.item.metric,
                "rows": await self.vectors.count(record.vectors),
                "keyword_search": server.keyword,
            },
        }

    async def weigh(self, ws: str) -> dict[str, int]:
        """Bytes that the vectors of each collection and their texts take, by the manifests; by its id."""
        weights, query, more = dict[str, int](), PageQuery(limit=WEIGHED_AT_ONCE), True
        while more:
            _, rows = await self.store.page(ws, None, query)
            records = [CollectionRecord.of(row) for row in rows[: query.limit]]
            weights |= {record.id: self._weight(record) for record in records}
            more = len(rows) > query.limit
            query = PageQuery(limit=query.limit, before=records[-1].id if records else None)
        return weights

    def _weight(self, record: CollectionRecord) -> int:
        """Of a model that is not there any more, the texts alone."""
        model = record.item.embedding_model
        width = 0 if self._models.check_embedding(model) else self._models.dimension(model)
        return record.stored.chunks * width * FLOAT_BYTES + record.stored.bytes

    async def clear(self, ws: str, record: CollectionRecord) -> None:
        """Deletes the chunks that no search shows any more. Raises Unavailable, VectorsMissing."""
        while versions := await self.store.stale(ws, record.id, STALE_AT_ONCE):
            await self.vectors.delete(record.vectors, versions)
            if not await self.store.cleared(ws, record.id, str(record.stored.live), versions):
                return

    async def drop_left(self, ws: str) -> None:
        """Drops vectors of its shard that no collection has in use; what cannot be dropped now is left to `tidy`."""
        try:
            await self._drop_left(keys.shard_of(ws))
        except Unavailable as error:
            log.warning("vectors are left over", error=repr(error))

    async def tidy(self) -> None:
        """What could not be deleted when it was due, of all workspaces: vectors, and chunks. Raises Unavailable."""
        for shard in range(keys.SHARDS):
            await self._drop_left(shard)
            for ws, collection_id in await self.store.uncleared(shard):
                await self._clear_left(ws, collection_id)

    async def _drop_left(self, shard: int) -> None:
        for name in await self.store.left(shard, self._clock.now_ms()):
            try:
                await self.vectors.drop(name)
            except VectorsRefused as error:
                log.warning("vectors are left over", vectors=name, error=repr(error))
            else:
                await self.store.dropped(shard, name)

    async def _clear_left(self, ws: str, collection_id: str) -> None:
        try:
            await self.clear(ws, await self.get(ws, collection_id))
        except (NotFound, VectorsMissing, VectorsRefused) as error:
            log.warning("chunks are left over", collection_id=collection_id, error=repr(error))

    async def _fetch(self, ws: str, collection_id: str, if_match: str | None) -> CollectionRecord:
        record = await self.get(ws, collection_id)
        if not record.matches(if_match):
            raise Conflict(
                "The collection has changed since it was read: read it again", {"etag": record.etag}
            )
        return record

    def _check(self, making: Making) -> None:
        problems: Sequence[Problem] = making.problems()
        if reason := self._models.check_embedding(making.embedding_model):
            problems = [*problems, Problem("embedding_model", reason)]
        if problems:
            raise ValidationError.of("Invalid collection", problems)

    async def _remake(self, ws: str, record: CollectionRecord, item: Item, key_id: str) -> bool:
        """At once while there is nothing in it, else as a job. False when it is not as it was read."""
        self._check(item)
        if record.stored.documents or record.stored.reindex:
            return bool(await self.reindexes.order(ws, record, item, key_id=key_id))
        number = await self.store.number(ws, record.id)
        await self.reindexes.places.make(ws, record.id, number, item)
        names = (record.item.name, item.name)
        changed = await self.store.switch(ws, record.stored, names, item.encode(), number)
        await self.drop_left(ws)
        return changed
