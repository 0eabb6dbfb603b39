"""A re-index in Redis: vectors of a collection that are made anew beside those in use, and put in their place.

Stored in the `collection` hash while it is under way: reindex (its job), target (JSON: what the collection is to
become), next and next_vectors (the number and the name of the new vectors), next_chunks and next_documents (what of the
manifest is in them), held ('1' while no other job may take documents in). An entry of the manifest that is in them has
`remade`: their number, and its chunks there. `documents_behind` are versions of documents that came or went meanwhile.

So the new vectors are complete when nothing is behind and next_documents is the size of the manifest, which the script
that puts them in use makes sure of. Whatever ends the job otherwise clears all of this in the same step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernel.errors import Conflict, Unavailable
from kernel.storage import keys
from kernel.storage.chunks import stem
from kernel.storage.embedded import Embedded, told
from kernel.storage.jobs import JobLost, Lease, NewJob, digest, refusal
from kernel.storage.knowledge import Names, StoredCollection, Version, check_name
from kernel.storage.store import Store
from kernel.storage.wire import Argument

GRACE_MS = 60_000
"""So long do vectors live that are not in use any more: searches under way read them."""


@dataclass(frozen=True, slots=True)
class Target:
    """making: JSON. number, vectors: of those that are to be made."""

    making: bytes
    number: int
    vectors: str


@dataclass(frozen=True, slots=True)
class Remade:
    """A document whose chunks are in the new vectors. before: its entry as it was read; entry: the new one, None when
    it had been settled before. note: the document as it is shown."""

    document_id: str
    before: bytes
    entry: bytes | None
    chunks: int
    size: int
    note: bytes


class ReindexStore:
    """All but `create` and `behind` raise JobLost when the job is not the caller's."""

    def __init__(self, store: Store):
        self._store = store

    async def create(
        self, new: NewJob, was: StoredCollection, names: Names, item: bytes, target: Target
    ) -> bool:
        """Accepts the job; from now on the vectors are its own. False when the collection is not as it was read.

        Raises Conflict (name, or another re-index is under way), NotFound, RateLimitError.
        """
        state, *rest = await self._store.run(
            "reindex_create",
            new.workspace_id,
            *(new.workspace_id, new.job_id, new.collection_id, new.order, new.size, new.key_id, new.retry_of),
            *(new.now_ms, new.most_active, new.idempotency_record, was.revision),
            *(names[0].lower(), names[1].lower(), item, target.making, target.number, target.vectors),
        )
        if state == b"busy":
            raise under_way(rest[0].decode())
        check_name(state, names[1])
        if state not in (b"ok", b"changed"):
            raise refusal(state, new)
        return bool(state == b"ok")

    async def commit(
        self, lease: Lease, block: int, now_ms: int, remade: Iterable[Remade], embedded: Iterable[Embedded]
    ) -> None:
        """Settles a block. A document that has changed since it was read is among `behind`."""
        args: list[Argument] = [block, now_ms, lease.collection_id, told(embedded)]
        for one in remade:
            args += (one.document_id, digest(one.before), one.entry or b"", one.chunks, one.size, one.note)
        await self._run("reindex_commit", lease, *args)

    async def behind(self, lease: Lease, most: int) -> tuple[list[Version], int]:
        """Some of the versions that came or went since the job began, and how many there are."""
        name = keys.key("documents_behind", lease.workspace_id, id=lease.collection_id)
        found, total = await self._store.together(("SRANDMEMBER", name, most), ("SCARD", name))
        pairs = (one.decode().partition(" ") for one in found)
        return [(document, version) for document, _, version in pairs], total

    async def settle(self, lease: Lease, versions: Mapping[Version, bool]) -> None:
        """They have been looked at; True: the chunks of this one were deleted."""
        args: list[Argument] = [lease.collection_id]
        for version, deleted in versions.items():
            args += (" ".join(version), int(deleted))
        await self._run("reindex_settle", lease, *args)

    async def hold(self, lease: Lease) -> None:
        """No other job takes documents in from now on, until this one ends."""
        await self._run("reindex_hold", lease, lease.collection_id)

    async def switch(self, lease: Lease, revision: int, item: bytes, now_ms: int) -> bool:
        """Puts the new vectors in use and ends the job. False when documents are behind.

        Raises Unavailable when the collection has changed since it was read.
        """
        args = (lease.collection_id, revision, item, now_ms, now_ms + GRACE_MS, stem(lease.collection_id))
        state = await self._run("reindex_switch", lease, *args)
        if state == b"changed":
            raise Unavailable("The collection has changed meanwhile")
        return state == b"ok"

    async def _run(self, script: str, lease: Lease, *args: Argument) -> bytes:
        answer: Sequence[bytes] = await self._store.run(
            script, lease.workspace_id, lease.workspace_id, lease.job_id, lease.epoch, *args
        )
        if answer[0] == b"lost":
            raise JobLost(answer[1].decode())
        return answer[0]


def under_way(job_id: str) -> Conflict:
    return Conflict(
        "The collection is being re-indexed already: wait for that job, or cancel it",
        {"reason": "reindexing", "job_id": job_id},
    )
