"""What ingestion works with: the order a block is worked under, the block, and the tools, each behind a seam."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import orjson

from configs.settings import Ingestion
from kernel.clock import Clock
from kernel.knowledge.contract import Chunk, Fetched, Found, Part, Row, Source
from kernel.models.seam import Tokens
from kernel.storage.chunks import Kept, Metric
from kernel.storage.embedded import Embedded
from kernel.storage.jobs import Lease, Settled

Version = tuple[str, str]
"""A document's id and one of its versions."""


class Parsing(Protocol):
    async def parse(self, fetched: Fetched) -> list[Part]:
        """Raises DocumentError."""
        ...

    def close(self) -> None: ...


class Cut(Protocol):
    def __call__(self, parts: Sequence[Part], size: int, overlap: int, unit: str) -> list[Chunk]: ...


class Embedding(Protocol):
    async def embed(self, texts: Sequence[str], used: Callable[[Tokens], None] | None = None) -> Any:
        """A float32 array (texts, dimension) of vectors of unit length. used: told of the tokens of each call."""
        ...


class Vectors(Protocol):
    async def create(self, name: str, dimension: int, metric: Metric) -> None: ...

    async def kept(self, name: str, chunk_ids: Sequence[str], with_vectors: bool) -> dict[str, Kept]: ...

    async def upsert(self, name: str, rows: Sequence[Row]) -> None: ...

    async def delete(self, name: str, versions: Sequence[Version]) -> None: ...

    async def aclose(self) -> None: ...


class Stale(Protocol):
    """The versions whose chunks are to be deleted, as `kernel.storage.knowledge.KnowledgeStore` has them."""

    async def stale(self, ws: str, collection_id: str, most: int) -> list[Version]: ...

    async def cleared(self, ws: str, collection_id: str, live: str, versions: Iterable[Version]) -> bool: ...


class Manifest(Protocol):
    """As `kernel.storage.jobs.JobStore` has it."""

    async def entries(
        self, workspace_id: str, collection_id: str, documents: Sequence[str]
    ) -> dict[str, bytes]: ...

    async def commit(
        self,
        lease: Lease,
        block: int,
        now_ms: int,
        live: str,
        settled: Sequence[Settled],
        embedded: Sequence[Embedded],
    ) -> list[str]: ...

    async def check(self, lease: Lease) -> None: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """One for a process. embedder: by workspace and model; it and `vectors` try again what may succeed later.

    cost: in USD, of tokens of a model; None when its price is not known.
    """

    parsers: Parsing
    cut: Cut
    embedder: Callable[[str, str], Awaitable[Embedding]]
    cost: Callable[[str, Tokens], float | None]
    vectors: Vectors
    manifest: Manifest
    stale: Stale
    clock: Clock
    settings: Ingestion


@dataclass(frozen=True, slots=True)
class Place:
    """Where documents go, and in what form. vectors: the name that the vector store knows; live: its number."""

    vectors: str
    live: str
    model: str
    chunk_size: int
    chunk_overlap: int
    chunk_unit: str


@dataclass(frozen=True, slots=True)
class Order:
    """sources: by the number that `Listed` gives. keys: what each is known by in the manifest, for `sync`.

    was: of a re-index, where the documents are that it takes to `place`.
    """

    lease: Lease
    place: Place
    sources: Sequence[Source]
    keys: Sequence[str]
    was: Place | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """source: the number of the source that found it."""

    source: int
    found: Found

    def told(self) -> dict[str, Any]:
        """As JSON has it; `of` reads it again."""
        return {"source": self.source, "found": asdict(self.found)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Listed":
        return cls(told["source"], Found(**told["found"]))


@dataclass(frozen=True, slots=True)
class Block:
    """Documents that are settled in one step. number: its own in one run of a job."""

    number: int
    listed: Sequence[Listed]

    def encode(self) -> bytes:
        return orjson.dumps([self.number, [one.told() for one in self.listed]])

    @classmethod
    def decode(cls, text: bytes) -> "Block":
        number, listed = orjson.loads(text)
        return cls(number, [Listed.of(one) for one in listed])


@dataclass(frozen=True, slots=True)
class DocumentDone:
    """reason: why it failed."""

    document_id: str
    location: str
    outcome: Literal["done", "skipped", "failed"]
    chunks: int = 0
    bytes: int = 0
    reason: str | None = None
