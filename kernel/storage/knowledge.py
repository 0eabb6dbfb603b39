"""Collections in Redis: the record, its unique name, and the manifest that says which documents there are.

Stored: `collection` (hash): item (JSON: what people set), revision (grows with each of their changes), live (the number
of its vectors in use), numbered (the last number that vectors of it were given), chunks, bytes, and while it is being
re-indexed what `kernel.storage.reindex` tells; `collections`, `collection_names`. The manifest: `documents` (id ->
entry, JSON) with its orders `documents_by_id` and `documents_newest`, its counts `documents_kinds`, and
`documents_stale`, the versions whose chunks are to be deleted. Every change of the manifest goes through `put_document`
and `drop_document` of the prelude, so these always agree. Of a whole shard: `stale`, the collections that have such
versions, and `vectors_left`, vectors that no collection has in use: not any more, or not yet.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kernel.errors import Conflict, NotFound
from kernel.paging import Page, PageQuery
from kernel.storage import keys
from kernel.storage.chunks import place, stem
from kernel.storage.idempotency import superseded
from kernel.storage.store import Store
from kernel.storage.wire import Argument

Version = tuple[str, str]
"""A document's id and one of its versions."""

REMADE = "remade"
"""Of an entry of the manifest: the number of the vectors that a re-index made, and the chunks that it has in them."""

Names = tuple[str, str]
"""A collection's present name and its new one."""


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """`item` is JSON. bytes: of the documents' text.

    reindex: the job that makes its vectors anew; target: what it is to become by that, JSON. Both empty for none.
    """

    id: str
    item: bytes
    reindex: str
    target: bytes
    revision: int
    live: int
    chunks: int
    bytes: int
    documents: int


