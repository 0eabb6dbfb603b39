"""Ingestion jobs as callers have them: order, look, follow, cancel, try again."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from configs.settings import Ingestion as Settings
from kernel.clock import Clock
from kernel.errors import Conflict, NotFound, Problem, ValidationError
from kernel.ids import is_id, new_id
from kernel.knowledge.job_view import FIELDS, is_terminal, shown, shown_document
from kernel.knowledge.reindex import Reindexes
from kernel.knowledge.sources import SourceEntry, Surroundings, refusal
from kernel.knowledge.sources.shapes import FileSource, TextSource, UrlSource
from kernel.knowledge.spec import MOST_ACTIVE, MOST_KEPT, Spec, Specs, folder
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
SHOWN_ERRORS = 20
ORDER: tuple[Shown, ...] = ("failed", "done", "skipped", "deleted")
"""In which the documents of a job are listed."""

Size = Literal["small", "large"]


class IngestOrder(Shape):
    sources: Annotated[list[SourceEntry], at_most(MOST_SOURCES), Field(min_length=1)]
    sync: bool = Field(False, description="also take out what these sources do not have any more")

    @property
    def uses_secrets(self) -> bool:
        return any(getattr(entry, "credential_id", None) for entry in self.sources)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who orders a job. idempotency_record: '' for none. mb_per_day: what the workspace may take in, None any."""

    workspace_id: str
    key_id: str
    idempotency_record: str = ""
    mb_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Jobs:
    """dimension: of the vectors that a model makes. What is ordered for a collection that is gone raises NotFound."""

    store: JobStore
    specs: Specs
    objects: ObjectStore
    subscriptions: Subscriptions
    clock: Clock
    room: Room
    settings: Settings
    dimension: Callable[[str], int]
    reindexes: Reindexes

    async def start(self, asker: Asker, collection_id: str, order: IngestOrder) -> str:
        """Accepts a job durably; returns its id. Raises ValidationError, RateLimitError, Unavailable."""
        await self._check(self.specs.around(asker.workspace_id), order.sources)
        entries = [entry.model_dump(mode="json", exclude_none=True) for entry in order.sources]
        spec = Spec(sources=entries, count=len(entries), sync=order.sync)
        texts = sum(len(entry.text) for entry in order.sources if isinstance(entry, TextSource))
        documents = len(entries) if all(map(_is_one, order.sources)) else None
        return await self._create(asker, collection_id, spec, self._size(documents, texts))

    async def write(self, asker: Asker, collection_id: str, documents: Sequence[WrittenDocument]) -> str:
        """The same for documents that a program writes; of those with the same id the last counts."""
        await self._check_vectors(asker.workspace_id, collection_id, documents)
        documents = list({one.id: one for one in documents}.values())
        job_id, lines = new_id("job"), in_lines(documents)
        path = f"{_files(asker.workspace_id, collection_id, job_id)}/documents"
        await self.objects.put(path, lines)
        spec = Spec(sources=[WrittenEntry(path=path).model_dump()], count=1)
        return await self._create(asker, collection_id, spec, self._size(len(documents), len(lines)), job_id)

    async def retry(self, asker: Asker, job_id: str) -> str:
        """A new job for what failed in this one: the documents that it remembers, or else the whole order.

        Raises NotFound, Conflict while it is active or when nothing failed.
        """
        record = await self._record(asker.workspace_id, job_id)
        status = record["status"].decode()
        if status in ("queued", "running", "completed"):
            reason = "Nothing failed in it" if status == "completed" else "It has not ended yet"
            raise Conflict(f"{reason}: there is nothing to try again", {"status": status})
        spec, collection_id = Spec.model_validate_json(record["order"]), record["collection"].decode()
        if spec.reindex is not None:
            who = (asker.key_id, job_id, asker.idempotency_record)
            return await self.reindexes.again(asker.workspace_id, collection_id, spec.reindex.making, *who)
        spec = await self.specs.whole(spec)
        failed = int(record["failed"])
        if status == "completed_with_errors" and await self._remembers(asker.workspace_id, job_id, failed):
            spec, size = spec.model_copy(update={"failed_of": job_id, "sync": False}), self._size(failed, 0)
        else:
            size = self._size(None, 0)
        return await self._create(asker, collection_id, spec, size, retry_of=job_id)

    async def get(self, workspace_id: str, job_id: str) -> dict[str, Any]:
        """The API's shape, with the first errors. Raises NotFound."""
        record = await self._record(workspace_id, job_id)
        notes, _ = await self.store.documents(workspace_id, job_id, "failed", 0, SHOWN_ERRORS)
        errors = [shown_document(note, "failed") for note in notes]
        return shown(job_id, record, self.clock.now_ms()) | {"errors": errors}

    async def collection_of(self, workspace_id: str, job_id: str) -> str:
        """Raises NotFound."""
        return (await self._record(workspace_id, job_id))["collection"].decode()

    async def list(self, workspace_id: str, collection_id: str, query: PageQuery) -> Page[dict[str, Any]]:
        """Newest first. Raises NotFound."""
        await self.specs.check_collection(workspace_id, collection_id)
        page = await self.store.page(workspace_id, collection_id, query, FIELDS)
        now = self.clock.now_ms()
        items = [shown(row["id"].decode(), row, now) for row in page.items]
        return Page(items, page.total, page.last_id, page.more)

    async def documents(
        self, workspace_id: str, job_id: str, outcome: Shown | None, query: PageQuery
    ) -> Page[dict[str, Any]]:
        """The first 10,000 that came to each end, failed ones first. Raises NotFound."""
        await self._record(workspace_id, job_id)
        items: list[dict[str, Any]] = []
        total, skip = 0, query.offset
        for one in (outcome,) if outcome else ORDER:
            room = query.limit - len(items)
            notes, count = await self.store.documents(workspace_id, job_id, one, skip, room)
            items += [shown_document(note, one) for note in notes]
            total, skip = total + count, max(0, skip - count)
        return Page(items, total, None, False)

    async def cancel(self, workspace_id: str, job_id: str) -> None:
        """At once, and for good. Idempotent. Raises NotFound, Conflict when it ended otherwise."""
        await self._record(workspace_id, job_id)
        status = await self.store.cancel(workspace_id, job_id, self.clock.now_ms())
        if status != "cancelled":
            raise Conflict(f"The job has ended already: {status}", {"status": status})

    def follow(self, workspace_id: str, job_id: str, after: int) -> AsyncGenerator[StreamEvent]:
        """Events after a seq, to the terminal one. Raises SlowReader."""
        log = Log(
            channel=keys.channel("stream", workspace_id, id=job_id),
            read=partial(self.store.events, workspace_id, job_id),
            runs=partial(self.is_active, workspace_id, job_id),
            is_terminal=is_terminal,
        )
        return follow(self.subscriptions, log, after)

    async def is_active(self, workspace_id: str, job_id: str) -> bool:
        return await self.store.status(workspace_id, job_id) in ("queued", "running")

    async def _create(
        self, asker: Asker, collection_id: str, spec: Spec, size: Size, job_id: str = "", retry_of: str = ""
    ) -> str:
        self.room.check()
        workspace_id, job_id = asker.workspace_id, job_id or new_id("job")
        files = _files(workspace_id, collection_id, job_id)
        accepted = False
        try:
            text = (await self.specs.store(files, spec)).encode()
            limits = (self.clock.now_ms(), MOST_ACTIVE, retry_of, asker.idempotency_record)
            new = NewJob(
                *(workspace_id, job_id, collection_id, text, size, asker.key_id, *limits),
                mb_per_day=asker.mb_per_day,
                credentials=_credentials(spec),
            )
            forgotten = await self.store.create(new)
            accepted = True
        finally:
            if not accepted:
                await self.objects.delete_folder(files)
        for old in forgotten:
            await self.objects.delete_folder(_files(workspace_id, collection_id, old))
        return job_id

    def _size(self, documents: int | None, size: int) -> Size:
        """small: what a driver does by itself. documents: None when that is not known before."""
        fits = documents is not None and documents <= self.settings.inline_documents
        return "small" if fits and size <= self.settings.inline_mb * 1_000_000 else "large"

    async def _check(self, around: Surroundings, sources: Sequence[SourceEntry]) -> None:
        """Raises ValidationError for all entries that may not be read, are not there, or stand for one document."""
        problems, names = [], set[str]()
        for number, entry in enumerate(sources):
            found = [("location", refusal(entry, around))]
            if isinstance(entry, FileSource):
                found += await _file_problems(entry, around, names)
            problems += [Problem(f"sources[{number}].{field}", reason) for field, reason in found if reason]
        if problems:
            raise ValidationError.of("Invalid sources", problems)

    async def _check_vectors(
        self, workspace_id: str, collection_id: str, documents: Sequence[WrittenDocument]
    ) -> None:
        """Raises NotFound, ValidationError for all documents whose vectors do not fit the collection's."""
        model = await self.specs.model(workspace_id, collection_id)
        dimension = self.dimension(model)
        found = [(number, one.problem(dimension)) for number, one in enumerate(documents)]
        problems = [Problem(f"documents[{number}].{one[0]}", one[1]) for number, one in found if one]
        if problems:
            raise ValidationError.of("Invalid documents", problems)

    async def _record(self, workspace_id: str, job_id: str) -> dict[str, bytes]:
        record = await self.store.read(workspace_id, job_id) if is_id("job", job_id) else None
        if record is None:
            raise NotFound("Job not found")
        return record

    async def _remembers(self, workspace_id: str, job_id: str, failed: int) -> bool:
        """Whether a job knows how to find each document that failed."""
        notes, total = await self.store.documents(workspace_id, job_id, "failed", 0, MOST_KEPT)
        return failed == total and all("found" in orjson.loads(note) for note in notes)


