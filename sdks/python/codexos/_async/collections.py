from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from codexos._async.concurrency import off_loop, sleep
from codexos._async.jobs import AsyncJob, AsyncJobGroup, ordered
from codexos._async.paging import AsyncPages, listed
from codexos._async.transport import AsyncTransport
from codexos._call import Call, Countdown, given, path, value_of
from codexos._listing import Listing
from codexos._records import Batch, batch_key, batches, document_of, is_dataset, rows_of
from codexos.errors import RateLimitError
from codexos.types.rag import (
    ChunkUnit,
    CollectionInfo,
    CollectionStats,
    Document,
    JobInfo,
    Metric,
    SearchMode,
    SearchResults,
    Upload,
)

PATIENCE_S = 600.0
"""How long a batch waits for others to be taken in when the workspace has too many jobs."""
PAUSE_S = 5.0


class AsyncCollection:
    """A collection of documents. `info` is what was known of it last; `refresh` asks anew."""

    def __init__(self, transport: AsyncTransport, info: CollectionInfo):
        self._transport = transport
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def name(self) -> str:
        return self.info.name

    async def refresh(self) -> Self:
        self.info = CollectionInfo.read(value_of(await self._transport.send(Call("GET", self._path()))))
        return self

    async def update(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        embedding_model: str | None = None,
        chunk_size: int | None = None,
        chunk_overlap: int | None = None,
        chunk_unit: ChunkUnit | None = None,
        metric: Metric | None = None,
    ) -> Self:
        """What is not given stays. Another model, metric or chunks begin a job that makes all vectors anew."""
        body = given(name=name, description=description, embedding_model=embedding_model, metric=metric)
        body |= given(chunk_size=chunk_size, chunk_overlap=chunk_overlap, chunk_unit=chunk_unit)
        call = Call("PATCH", self._path(), json=body)
        self.info = CollectionInfo.read(value_of(await self._transport.send(call)))
        return self

    async def delete(self) -> None:
        """With all that is in it."""
        await self._transport.send(Call("DELETE", self._path()))

    async def stats(self) -> CollectionStats:
        response = await self._transport.send(Call("GET", self._path("stats")))
        return CollectionStats.read(value_of(response))

    async def ingest(
        self,
        sources: Sequence[Mapping[str, Any]],
        *,
        sync: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Takes in what the sources hold: each a dict with `type` url, github, file or text, as in the API reference.

        sync: also take out what these sources do not have any more.
        """
        body = {"sources": sources} | ({"sync": True} if sync else {})
        call = Call("POST", self._path("ingest"), json=body, idempotency_key=idempotency_key)
        return ordered(self._transport, self.id, value_of(await self._transport.send(call)))

    async def upload(
        self,
        *paths: str | Path,
        metadata: Mapping[str, Any] | None = None,
        source_type: str | None = None,
    ) -> AsyncJob:
        """Sends files and takes them in, all in one job. metadata, source_type: of each, to filter searches by."""
        more = given(metadata=metadata, source_type=source_type)
        uploads = [await self.upload_file(one) for one in paths]
        return await self.ingest([{"type": "file", "location": one.id, **more} for one in uploads])

    async def upload_file(self, path: str | Path) -> Upload:
        """Only sends it: `ingest` takes it in as `{"type": "file", "location": upload.id}`."""
        call = Call("POST", self._path("uploads"), upload=Path(path))
        return Upload.read(value_of(await self._transport.send(call)))

    async def write(self, data: Any) -> AsyncJobGroup:
        """Takes in the rows of a table: a Ray Dataset, a pandas DataFrame, a pyarrow Table, or dicts.

        Columns: `id` or `location`, the name it is replaced under; `text`; perhaps `title`, `metadata` (a dict) and
        `vector` (of the text, then taken as one chunk). A Ray Dataset is written by the workers that hold its blocks:
        they need this package, and are handed the key of this client. Returns once all is accepted: `wait` for it.
        Raises ValueError for rows that are no documents.
        """
        run = str(uuid.uuid4())
        if is_dataset(data):
            return AsyncJobGroup(await self._write_dataset(data, run))
        return AsyncJobGroup(await write_rows(self._transport, self.id, data, run))

    async def search(
        self,
        query: str,
        *,
        top_k: int | None = None,
        filters: Mapping[str, Any] | None = None,
        mode: SearchMode | None = None,
        rerank: bool | str | None = None,
        min_score: float | None = None,
    ) -> SearchResults:
        """The chunks nearest to it, best first. rerank: True, or a model's name. min_score: 0 to 1."""
        body = given(query=query, top_k=top_k, filters=filters, mode=mode)
        body |= given(rerank=rerank, min_score=min_score)
        call = Call("POST", self._path("search"), json=body, reads=True)
        return SearchResults.read(value_of(await self._transport.send(call)))

    def documents(self, *, page: int | None = None, limit: int | None = None) -> AsyncPages[Document]:
        """Newest first."""
        call = Call("GET", self._path("documents"), {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "documents", Document.read))

    async def document(self, document_id: str) -> Document:
        call = Call("GET", self._path("documents", document_id))
        return Document.read(value_of(await self._transport.send(call)))

    async def delete_document(self, document_id: str) -> None:
        """The next search does not find it any more."""
        await self._transport.send(Call("DELETE", self._path("documents", document_id)))

    def jobs(self, *, page: int | None = None, limit: int | None = None) -> AsyncPages[AsyncJob]:
        """Newest first."""
        call = Call("GET", self._path("jobs"), {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "jobs", self._job))

    def _job(self, raw: Mapping[str, Any]) -> AsyncJob:
        return AsyncJob(self._transport, JobInfo.read(raw))

    def _path(self, *parts: str) -> str:
        return path("rag", "collections", self.id, *parts)

    async def _write_dataset(self, data: Any, run: str) -> list[AsyncJob]:
        from codexos._ray import DatasetWriter, write_dataset

        writer = DatasetWriter(self._transport.connection, self._transport.options, self.id, run)
        answers = await off_loop(write_dataset, data, writer)
        return [ordered(self._transport, self.id, answer) for answer in answers]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {self.name!r})"


