"""What the routes of ingestion answer, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.knowledge.job_view import Status
from kernel.knowledge.record import Making
from kernel.storage.jobs import Shown
from serve_apps.rag_shapes import COLLECTION, DOCUMENT
from serve_apps.shapes import ErrorBody, PageShape, Pagination, Time

JOB = "job_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
JOB_LINKS = {
    "self": f"/v1/rag/jobs/{JOB}",
    "documents": f"/v1/rag/jobs/{JOB}/documents",
    "events": f"/v1/rag/jobs/{JOB}/events",
    "cancel": f"/v1/rag/jobs/{JOB}/cancel",
}


def _shape(**example: Any) -> ConfigDict:
    return ConfigDict(extra="allow", json_schema_extra={"examples": [example]} if example else None)


class StartedJob(BaseModel):
    model_config = _shape(job_id=JOB, status="queued", links=JOB_LINKS)

    job_id: str
    status: Literal["queued"]
    links: dict[str, str]


class JobProgress(BaseModel):
    model_config = _shape(discovered=120, done=80, skipped=30, failed=1, deleted=0)

    discovered: int = Field(description="found so far")
    done: int = Field(
        description="taken in; of a re-index made anew, also those that changed meanwhile and were made twice"
    )
    skipped: int = Field(description="unchanged since the last time, or listed twice")
    failed: int
    deleted: int = Field(description="taken out, with `sync`")


class Throughput(BaseModel):
    model_config = _shape(documents_per_s=41.5, chunks_per_s=132.0)

    documents_per_s: float
    chunks_per_s: float


class JobDocument(BaseModel):
    model_config = _shape(document_id=DOCUMENT, location="docs/intro.md", status="done", chunks=3, bytes=2048)

    document_id: str
    location: str
    status: Shown
    chunks: int | None = None
    bytes: int | None = None
    reason: str | None = Field(None, description="why it failed")


class IngestionJobItem(BaseModel):
    model_config = _shape()

    id: str = Field(examples=[JOB])
    collection_id: str = Field(examples=[COLLECTION])
    status: Status
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    kind: Literal["ingest", "reindex"] = Field(
        description="`reindex` makes the vectors anew; it has no sources"
    )
    reindex: Making | None = Field(description="what the collection is to become", examples=[None])
    sync: bool
    sources: list[dict[str, Any]] = Field(
        description="the first 20, without texts",
        examples=[[{"type": "url", "location": "https://docs.example.com"}]],
    )
    sources_count: int
    retry_of: str | None
    progress: JobProgress
    chunks: int
    bytes: int
    throughput: Throughput
    eta_s: float | None = Field(description="seconds; null until all documents are found", examples=[3.2])
    error: ErrorBody | None = Field(description="why the job as a whole failed")
    links: dict[str, str] = Field(examples=[JOB_LINKS])


class IngestionJob(IngestionJobItem):
    errors: list[JobDocument] = Field(description="the first 20 documents that failed")


class IngestionJobPage(PageShape):
    jobs: list[IngestionJobItem]


class JobDocumentPage(BaseModel):
    documents: list[JobDocument]
    pagination: Pagination


class JobCancelled(BaseModel):
    model_config = _shape(id=JOB, status="cancelled")

    id: str
    status: Literal["cancelled"]


class UploadShape(BaseModel):
    model_config = _shape(id="upload_01JZ8XJ4T2QK5V9W3M7N6P1R8S", name="guide.pdf", size=482_113)

    id: str
    name: str
    size: int = Field(description="bytes")
