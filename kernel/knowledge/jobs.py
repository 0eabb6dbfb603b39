"""Ingestion jobs as callers see them: order, look, follow, cancel, try again."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from kernel.clock import Clock, rfc3339
from kernel.errors import Conflict, NotFound, Problem, ValidationError
from kernel.ids import is_id, new_id
from kernel.knowledge.sources import SourceEntry, Surroundings, refusal
from kernel.knowledge.sources.shapes import FileSource, TextSource, UrlSource
from kernel.knowledge.spec import MOST_KEPT, Spec, Specs, folder
from kernel.knowledge.written import WrittenDocument, WrittenEntry, in_lines
from kernel.paging import Page, PageQuery
from kernel.shape import Shape, at_most
from kernel.storage import keys
from kernel.storage.following import Log, StreamEvent, follow
from kernel.storage.jobs import JobStore, NewJob, Shown
from kernel.storage.objects import ObjectStore
from kernel.storage.room import Room
from kernel.storage.subscriptions import Subscriptions

MOST_SOURCES = 1_000
MOST_ACTIVE = 100
"""Jobs of a workspace that wait or run."""
SHOWN_ERRORS = 20
ORDER: tuple[Shown, ...] = ("failed", "done", "skipped", "deleted")
"""In which the documents of a job are listed."""

Status = Literal["queued", "running", "completed", "completed_with_errors", "failed", "cancelled"]
COUNTS = ("discovered", "done", "skipped", "failed", "deleted")
ROW = (
    *("collection", "order", "status", "retry_of", "error", "listed", "chunks", "bytes"),
    *("created_at", "started_at", "run_at", "completed_at", *COUNTS),
)
TERMINAL = tuple(
    f'"job.{status}"'.encode() for status in ("completed", "completed_with_errors", "failed", "cancelled")
)


class IngestOrder(Shape):
    """sync: documents of these sources that they do not list any more are taken out."""

    sources: Annotated[list[SourceEntry], at_most(MOST_SOURCES), Field(min_length=1)]
    sync: bool = Field(False, description="also remove what these sources no longer have")


@dataclass(frozen=True, slots=True)
class Jobs:
    """around: what surrounds the sources of a workspace. Collections are looked for before it is asked."""

    store: JobStore
    specs: Specs
    objects: ObjectStore
    subscriptions: Subscriptions
    clock: Clock
    room: Room

    async def start(
        self,
        workspace_id: str,
        key_id: str,
        collection_id: str,
        order: IngestOrder,
        idempotency_record: str = "",
    ) -> str:
        """Accepts a job durably; returns its id. Raises NotFound, ValidationError, RateLimitError, Unavailable."""
        await self._check(self.specs.around(workspace_id), order.sources)
        spec = Spec(
            sources=[entry.model_dump(mode="json", exclude_none=True) for entry in order.sources],
            count=len(order.sources),
            sync=order.sync,
        )
        size: Literal["small", "large"] = "small" if all(map(_is_one, order.sources)) else "large"
        return await self._create(workspace_id, key_id, collection_id, spec, size, idempotency_record)

    async def write(
        self,
        workspace_id: str,
        key_id: str,
        collection_id: str,
        documents: Sequence[WrittenDocument],
        idempotency_record: str = "",
    ) -> str:
        """The same for documents that a program writes. Their vectors must fit (`WrittenDocument.problem`)."""
        job_id = new_id("job")
        path = f"{folder(workspace_id, collection_id, 'jobs')}/{job_id}/documents"
        await self.objects.put(path, in_lines(documents))
        entry = WrittenEntry(path=path).model_dump()
        spec = Spec(sources=[entry], count=1)
        return await self._create(
            workspace_id, key_id, collection_id, spec, "small", idempotency_record, job_id
        )

    async def retry(self, workspace_id: str, key_id: str, job_id: str, idempotency_record: str = "") -> str:
        """A new job for what failed in this one: the documents that it remembers, or else the whole order.

        Raises NotFound, Conflict while it is active or when nothing failed.
        """
        record = await self._record(workspace_id, job_id)
        status = record["status"].decode()
        if status in ("queued", "running", "completed"):
            reason = "Nothing failed in it" if status == "completed" else "It has not ended yet"
            raise Conflict(f"{reason}: there is nothing to try again", {"status": status})
        old = await self.specs.whole(Spec.model_validate_json(record["order"]))
        kept = await self._kept(workspace_id, job_id, int(record["failed"]))
        failed_of = job_id if status == "completed_with_errors" and kept else ""
        spec = old.model_copy(update={"failed_of": failed_of, "sync": old.sync and not failed_of})
        collection = record["collection"].decode()
        return await self._create(
            workspace_id, key_id, collection, spec, "large", idempotency_record, retry_of=job_id
        )

    async def get(self, workspace_id: str, job_id: str) -> dict[str, Any]:
        """The API's shape, with the first errors. Raises NotFound."""
        record = await self._record(workspace_id, job_id)
        notes, _ = await self.store.documents(workspace_id, job_id, "failed", 0, SHOWN_ERRORS)
        shown = self._shown(job_id, record)
        return shown | {"errors": [_document(note) for note in notes]}

    async def collection_of(self, workspace_id: str, job_id: str) -> str:
        """Raises NotFound."""
        return (await self._record(workspace_id, job_id))["collection"].decode()

    async def list(self, workspace_id: str, collection_id: str, query: PageQuery) -> Page[dict[str, Any]]:
        """Newest first."""
        page = await self.store.page(workspace_id, collection_id, query, ROW)
        items = [self._shown(row["id"].decode(), row) for row in page.items]
        return Page(items, page.total, page.last_id, page.more)

    async def documents(
        self, workspace_id: str, job_id: str, outcome: Shown | None, query: PageQuery
    ) -> Page[dict[str, Any]]:
        """The first 10,000 that came to each end, failed ones first. Raises NotFound."""
        await self._record(workspace_id, job_id)
        items: list[dict[str, Any]] = []
        total, skip = 0, query.offset
        for one in ORDER if outcome is None else (outcome,):
            room = query.limit - len(items)
            notes, count = (
                await self.store.documents(workspace_id, job_id, one, skip, room) if room else ([], 0)
            )
            if not room:
                _, count = await self.store.documents(workspace_id, job_id, one, 0, 0)
            items += [_document(note) | {"status": one} for note in notes]
            total, skip = total + count, max(0, skip - count)
        return Page(items, total, None, False)

    async def cancel(self, workspace_id: str, job_id: str) -> str:
        """Idempotent. Raises NotFound, Conflict when it ended otherwise."""
        await self._record(workspace_id, job_id)
        status = await self.store.cancel(workspace_id, job_id, self.clock.now_ms())
        if status != "cancelled":
            raise Conflict(f"The job has ended already: {status}", {"status": status})
        return status

    async def follow(self, workspace_id: str, job_id: str, after: int) -> AsyncGenerator[StreamEvent]:
        """Events after a seq, to the terminal one. Raises SlowReader."""
        log = Log(
            channel=keys.channel("stream", workspace_id, id=job_id),
            read=partial(self.store.events, workspace_id, job_id),
            runs=partial(self.is_active, workspace_id, job_id),
            is_terminal=is_terminal,
        )
        async with aclosing(follow(self.subscriptions, log, after)) as events:
            async for event in events:
                yield event

    async def is_active(self, workspace_id: str, job_id: str) -> bool:
        return await self.store.status(workspace_id, job_id) in ("queued", "running")

    async def _create(
        self,
        workspace_id: str,
        key_id: str,
        collection_id: str,
        spec: Spec,
        size: Literal["small", "large"],
        idempotency_record: str,
        job_id: str | None = None,
        retry_of: str = "",
    ) -> str:
        self.room.check()
        job_id = job_id or new_id("job")
        files = f"{folder(workspace_id, collection_id, 'jobs')}"
        accepted = False
        try:
            spec = await self.specs.store(f"{files}/{job_id}", spec)
            new = NewJob(
                workspace_id,
                job_id,
                collection_id,
                spec.encode(),
                size,
                key_id,
                self.clock.now_ms(),
                MOST_ACTIVE,
                retry_of,
                idempotency_record,
            )
            forgotten = await self.store.create(new)
            accepted = True
        finally:
            if not accepted:
                await self.objects.delete_folder(f"{files}/{job_id}")
        for old in forgotten:
            await self.objects.delete_folder(f"{files}/{old}")
        return job_id

    async def _check(self, around: Surroundings, sources: Sequence[SourceEntry]) -> None:
        """Raises ValidationError for all entries whose location may not be read, or is not there."""
        problems = []
        for number, entry in enumerate(sources):
            reason = refusal(entry, around)
            if reason is None and isinstance(entry, FileSource) and entry.location.startswith("upload_"):
                reason = await _missing(around, entry.location)
            if reason is not None:
                problems.append(Problem(f"sources[{number}].location", reason))
        if problems:
            raise ValidationError.of("Invalid sources", problems)

    async def _record(self, workspace_id: str, job_id: str) -> dict[str, bytes]:
        record = await self.store.read(workspace_id, job_id) if is_id("job", job_id) else None
        if record is None:
            raise NotFound("Job not found")
        return record

    async def _kept(self, workspace_id: str, job_id: str, failed: int) -> bool:
        """Whether the job remembers how to find each document that failed."""
        notes, total = await self.store.documents(workspace_id, job_id, "failed", 0, MOST_KEPT)
        return 0 < failed == total and all("found" in orjson.loads(note) for note in notes)

    def _shown(self, job_id: str, record: dict[str, bytes]) -> dict[str, Any]:
        spec = Spec.model_validate_json(record["order"])
        counts = {name: int(record[name]) for name in COUNTS}
        until = int(record.get("completed_at") or self.clock.now_ms())
        path = f"/v1/rag/jobs/{job_id}"
        return {
            "id": job_id,
            "collection_id": record["collection"].decode(),
            "status": record["status"].decode(),
            "created_at": rfc3339(int(record["created_at"])),
            "started_at": _moment(record.get("started_at")),
            "completed_at": _moment(record.get("completed_at")),
            "sync": spec.sync,
            "sources": spec.shown(),
            "sources_count": spec.count,
            "retry_of": record["retry_of"].decode() or None,
            "progress": counts,
            "chunks": int(record["chunks"]),
            "bytes": int(record["bytes"]),
            **_pace(record, counts, until),
            "error": orjson.loads(record["error"]) if record["error"] else None,
            "links": {
                "self": path,
                "documents": f"{path}/documents",
                "events": f"{path}/events",
                "cancel": f"{path}/cancel",
            },
        }


