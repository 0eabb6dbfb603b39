"""From a listed document to its chunks, unless it is as it was: that is told as early as it can be."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog

from kernel.errors import CodexError
from kernel.knowledge.contract import Chunk, DocumentError, Fetched, Part, content_version
from kernel.knowledge.work import Listed, Order, Tools
from kernel.storage.jobs import Outcome, Settled

log = structlog.get_logger()

LARGE_BYTES = 4_000_000
"""Documents known to be larger are read one at a time, for the memory they need."""
LONG_TEXT = 100_000
"""Characters that are cut in a thread."""
MOST_FOUND_BYTES = 4_096
"""Of a failed document no more than this is kept to find it again."""
SHOWN = ("title", "source_type", "metadata")
"""What is written with every chunk, so that a document is not as it was when this is not."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A document that is to be embedded and written. entry: for the manifest. vectors: those that are there
    already, by the text of their chunk. before: its entry as it was read."""

    document_id: str
    listed: Listed
    entry: Mapping[str, Any]
    chunks: Sequence[Chunk]
    before: bytes | None
    vectors: Mapping[str, Sequence[float]]

    def taken(self) -> Settled:
        return _settled(self.document_id, "done", self.listed, self.entry, self.before)


@dataclass(slots=True)
class Reader:
    tools: Tools
    order: Order
    _one_large: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare(self, document: str, listed: Listed, before: bytes | None) -> Ready | Settled:
        """before: its entry in the manifest. Raises only what may go better later, as a retryable CodexError."""
        size = listed.found.size or 0
        try:
            async with self._one_large if size > LARGE_BYTES else nullcontext():
                return await self._read(document, listed, before)
        except DocumentError as error:
            return failed(document, listed, str(error))
        except CodexError as error:
            if error.can_retry:
                raise
            return failed(document, listed, error.message)
        except Exception:  # the row's edge: recorded here, and the others go on
            log.exception("document crashed", job_id=self.order.lease.job_id, document_id=document)
            return failed(document, listed, "It could not be read: a fault on our side")

    async def _read(self, document: str, listed: Listed, before: bytes | None) -> Ready | Settled:
        known = orjson.loads(before) if before else None
        if known and known["job_id"] == self.order.lease.job_id:
            return self._seen(document, listed, known, before)
        facts = self._facts(listed)
        if known and any(known[name] != facts[name] for name in SHOWN):
            known = None
        version = facts["source_version"]
        if known and version is not None and version == known["source_version"]:
            return _skipped(document, listed, known | facts, before)
        fetched = await self._fetch(listed, known)
        if fetched is None:
            facts["source_version"] = known["source_version"] if known else None
            return _skipped(document, listed, (known or {}) | facts, before)
        facts["source_version"] = fetched.version or version
        facts["content"] = version if "vector" in listed.found.handle else content_version(fetched.data)
        if known and facts["content"] == known["content"]:
            return _skipped(document, listed, known | facts, before)
        return await self._made(document, listed, facts, fetched, before)

    async def _fetch(self, listed: Listed, known: Mapping[str, Any] | None) -> Fetched | None:
        found = listed.found
        if found.version is None and known:
            found = replace(found, version=known["source_version"])
        fetched = await self.order.sources[listed.source].fetch(found)
        most = self.tools.settings.max_document_mb
        if fetched and len(fetched.data) > most * 1_000_000:
            raise DocumentError(f"It is larger than {most} MB")
        return fetched

    async def _made(
        self, document: str, listed: Listed, facts: dict[str, Any], fetched: Fetched, before: bytes | None
    ) -> Ready:
        vector = listed.found.handle.get("vector")
        if vector is None:
            chunks = await self._cut(await self.tools.parsers.parse(fetched))
        else:
            chunks = [Chunk(0, fetched.data.decode())]
        if not chunks:
            raise DocumentError("There is no text in it")
        lease = self.order.lease
        entry = facts | {
            "version": content_version(f"{lease.job_id}\n{facts['content']}".encode()),
            "chunks": len(chunks),
            "bytes": len(fetched.data),
            "job_id": lease.job_id,
            "run": lease.epoch,
            "at": self.tools.clock.now_ms(),
        }
        vectors = {} if vector is None else {chunks[0].text: vector}
        return Ready(document, listed, entry, chunks, before, vectors)

    async def _cut(self, parts: Sequence[Part]) -> Sequence[Chunk]:
        place, cut = self.order.place, self.tools.cut
        how = (place.chunk_size, place.chunk_overlap, place.chunk_unit)
        if sum(len(part.text) for part in parts) <= LONG_TEXT:
            return cut(parts, *how)
        return await asyncio.to_thread(cut, parts, *how)

    def _facts(self, listed: Listed) -> dict[str, Any]:
        """What the manifest says of a document, whatever is in it."""
        found = listed.found
        return {
            "location": found.location,
            "title": found.title,
            "source_type": found.source_type,
            "metadata": found.metadata,
            "source": self.order.keys[listed.source],
            "origin": found.origin,
            "source_version": found.version,
        }

    def _seen(self, document: str, listed: Listed, entry: dict[str, Any], before: bytes | None) -> Settled:
        """Of a document that this job has taken in already: in a run that was lost, or it was listed twice."""
        if entry["run"] == self.order.lease.epoch:
            return Settled(document, "skipped", _note(document, listed))
        entry["run"] = self.order.lease.epoch
        return _settled(document, "kept", listed, entry, before)


def failed(document: str, listed: Listed, reason: str) -> Settled:
    found = orjson.dumps(listed.told())
    kept = found if len(found) <= MOST_FOUND_BYTES else b""
    return Settled(document, "failed", _note(document, listed, reason=reason), found=kept)


def _skipped(document: str, listed: Listed, entry: Mapping[str, Any], before: bytes | None) -> Settled:
    """Its entry is written anew where its source tells it by another version than before."""
    text = orjson.dumps(entry)
    changed = before is not None and text != before
    return Settled(document, "skipped", _note(document, listed), before, text if changed else None)


def _settled(
    document: str, outcome: Outcome, listed: Listed, entry: Mapping[str, Any], before: bytes | None
) -> Settled:
    chunks, size = entry["chunks"], entry["bytes"]
    note = _note(document, listed, chunks=chunks, bytes=size)
    return Settled(document, outcome, note, before, orjson.dumps(entry), chunks, size)


def _note(document: str, listed: Listed, **more: Any) -> bytes:
    return orjson.dumps({"document_id": document, "location": listed.found.location} | more)
