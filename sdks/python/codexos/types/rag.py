from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from codexos.types._model import Model

if TYPE_CHECKING:
    import pandas
    import pyarrow

SearchMode = Literal["hybrid", "dense", "keyword"]
JobStatus = Literal["queued", "running", "completed", "completed_with_errors", "failed", "cancelled"]
DocumentStatus = Literal["done", "skipped", "failed", "deleted"]


@dataclass(frozen=True, kw_only=True)
class CollectionInfo(Model):
    """chunk_size, chunk_overlap: in `chunk_unit`."""

    id: str
    name: str
    description: str
    embedding_model: str
    chunk_size: int
    chunk_overlap: int
    chunk_unit: Literal["characters", "tokens"]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class Document(Model):
    """A document of a collection. bytes: of its text."""

    id: str
    location: str
    title: str
    source_type: str
    chunks: int
    bytes: int
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Progress(Model):
    """Documents: found so far, and what became of them. `skipped` are as they were."""

    discovered: int
    done: int
    skipped: int
    failed: int
    deleted: int

    @property
    def settled(self) -> int:
        return self.done + self.skipped + self.failed


@dataclass(frozen=True, kw_only=True)
class JobInfo(Model):
    """A job as it was when it was asked for. throughput: as the API tells it; eta_s: seconds it may still take."""

    id: str
    collection_id: str
    status: JobStatus
    progress: Progress
    chunks: int
    bytes: int
    throughput: dict[str, float] | None = None
    eta_s: float | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class JobDocument(Model):
    """What a job did with a document. error: why it failed."""

    document_id: str
    location: str
    status: DocumentStatus
    chunks: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobEvent(Model):
    """`job.started`, `job.progress`, `document.failed`, and last `job.` with the status it ended in."""

    type: str
    data: dict[str, Any]
    seq: int
    timestamp: datetime

    @property
    def is_last(self) -> bool:
        return self.type.startswith("job.") and self.type not in ("job.started", "job.progress", "job.queued")


@dataclass(frozen=True, kw_only=True)
class Hit(Model):
    """A chunk that was found. scores: by kind of search. metadata: with `location`, `title`, `page`, `heading`."""

    chunk_id: str
    document_id: str
    text: str
    score: float
    scores: dict[str, float | None]
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SearchResults(Model):
    """Best first; iterate over it, or make a table of it."""

    results: list[Hit]
    took_ms: float

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