def is_terminal(body: bytes) -> bool:
    """Whether a stored event is the last one; `type` stands before `data`."""
    start = body.find(b'"type":"job.')
    return 0 <= start < body.find(b'"data":') and body[start + 7 :].startswith(TERMINAL)


def _is_one(entry: SourceEntry) -> bool:
    """Whether a source has just one document, for all that can be told."""
    if isinstance(entry, FileSource):
        return entry.location.startswith("upload_")
    return isinstance(entry, TextSource) or (isinstance(entry, UrlSource) and entry.crawl is None)


async def _missing(around: Surroundings, upload_id: str) -> str | None:
    try:
        await around.uploads(upload_id)
    except NotFound:
        return f"There is no upload '{upload_id}'"
    return None


def _pace(record: dict[str, bytes], counts: dict[str, int], until_ms: int) -> dict[str, Any]:
    """Throughput since its present driver began, and when it will be done: known once all is listed."""
    seconds = max(until_ms - int(record["run_at"]), 1) / 1000 if "run_at" in record else None
    settled = counts["done"] + counts["skipped"] + counts["failed"]
    per_s = settled / seconds if seconds else 0.0
    left = counts["discovered"] - settled
    running = record["status"] == b"running" and record["listed"] == b"1"
    return {
        "throughput": {
            "documents_per_s": round(per_s, 1),
            "chunks_per_s": round(int(record["chunks"]) / seconds, 1) if seconds else 0.0,
        },
        "eta_s": round(left / per_s, 1) if running and per_s else None,
    }


def _moment(text: bytes | None) -> str | None:
    return rfc3339(int(text)) if text else None


def _document(note: bytes) -> dict[str, Any]:
    return {name: value for name, value in orjson.loads(note).items() if name != "found"}
