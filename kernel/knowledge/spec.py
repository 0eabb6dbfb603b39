"""What a job is to do, as it is stored with it; and how that is opened to work under it, in any process."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter

from kernel.errors import NotFound
from kernel.knowledge.contract import Found, Source
from kernel.knowledge.listing import Walk
from kernel.knowledge.record import CollectionRecord, Making
from kernel.knowledge.sources import SourceEntry, Surroundings, open_source
from kernel.knowledge.work import Listed, Order, Place
from kernel.knowledge.written import WrittenEntry, WrittenSource
from kernel.storage.chunks import place
from kernel.storage.jobs import JobStore, Lease
from kernel.storage.knowledge import KnowledgeStore
from kernel.storage.objects import ObjectStore

INLINE_BYTES = 32_768
"""An order up to this size is stored in the job's record, a larger one beside it."""
SHOWN_SOURCES = 20
MOST_KEPT = 10_000
"""Failed documents that a job remembers."""
NOTES = 500
MOST_ACTIVE = 100
"""Jobs of a workspace that wait or run."""

_ENTRIES: TypeAdapter[list[SourceEntry | WrittenEntry]] = TypeAdapter(list[SourceEntry | WrittenEntry])


class Reindex(BaseModel):
    """making: what the collection is to become. number: of the new vectors."""

    model_config = ConfigDict(frozen=True)

    making: Making
    number: int


class Spec(BaseModel):
    """sources: entries as they were ordered. failed_of: take in only what failed in that job. count: of the sources.

    path: where the sources are stored when they are large; `sources` then are the first of them, without texts.
    reindex: of a job that makes the collection's vectors anew; it has no sources.
    """

    model_config = ConfigDict(frozen=True)

    sources: list[dict[str, Any]]
    count: int
    sync: bool = False
    failed_of: str = ""
    path: str = ""
    reindex: Reindex | None = None

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    def shown(self) -> list[dict[str, Any]]:
        """The first sources, without what is long."""
        return [_brief(entry) for entry in self.sources[:SHOWN_SOURCES]]


def folder(workspace_id: str, collection_id: str, kind: Literal["jobs", "uploads"] | None = None) -> str:
    """Where in the object store the files are that were ordered to be taken in."""
    base = f"ingestion/{workspace_id}/{collection_id}"
    return f"{base}/{kind}" if kind else base


@dataclass(frozen=True, slots=True)
class Specs:
    """Stores orders and opens them. around: what surrounds the sources of a workspace."""

    jobs: JobStore
    collections: KnowledgeStore
    objects: ObjectStore
    around: Callable[[str], Surroundings]

    async def store(self, lease_folder: str, spec: Spec) -> Spec:
        """The same, small enough for the job's record. Raises Unavailable."""
        text = orjson.dumps(spec.sources)
        if len(text) <= INLINE_BYTES:
            return spec
        path = await self.objects.put(f"{lease_folder}/sources", text)
        return spec.model_copy(update={"sources": spec.shown(), "path": path})

    async def whole(self, spec: Spec) -> Spec:
        """With all its sources. Raises NotFound."""
        if not spec.path:
            return spec
        sources = orjson.loads(await self.objects.get(spec.path))
        return spec.model_copy(update={"sources": sources, "path": ""})

    async def open(self, lease: Lease) -> tuple[Spec, Order]:
        """Raises NotFound when the job or its collection is gone."""
        record = await self.jobs.read(lease.workspace_id, lease.job_id)
        if record is None:
            raise NotFound("Job not found")
        spec = await self.whole(Spec.model_validate_json(record["order"]))
        entries = _ENTRIES.validate_python(spec.sources)
        around = self.around(lease.workspace_id)
        sources = [self._source(entry, around) for entry in entries]
        order = Order(lease, await self.place(lease), sources, [key_of(entry) for entry in spec.sources])
        if spec.reindex is None:
            return spec, order
        place = _place(lease.collection_id, spec.reindex.number, spec.reindex.making)
        return spec, replace(order, place=place, was=order.place)

    async def forget(self, lease: Lease) -> None:
        """Deletes what a job was given, once it has completed and there is nothing to try again."""
        if await self.jobs.status(lease.workspace_id, lease.job_id) == "completed":
            place = folder(lease.workspace_id, lease.collection_id, "jobs")
            await self.objects.delete_folder(f"{place}/{lease.job_id}")

    async def check_collection(self, workspace_id: str, collection_id: str) -> None:
        """Raises NotFound when there is none."""
        await self._record(workspace_id, collection_id)

    async def model(self, workspace_id: str, collection_id: str) -> str:
        """The embedding model of a collection. Raises NotFound."""
        return (await self._record(workspace_id, collection_id)).item.embedding_model

    async def place(self, lease: Lease) -> Place:
        """Raises NotFound when the collection is gone."""
        record = await self._record(lease.workspace_id, lease.collection_id)
        return _place(record.id, record.stored.live, record.item)

    async def _record(self, workspace_id: str, collection_id: str) -> CollectionRecord:
        stored = await self.collections.collection(workspace_id, collection_id)
        if stored is None:
            raise NotFound("Collection not found")
        return CollectionRecord.of(stored)

    def walk(self, spec: Spec, order: Order) -> Walk:
        """The documents of a source: those that it lists, or those of them that failed before."""
        if spec.failed_of:
            return partial(self._failed, order.lease.workspace_id, spec.failed_of)
        return lambda source: order.sources[source].list()

    async def _failed(self, workspace_id: str, job_id: str, source: int) -> AsyncIterator[Found]:
        for start in range(0, MOST_KEPT, NOTES):
            notes, total = await self.jobs.documents(workspace_id, job_id, "failed", start, NOTES)
            for note in notes:
                listed = Listed.of(orjson.loads(note)["found"])
                if listed.source == source:
                    yield listed.found
            if start + NOTES >= total:
                return

    def _source(self, entry: SourceEntry | WrittenEntry, around: Surroundings) -> Source:
        if isinstance(entry, WrittenEntry):
            return WrittenSource(entry, self.objects)
        return open_source(entry, around)


def _place(collection_id: str, number: int, making: Making) -> Place:
    return Place(
        vectors=place(collection_id, number),
        live=str(number),
        model=making.embedding_model,
        chunk_size=making.chunk_size,
        chunk_overlap=making.chunk_overlap,
        chunk_unit=making.chunk_unit,
    )


def key_of(entry: dict[str, Any]) -> str:
    """What a source is known by from job to job: texts of orders are one source all together."""
    names = ("type",) if entry["type"] == "text" else ("type", "location", "branch")
    told = orjson.dumps([entry.get(name) for name in names])
    return sha256(told).hexdigest()[:16]


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("text", "metadata")}
