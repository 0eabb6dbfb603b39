"""Ingestion jobs in Redis: the record, its queue and leases, what became of the documents, and the events.

Stored: `job` (hash): collection, order (JSON), size (small | large: whether a driver does it by itself), key (who
ordered), retry_of, status, error (JSON), the moments created_at, started_at, run_at (of the present driver) and
completed_at; driver, epoch (grows with each claim and with the end), deliveries (drivers that have lost it since it
last took a document in), withdrawn (the last block that was taken back); the counts discovered, listed ('1' when that
is all), done, skipped, failed, deleted, chunks, bytes; seq, told_at and told of its events. Beside it `job_documents`,
`job_blocks`, `job_events`, the indices `jobs`, `jobs_by`, `jobs_active`, and per shard `jobs_waiting` and
`jobs_running`.

A driver works a job off in blocks of documents. One script, `job_commit`, writes all that a block changes, the manifest
included, and remembers the block's number, so that nothing is counted twice. When a driver is lost the next one counts
anew: the manifest tells it what this job has taken in already. A block that was lost with each worker that had it is
withdrawn, and its documents come again in blocks of their own.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Literal

from kernel.errors import NotFound, RateLimitError, ValidationError
from kernel.paging import Page, PageQuery
from kernel.storage import keys
from kernel.storage.budgets import begins_again
from kernel.storage.embedded import Embedded, told
from kernel.storage.executions import StoredEvent
from kernel.storage.idempotency import superseded
from kernel.storage.store import Store
from kernel.storage.wire import Argument

Outcome = Literal["done", "kept", "skipped", "failed"]
"""`kept` was taken in by this job before its driver was lost; it counts as done."""
Shown = Literal["done", "skipped", "failed", "deleted"]

MANIFEST_PAGE = 500
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class NewJob:
    """order: JSON. size: `small` jobs do not wait for large ones. most_active: jobs of a workspace at once.

    mb_per_day: millions of bytes that it may take in in a UTC day, None any. credentials: those that its sources need,
    by id the field that names one.
    """

    workspace_id: str
    job_id: str
    collection_id: str
    order: bytes
    size: Literal["small", "large"]
    key_id: str
    now_ms: int
    most_active: int
    retry_of: str = ""
    idempotency_record: str = ""
    mb_per_day: int | None = None
    credentials: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """A job in a driver's hands, as long as nobody raises its epoch."""

    workspace_id: str
    job_id: str
    epoch: int
    collection_id: str
    key_id: str

    @property
    def member(self) -> str:
        return f"{self.workspace_id} {self.job_id}"


@dataclass(frozen=True, slots=True)
class Claim:
    """order: JSON as it was accepted. size: small or large. lost: drivers since it last took a document in."""

    lease: Lease
    order: bytes
    size: str
    lost: int


@dataclass(frozen=True, slots=True)
class Room:
    """How many jobs a driver can take. share: large ones of one workspace."""

    small: int
    large: int
    share: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a document. before: its entry in the manifest as it was read; entry: the new one, None leaves it.

    note: the document as it is shown. found: how to find it again, JSON, for one that failed.
    """

    document_id: str
    outcome: Outcome
    note: bytes
    before: bytes | None = None
    entry: bytes | None = None
    chunks: int = 0
    size: int = 0
    found: bytes = b""


class JobLost(Exception):
    """The job is not this driver's any more. status: what it is in now, empty when it is gone."""

    def __init__(self, status: str):
        super().__init__(status)
        self.status = status

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")


class VectorsMoved(Exception):
    """The collection's vectors are in another place than when the job was begun, or will be soon, or it is deleted."""


