"""What passes between the stages of ingestion: list, fetch, parse, chunk, embed, write."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Found:
    """A document that a source lists. `location` names it for good: a URL, `owner/repo@branch:path`, `s3://…`, a
    caller's name for a text, a file's own name for an upload; origin: what the order called the latter. `version`
    changes with the content when the source can tell without fetching it; None when it cannot. `handle` is what `fetch`
    needs, plain JSON. size: bytes, None when unknown."""

    location: str
    title: str
    source_type: str
    version: str | None = None
    size: int | None = None
    handle: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """media_type: as the source says, None when it does not; the parser looks at name and bytes too."""

    data: bytes
    name: str
    media_type: str | None = None
    version: str | None = None


class Source(Protocol):
    """One entry of an ingest order."""

    def list(self) -> AsyncIterator[Found]:
        """Every document there is now. Raises SourceError when the source as a whole cannot be read."""
        ...

    async def fetch(self, found: Found) -> Fetched | None:
        """None when it is as it was (`found.version` was handed in and holds). Raises DocumentError."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Text in reading order. page: 1-based. offset: characters from the document's begin."""

    text: str
    offset: int = 0
    page: int | None = None
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """position: 0-based in its document. seam: see `kernel.knowledge.seams`; '' of one that was not cut from a text."""

    position: int
    text: str
    offset: int = 0
    page: int | None = None
    heading: str | None = None
    seam: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk as it is written to the vector store. vector: float32, of the collection's dimension."""

    chunk_id: str
    document_id: str
    version: str
    chunk: Chunk
    vector: Sequence[float]
    source_type: str
    location: str
    title: str
    metadata: dict[str, Any]


class SourceError(Exception):
    """A source cannot be listed: the job fails with these words for the caller."""


class DocumentError(Exception):
    """One document cannot be taken in: it fails alone, with these words for the caller."""


def document_id(collection_id: str, location: str) -> str:
    """Always the same for the same place, so that a second run finds what the first wrote."""
    number = int.from_bytes(sha256(f"{collection_id}\n{location}".encode()).digest()[:16], "big") >> 1
    return "doc_" + "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def content_version(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]


def chunk_id(document: str, version: str, position: int) -> str:
    return f"{document}.{version[:16]}.{position}"