def _files(workspace_id: str, collection_id: str, job_id: str) -> str:
    return f"{folder(workspace_id, collection_id, 'jobs')}/{job_id}"


def _credentials(spec: Spec) -> dict[str, str]:
    """Those that the sources name, each with the first field that does."""
    named: dict[str, str] = {}
    for number, entry in enumerate(spec.sources):
        if credential := entry.get("credential_id"):
            named.setdefault(credential, f"sources[{number}].credential_id")
    return named


def _is_one(entry: SourceEntry) -> bool:
    """Whether a source has just one document."""
    if isinstance(entry, FileSource):
        return entry.is_upload
    return isinstance(entry, TextSource) or (isinstance(entry, UrlSource) and entry.crawl is None)


async def _file_problems(
    entry: FileSource, around: Surroundings, names: set[str]
) -> list[tuple[str, str | None]]:
    """What is wrong, by field. names: of the uploads before; that of this one is added."""
    if not entry.is_upload:
        misnamed = "Only an upload can be given a name" if entry.name else None
        return [("name", misnamed)]
    try:
        name = entry.name or (await around.uploads(entry.location)).name
    except NotFound:
        return [("location", f"There is no upload '{entry.location}'")]
    taken = name in names
    names.add(name)
    reason = f"Another file of this order is called '{name}' too: give one of them another `name`"
    return [("name", reason if taken else None)]