class JobStore:
    def __init__(self, store: Store):
        self._store = store

    async def create(self, new: NewJob) -> list[str]:
        """The ids of old jobs that gave way.

        Raises NotFound, ValidationError (credential), RateLimitError (too many, or too much this day), Conflict,
        Unavailable.
        """
        state, *rest = await self._store.run(
            "job_create",
            new.workspace_id,
            *(new.workspace_id, new.job_id, new.collection_id, new.order, new.size, new.key_id),
            *(new.retry_of, new.now_ms, new.most_active, new.idempotency_record),
            -1 if new.mb_per_day is None else new.mb_per_day * MB,
            " ".join(new.credentials),
        )
        names = [one.decode() for one in rest]
        if state == b"credential":
            raise ValidationError.at(new.credentials[names[0]], "There is no such credential")
        if state != b"ok":
            raise refusal(state, new)
        return names

    async def claim(
        self, shard: int, driver: str, lease_ms: int, room: Room, most: int, problem: bytes, now_ms: int = 0
    ) -> list[Claim]:
        """Jobs of a shard that nobody runs. most, problem: how many drivers may lose one, and why it fails then.

        now_ms: 0 means the server's clock, the one that leases are measured by.
        """
        args = (driver, lease_ms, room.small, room.large, room.share, most, problem, now_ms)
        rows = await self._store.run("job_claim", keys.PREFIXES[shard], *args)
        return [_claim(row) for row in rows]

    async def renew(self, shard: int, lease_ms: int, held: Sequence[tuple[Lease, int, bool]]) -> list[bool]:
        """Whether each is still the caller's. held: lease, documents listed so far, and whether that is all."""
        args: list[Argument] = [lease_ms]
        for lease, discovered, listed in held:
            args += (lease.workspace_id, lease.job_id, lease.epoch, discovered, "1" if listed else "")
        return [bool(one) for one in await self._store.run("job_renew", keys.PREFIXES[shard], *args)]

    async def commit(
        self,
        lease: Lease,
        block: int,
        now_ms: int,
        live: str,
        settled: Iterable[Settled],
        embedded: Iterable[Embedded] = (),
    ) -> list[str]:
        """Writes a block. Returns the documents whose entries have changed since; then nothing was written.

        live: the number of the vectors in use, as it was read. Raises JobLost, VectorsMoved.
        """
        args: list[Argument] = [*_of(lease), block, now_ms, lease.collection_id, live, told(embedded)]
        for one in settled:
            args += (one.document_id, one.outcome, digest(one.before), one.entry or b"")
            args += (one.chunks, one.size, one.note, one.found)
        state, *rest = await self._store.run("job_commit", lease.workspace_id, *args)
        if state == b"moved":
            raise VectorsMoved
        _check_held(state, rest)
        return [document.decode() for document in rest]

    async def withdraw(self, lease: Lease, block: int) -> bool:
        """Takes a block back, so that its documents can come in others. False when it is settled. Raises JobLost."""
        state, *rest = await self._store.run("job_withdraw", lease.workspace_id, *_of(lease), block)
        _check_held(state, rest)
        return bool(state == b"ok")

    async def drop(self, lease: Lease, now_ms: int, gone: Iterable[tuple[str, bytes, bytes]]) -> list[str]:
        """Takes documents out of the manifest: id, entry as it was read, note. Returns the ids of those that were.

        Raises JobLost.
        """
        args: list[Argument] = [*_of(lease), now_ms, lease.collection_id]
        for document, entry, note in gone:
            args += (document, digest(entry), note)
        state, *rest = await self._store.run("job_drop", lease.workspace_id, *args)
        _check_held(state, rest)
        return [document.decode() for document in rest]

    async def end(
        self,
        lease: Lease,
        status: Literal["completed", "failed"],
        now_ms: int,
        discovered: int,
        problem: bytes = b"",
    ) -> bool:
        """False when it is not the caller's to end. `completed` becomes `completed_with_errors` where some failed."""
        args = (*_of(lease), status, now_ms, discovered, problem)
        return bool(await self._store.run("job_end", lease.workspace_id, *args))

    async def cancel(self, workspace_id: str, job_id: str, now_ms: int) -> str:
        """The status it is in now; empty when there is no such job."""
        status = await self._store.run("job_cancel", workspace_id, workspace_id, job_id, now_ms)
        return str(status.decode())

    async def check(self, lease: Lease) -> None:
        """Raises JobLost."""
        name = keys.key("job", lease.workspace_id, id=lease.job_id)
        status, epoch = await self._store.call("HMGET", name, "status", "epoch")
        if status != b"running" or int(epoch) != lease.epoch:
            raise JobLost(status.decode() if status else "")

    async def read(self, workspace_id: str, job_id: str) -> dict[str, bytes] | None:
        flat = await self._store.call("HGETALL", keys.key("job", workspace_id, id=job_id))
        return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)} or None

    async def status(self, workspace_id: str, job_id: str) -> str | None:
        status = await self._store.call("HGET", keys.key("job", workspace_id, id=job_id), "status")
        return status.decode() if status else None

    async def page(
        self, workspace_id: str, collection_id: str, query: PageQuery, fields: Sequence[str]
    ) -> Page[dict[str, bytes]]:
        """Rows of `id` and these fields."""
        where: list[Argument] = [collection_id, query.before or "", query.offset, query.limit]
        total, *rows = await self._store.run("job_page", workspace_id, workspace_id, *where, *fields)
        names = ("id", *fields)
        items = [dict(zip(names, row, strict=True)) for row in rows[: query.limit]]
        last = items[-1]["id"].decode() if items else None
        return Page([_present(item) for item in items], total, last, len(rows) > query.limit)

    async def documents(
        self, workspace_id: str, job_id: str, outcome: Shown, start: int, count: int
    ) -> tuple[list[bytes], int]:
        """Notes of the first 10,000 that came to this, and how many of them there are."""
        name = keys.key("job_documents", workspace_id, id=job_id, outcome=outcome)
        first = ("LRANGE", name, start, start + count - 1) if count else ("LRANGE", name, 1, 0)
        notes, total = await self._store.together(first, ("LLEN", name))
        return notes, total

    async def events(self, workspace_id: str, job_id: str, after: int, most: int = 500) -> list[StoredEvent]:
        name = keys.key("job_events", workspace_id, id=job_id)
        rows = await self._store.call("XRANGE", name, f"{after + 1}-0", "+", "COUNT", most)
        return [StoredEvent(int(seq.split(b"-")[0]), fields[1]) for seq, fields in rows]

    async def entries(
        self, workspace_id: str, collection_id: str, documents: Sequence[str]
    ) -> dict[str, bytes]:
        """Entries of the manifest, of those that are in it."""
        name = keys.key("documents", workspace_id, id=collection_id)
        found = await self._store.call("HMGET", name, *documents) if documents else []
        return {one: entry for one, entry in zip(documents, found, strict=True) if entry is not None}

    async def manifest(self, workspace_id: str, collection_id: str) -> AsyncGenerator[Mapping[str, bytes]]:
        """All of it, some hundred entries at a time."""
        name = keys.key("documents_by_id", workspace_id, id=collection_id)
        low = "-"
        while ids := await self._store.call("ZRANGEBYLEX", name, low, "+", "LIMIT", 0, MANIFEST_PAGE):
            yield await self.entries(workspace_id, collection_id, [one.decode() for one in ids])
            low = f"({ids[-1].decode()}"