class AsyncCollections:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    def list(self, *, page: int | None = None, limit: int | None = None) -> AsyncPages[AsyncCollection]:
        """Newest first."""
        call = Call("GET", "/rag/collections", {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "collections", self._of))

    async def create(
        self,
        *,
        name: str,
        description: str | None = None,
        embedding_model: str | None = None,
        chunk_size: int | None = None,
        chunk_overlap: int | None = None,
        chunk_unit: ChunkUnit | None = None,
        metric: Metric | None = None,
    ) -> AsyncCollection:
        """name: unique in the workspace; ConflictError when it is taken. chunk_size, chunk_overlap: in `chunk_unit`."""
        body = given(name=name, description=description, embedding_model=embedding_model, metric=metric)
        body |= given(chunk_size=chunk_size, chunk_overlap=chunk_overlap, chunk_unit=chunk_unit)
        response = await self._transport.send(Call("POST", "/rag/collections", json=body))
        return self._of(value_of(response))

    async def get(self, collection_id: str) -> AsyncCollection:
        response = await self._transport.send(Call("GET", path("rag", "collections", collection_id)))
        return self._of(value_of(response))

    async def named(self, name: str) -> AsyncCollection | None:
        """The one of that name, in any case; None when there is none."""
        async for collection in self.list(limit=100):
            if collection.name.lower() == name.lower():
                return collection
        return None

    async def update(self, collection_id: str, **changes: Any) -> AsyncCollection:
        """As `collection.update`, which names the changes."""
        collection = await self.get(collection_id)
        return await collection.update(**changes)

    async def delete(self, collection_id: str) -> None:
        """With all that is in it."""
        await self._transport.send(Call("DELETE", path("rag", "collections", collection_id)))

    def _of(self, raw: Mapping[str, Any]) -> AsyncCollection:
        return AsyncCollection(self._transport, CollectionInfo.read(raw))


async def write_rows(transport: AsyncTransport, collection_id: str, data: Any, run: str) -> list[AsyncJob]:
    """What `write` does with all but a Ray Dataset, and the workers of Ray with its blocks.

    run: makes a batch that is written again in the same run, by a task tried anew, the same job.
    """
    return [
        await _write_batch(transport, collection_id, batch, run)
        for batch in batches(map(document_of, rows_of(data)))
    ]


async def _write_batch(transport: AsyncTransport, collection_id: str, batch: Batch, run: str) -> AsyncJob:
    where, key = path("rag", "collections", collection_id, "documents"), f"py-{run}-{batch_key(batch)}"
    call = Call("POST", where, json={"documents": batch}, idempotency_key=key)
    left = Countdown(PATIENCE_S)
    while True:
        try:
            return ordered(transport, collection_id, value_of(await transport.send(call)))
        except RateLimitError as error:
            if not left():
                raise
            wait_s = error.retry_after or PAUSE_S
        await sleep(wait_s)
