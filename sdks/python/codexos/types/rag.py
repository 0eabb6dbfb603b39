from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from codexos.types._model import Model
from codexos.types.executions import ErrorInfo

if TYPE_CHECKING:
    import pandas
    import pyarrow

SearchMode = Literal["hybrid", "dense", "keyword"]
ChunkUnit = Literal["characters", "tokens"]
Metric = Literal["cosine", "ip", "l2"]
JobStatus = Literal["queued", "running", "completed", "completed_with_errors", "failed", "cancelled"]
DocumentStatus = Literal["done", "skipped", "failed", "deleted"]
LAST = frozenset({"job.completed", "job.completed_with_errors", "job.failed", "job.cancelled"})


@dataclass(frozen=True, kw_only=True)
class CollectionInfo(Model):
    """chunk_size, chunk_overlap: in `chunk_unit`. documents, chunks, bytes (as fetched): what is in it."""

    id: str
    name: str
    description: str
    embedding_model: str
    chunk_size: int
    chunk_overlap: int
    chunk_unit: ChunkUnit
    metric: Metric
    documents: int = 0
    chunks: int = 0
    bytes: int = 0
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class Document(Model):
    """A document of a collection. bytes: as it was fetched. job_id: the job that took it in.

    source_location: the location of the source that it came from; of an uploaded file, the upload's id.
    """

    id: str
    location: str
    source_location: str
    title: str
    source_type: str
    version: str
    chunks: int
    bytes: int
    metadata: dict[str, Any]
    job_id: str | None
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class VectorStats(Model):
    """rows: chunks that are stored, with those that are still to be deleted."""

    dimension: int
    metric: Metric
    rows: int
    keyword_search: bool


@dataclass(frozen=True, kw_only=True)
class CollectionStats(Model):
    """source_types: documents of each. bytes: of the documents as they were fetched."""

    documents: int
    chunks: int
    bytes: int
    source_types: dict[str, int]
    vectors: VectorStats


@dataclass(frozen=True, kw_only=True)
class Upload(Model):
    """A file that can be a source for a week: `{"type": "file", "location": upload.id}`. size: bytes."""

    id: str
    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Progress(Model):
    """Documents: found so far, and what became of them. `skipped` are as they were before."""

    discovered: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    deleted: int = 0

    @property
    def settled(self) -> int:
        return self.done + self.skipped + self.failed


@dataclass(frozen=True, kw_only=True)
class Throughput(Model):
    documents_per_s: float
    chunks_per_s: float


@dataclass(frozen=True, kw_only=True)
class JobDocument(Model):
    """What a job did with a document. reason: why it failed."""

    document_id: str
    location: str
    status: DocumentStatus
    chunks: int = 0
    bytes: int = 0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobEvent(Model):
    """`job.started`, `job.progress`, `document.failed`, and last `job.` with the status it ended in."""

    type: str
    data: dict[str, Any]
    seq: int
    timestamp: datetime

    @property
    def progress(self) -> Progress | None:
        """None when it tells of a document."""
        return Progress.read(self.data["progress"]) if "progress" in self.data else None

    @property
    def is_last(self) -> bool:
        return self.type in LAST


@dataclass(frozen=True, kw_only=True)
class JobInfo(Model):
    """A job as it was when it was asked for. eta_s: seconds it may still take. errors: of its first failed documents.

    error: why it failed as a whole.
    """

    id: str
    collection_id: str
    status: JobStatus
    progress: Progress
    chunks: int = 0
    bytes: int = 0
    throughput: Throughput | None = None
    eta_s: float | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error: ErrorInfo | None = None
    errors: list[JobDocument] | None = None

    def at(self, event: JobEvent) -> Self:
        """As it is at this event."""
        return self.read({**self.raw, "status": "running", **event.data})


@dataclass(frozen=True, kw_only=True)
class Hit(Model):
    """A chunk that was found. score: 0 to 1. scores: `dense` and `keyword`, None where it was not found that way.

    metadata: the document's own, and `source_type location title page heading offset`. collection_id: when several
    collections were searched.
    """

    chunk_id: str
    document_id: str
    text: str
    score: float
    scores: dict[str, float | None]
    metadata: dict[str, Any]
    collection_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResults(Model):
    """Best first; iterate over it, or make a table of it. mode_used: when it is not the mode that was asked for."""

    results: list[Hit]
    took_ms: float
    mode_used: SearchMode | None = None

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Hit:
        return self.results[index]

    def rows(self) -> list[dict[str, Any]]:
        """Flat: the scores as `score_dense` and so on, then the metadata."""
        return [_row(hit) for hit in self.results]

    def to_pandas(self) -> "pandas.DataFrame":
        """Needs pandas: `pip install codexos[pandas]`."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_arrow(self) -> "pyarrow.Table":
        """Needs pyarrow: `pip install codexos[arrow]`."""
        import pyarrow

        return pyarrow.Table.from_pylist(self.rows())


def _row(hit: Hit) -> dict[str, Any]:
    scores: Mapping[str, Any] = {f"score_{name}": score for name, score in (hit.scores or {}).items()}
    own = {"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": hit.score, **scores}
    return {**own, "text": hit.text, **hit.metadata}