def digest(entry: bytes | None) -> str:
    return sha1(entry).hexdigest() if entry is not None else ""


def _of(lease: Lease) -> tuple[Argument, ...]:
    return lease.workspace_id, lease.job_id, lease.epoch


def _check_held(state: bytes, rest: Sequence[bytes]) -> None:
    if state == b"lost":
        raise JobLost(rest[0].decode())


def refusal(state: bytes, new: NewJob) -> Exception:
    if state == b"gone":
        return NotFound("Collection not found")
    if state == b"superseded":
        return superseded()
    if state == b"spent":
        return RateLimitError(
            f"The {new.mb_per_day} MB that may be taken in this UTC day are used",
            {"limit": "ingest", "max": new.mb_per_day},
            (begins_again("day", new.now_ms) - new.now_ms) / 1000,
        )
    most = new.most_active
    return RateLimitError(f"{most} ingestion jobs wait or run already", {"limit": "jobs", "max": most}, 5.0)


def _claim(row: Sequence[Any]) -> Claim:
    workspace, job, epoch, collection, order, key, size, lost = row
    lease = Lease(workspace.decode(), job.decode(), epoch, collection.decode(), key.decode())
    return Claim(lease, order, size.decode(), lost)


def _present(row: Mapping[str, bytes | None]) -> dict[str, bytes]:
    return {name: value for name, value in row.items() if value is not None}