class KnowledgeStore:
    def __init__(self, store: Store):
        self._store = store

    async def create(
        self, ws: str, collection_id: str, name: str, item: bytes, idempotency_record: str
    ) -> None:
        """Does nothing when it is there already. Raises Conflict for a name that is taken, in any case.

        Its vectors, number 1, are to be there.
        """
        args = (ws, collection_id, name.lower(), item, idempotency_record, place(collection_id, 1))
        state = await self._store.run("collection_create", ws, *args)
        if state == b"superseded":
            raise superseded()
        check_name(state, name)

    async def collection(self, ws: str, collection_id: str) -> StoredCollection | None:
        row = await self._store.run("collection_read", ws, ws, collection_id)
        return _stored(collection_id, row) if row else None

    async def named(self, ws: str, name: str) -> str | None:
        """The id of the collection of that name, in any case."""
        found = await self._store.call("HGET", keys.key("collection_names", ws), name.lower())
        return found.decode() if found else None

    async def check_free(self, ws: str, name: str) -> None:
        """Raises Conflict for a name that is taken."""
        check_name(b"taken" if await self.named(ws, name) else b"ok", name)

    async def page(
        self, ws: str, only: Collection[str] | None, query: PageQuery
    ) -> tuple[int, list[StoredCollection]]:
        """Total, then one more than the page holds, if there are. only: the ids to choose from."""
        among = [] if only is None else sorted(only, reverse=True)
        args: list[Argument] = [ws, query.before or "", query.offset, query.limit]
        args += [-1 if only is None else len(among), *among]
        total, *rows = await self._store.run("collection_page", ws, *args)
        return total, [_stored(row[0].decode(), row[1:]) for row in rows]

    async def update(self, ws: str, was: StoredCollection, names: Names, item: bytes) -> bool:
        """False when it is not as it was read. Raises Conflict for a name that is taken."""
        state = await self._store.run("collection_update", ws, *_changes(ws, was, names, item))
        check_name(state, names[1])
        return bool(state == b"ok")

    async def number(self, ws: str, collection_id: str) -> int:
        """For other vectors of it; none had it before. Raises NotFound."""
        number = await self._store.run("reindex_number", ws, ws, collection_id)
        if not number:
            raise NotFound("Collection not found")
        return int(number)

    async def switch(self, ws: str, was: StoredCollection, names: Names, item: bytes, number: int) -> bool:
        """The same while it has no documents, and puts the vectors of that number in use, giving up those of before."""
        args = (*_changes(ws, was, names, item), was.live, stem(was.id), number)
        state = await self._store.run("collection_switch", ws, *args)
        check_name(state, names[1])
        return bool(state == b"ok")

    async def delete(self, ws: str, was: StoredCollection, name: str) -> bool:
        """All that Redis has of it, its jobs included. False when it is not as it was read."""
        args = (ws, was.id, was.revision, name.lower(), stem(was.id))
        return bool(await self._store.run("collection_delete", ws, *args))

    async def intend(self, ws: str, vectors: str, until_ms: int) -> None:
        """These vectors are to be dropped unless a collection has them in use until then."""
        await self._store.call("ZADD", keys.key("vectors_left", ws), until_ms, vectors)

    async def left(self, shard: int, now_ms: int) -> list[str]:
        """Vectors of a shard that are to be dropped by now."""
        name = keys.shard_key("vectors_left", shard)
        return [one.decode() for one in await self._store.call("ZRANGEBYSCORE", name, "-inf", now_ms)]

    async def dropped(self, shard: int, name: str) -> None:
        await self._store.call("ZREM", keys.shard_key("vectors_left", shard), name)

    async def uncleared(self, shard: int) -> list[tuple[str, str]]:
        """Workspace and id of each collection that has chunks to be deleted."""
        members = await self._store.call("SMEMBERS", keys.shard_key("stale", shard))
        return [(ws, collection) for ws, _, collection in (one.decode().partition(" ") for one in members)]

    async def live(self, ws: str, collection_id: str, documents: Collection[str]) -> dict[str, str]:
        """The version of each of these documents that searches show; the others are not in the manifest."""
        names = list(documents)
        found = await self._entries(ws, collection_id, names) if names else []
        return {
            name: orjson.loads(entry)["version"] for name, entry in zip(names, found, strict=True) if entry
        }

    async def document(self, ws: str, collection_id: str, document_id: str) -> dict[str, Any] | None:
        """Its entry in the manifest."""
        live, entry = await self._store.together(
            ("HGET", keys.key("collection", ws, id=collection_id), "live"),
            ("HGET", keys.key("documents", ws, id=collection_id), document_id),
        )
        return told(entry, int(live)) if entry and live else None

    async def page_documents(
        self, ws: str, collection_id: str, query: PageQuery
    ) -> Page[tuple[str, dict[str, Any]]] | None:
        """Ids and entries, by the time they were taken in, newest first. None: there is no such collection."""
        args = (ws, collection_id, query.before or "", query.offset, query.limit)
        answer = await self._store.run("document_page", ws, *args)
        if not answer:
            return None
        total, live, *rows = answer
        items = [(document.decode(), told(entry, int(live))) for _, document, entry in rows[: query.limit]]
        last = rows[len(items) - 1][0].decode() if items else None
        return Page(items, total, last, len(rows) > query.limit)

    async def remove_documents(self, ws: str, collection_id: str, documents: Sequence[str]) -> int:
        """Takes them out of the manifest. How many were in it."""
        return int(await self._store.run("document_remove", ws, ws, collection_id, *documents))

    async def kinds(self, ws: str, collection_id: str) -> dict[str, int]:
        """How many documents there are of each source type."""
        flat = await self._store.call("HGETALL", keys.key("documents_kinds", ws, id=collection_id))
        return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}

    async def stale(self, ws: str, collection_id: str, most: int) -> list[Version]:
        """Versions whose chunks are to be deleted."""
        name = keys.key("documents_stale", ws, id=collection_id)
        found = await self._store.call("SRANDMEMBER", name, most)
        return [
            (document, version) for document, _, version in (one.decode().partition(" ") for one in found)
        ]

    async def cleared(self, ws: str, collection_id: str, live: str, versions: Iterable[Version]) -> bool:
        """Their chunks are deleted from the vectors of that number. False when others are in use by now."""
        members = [" ".join(version) for version in versions]
        return bool(await self._store.run("documents_cleared", ws, ws, collection_id, live, *members))

    async def _entries(self, ws: str, collection_id: str, documents: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = await self._store.call(
            "HMGET", keys.key("documents", ws, id=collection_id), *documents
        )
        return found


def told(entry: bytes, live: int) -> dict[str, Any]:
    """An entry of the manifest, with the number of chunks that its document has in the vectors in use."""
    found: dict[str, Any] = orjson.loads(entry)
    number, chunks = found.pop(REMADE, (None, None))
    return found | {"chunks": chunks} if number == live else found


def _stored(collection_id: str, row: Sequence[Any]) -> StoredCollection:
    item, *numbers, reindex, target = row
    job_id = reindex.decode() if reindex else ""
    return StoredCollection(collection_id, item, job_id, target or b"", *map(int, numbers))


def _changes(ws: str, was: StoredCollection, names: Names, item: bytes) -> tuple[Argument, ...]:
    return ws, was.id, was.revision, names[0].lower(), names[1].lower(), item


def check_name(state: bytes, name: str) -> None:
    if state == b"taken":
        raise Conflict(f"There is a collection named '{name}' already", {"field": "name", "reason": "taken"})
