"""Taking documents in: orders, uploads, documents that programs write, and the jobs that work them off."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import ConfigDict, JsonValue
from starlette.responses import Response, StreamingResponse

from kernel.errors import NotFound
from kernel.knowledge.job_view import links
from kernel.knowledge.jobs import Asker, IngestOrder
from kernel.knowledge.uploads import UploadRecord
from kernel.paging import PageQuery
from kernel.storage.jobs import Shown
from serve_apps import answers
from serve_apps.arrivals import DOCUMENTS, FORM, UploadRoute, WriteRoute
from serve_apps.deps import Caller, Paging, needs, numbered, paged
from serve_apps.ingest_shapes import (
    JOB,
    IngestionJob,
    IngestionJobPage,
    JobCancelled,
    JobDocumentPage,
    StartedJob,
    UploadShape,
)
from serve_apps.openapi import gives
from serve_apps.routes.rag import CollectionId
from serve_apps.routes.streams import SSE, After, LastEventId, as_sse
from serve_apps.routing import Route

Viewer = Annotated[Caller, needs("rag:read")]
Editor = Annotated[Caller, needs("rag:write")]
JobId = Annotated[str, Path(description="An ingestion job's id.", examples=[JOB])]

STARTS = gives(202, StartedJob, "Accepted; it runs whether anyone waits or not.")
EXAMPLE: JsonValue = {
    "sources": [
        {"type": "url", "location": "https://docs.example.com"},
        {"type": "github", "location": "https://github.com/org/repo", "branch": "main", "paths": ["docs/"]},
        {"type": "file", "location": "s3://bucket/file.pdf"},
    ]
}


class NewIngestion(IngestOrder):
    """Where the documents are. What has not changed since the last time is not read again."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


router = APIRouter(prefix="/v1/rag", route_class=Route, tags=["rag"])
writing = APIRouter(prefix="/v1/rag", route_class=WriteRoute, tags=["rag"])
uploading = APIRouter(prefix="/v1/rag", route_class=UploadRoute, tags=["rag"])


@router.post(
    "/collections/{collection_id}/ingest", status_code=202, summary="Ingest documents", responses=STARTS
)
async def ingest(caller: Editor, collection_id: CollectionId, order: NewIngestion) -> Response:
    """Starts a job that reads all sources. One document that cannot be taken in fails alone.

    A source with `credential_id` takes the scope `vault:read`, too.
    """
    caller.who.require_collection(collection_id)
    if order.uses_secrets:
        caller.who.require_secrets()
    job_id = caller.created_before or await caller.kernel.ingestion.jobs.start(
        _asker(caller), collection_id, order
    )
    return _started(job_id)


@writing.post(
    "/collections/{collection_id}/documents",
    status_code=202,
    summary="Write documents",
    responses=STARTS,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": DOCUMENTS}}}},
)
async def write(caller: Editor, collection_id: CollectionId) -> Response:
    """Starts a job that takes in the documents of the body: JSON, or `application/x-ndjson` with one on each line.

    An id that is there already is replaced. A document that comes with its `vector` is not cut into chunks.
    """
    caller.who.require_collection(collection_id)
    job_id = caller.created_before or await caller.kernel.ingestion.jobs.write(
        _asker(caller), collection_id, caller.connection.state.documents
    )
    return _started(job_id)


@uploading.post(
    "/collections/{collection_id}/uploads",
    status_code=201,
    summary="Upload a file",
    responses=gives(201, UploadShape, "Name its id in a source of type `file` within a week."),
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def upload(caller: Editor, collection_id: CollectionId) -> Response:
    """Takes one file, in the field `file`; it may be larger than other bodies.

    Its document will be known by the file's name without folders, or by the `name` of the source: taken in again under
    the same name, a file replaces the one before. The document shows the upload's id as `source_location`.
    """
    uploads, arrived = caller.kernel.ingestion.uploads, caller.connection.state.arrived
    if caller.created_before is not None:
        earlier = await uploads.get(caller.workspace_id, caller.created_before)
        return answers.created(earlier.shown(), _path(collection_id))
    record = UploadRecord(arrived.upload_id, arrived.file.name, arrived.file.size)
    about = arrived.file.digest[:32], arrived.file.media_type
    await uploads.record(caller.workspace_id, collection_id, record, *about, caller.record)
    arrived.known = True
    return answers.created(record.shown(), _path(collection_id))


@router.get(
    "/collections/{collection_id}/jobs",
    summary="List a collection's ingestion jobs",
    responses=gives(200, IngestionJobPage, "A page, newest first."),
)
async def index(caller: Viewer, collection_id: CollectionId, paging: Annotated[Paging, paged]) -> Response:
    """The last 1,000, newest first."""
    caller.who.require_collection(collection_id)
    query = paging.of("job")
    page = await caller.kernel.ingestion.jobs.list(caller.workspace_id, collection_id, query)
    return answers.listed(caller, "jobs", page, query)


@router.get("/jobs/{job_id}", summary="Get an ingestion job", responses=gives(200, IngestionJob, "The job."))
async def get(caller: Viewer, job_id: JobId) -> Response:
    """How far it is, how fast, and the first documents that failed."""
    await _check_reach(caller, job_id)
    return answers.read(caller, await caller.kernel.ingestion.jobs.get(caller.workspace_id, job_id))


@router.get(
    "/jobs/{job_id}/documents",
    summary="List the documents of a job",
    responses=gives(200, JobDocumentPage, "A page."),
)
async def documents(
    caller: Viewer,
    job_id: JobId,
    query: Annotated[PageQuery, numbered],
    status: Annotated[Shown | None, Query(description="Only those that came to this.")] = None,
) -> Response:
    """What became of each: first those that failed, with the reason. 10,000 of each status are kept, for 30 days."""
    await _check_reach(caller, job_id)
    page = await caller.kernel.ingestion.jobs.documents(caller.workspace_id, job_id, status, query)
    return answers.read(caller, {"documents": page.items, "pagination": page.pagination(query)})


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel an ingestion job",
    responses=gives(200, JobCancelled, "It is cancelled; what it has taken in stays."),
)
async def cancel(caller: Editor, job_id: JobId) -> Response:
    """At once: nothing of it is written any more. Repeating it changes nothing."""
    await _check_reach(caller, job_id)
    await caller.kernel.ingestion.jobs.cancel(caller.workspace_id, job_id)
    return answers.done({"id": job_id, "status": "cancelled"})


@router.post("/jobs/{job_id}/retry", status_code=202, summary="Retry an ingestion job", responses=STARTS)
async def retry(caller: Editor, job_id: JobId) -> Response:
    """A new job for the documents that failed; for the whole order when the job itself failed or was cancelled."""
    await _check_reach(caller, job_id)
    again = caller.created_before or await caller.kernel.ingestion.jobs.retry(_asker(caller), job_id)
    return _started(again)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow an ingestion job (SSE)",
    responses=SSE,
    response_class=StreamingResponse,
)
async def events(
    caller: Viewer, job_id: JobId, after: After = 0, last_event_id: LastEventId = None
) -> Response:
    """Replays from the durable log, goes on live, and ends after the terminal event.

    Types: `job.started job.progress document.failed`, then one of `job.completed job.completed_with_errors job.failed
    job.cancelled`.
    """
    await _check_reach(caller, job_id)
    jobs, seq = caller.kernel.ingestion.jobs, after if last_event_id is None else last_event_id
    ended = not await jobs.is_active(caller.workspace_id, job_id)
    return await as_sse(caller, jobs.follow(caller.workspace_id, job_id, seq), ended)


async def _check_reach(caller: Caller, job_id: str) -> None:
    """Raises NotFound when there is no such job, or none for this key."""
    collection_id = await caller.kernel.ingestion.jobs.collection_of(caller.workspace_id, job_id)
    if caller.who.collections is not None and collection_id not in caller.who.collections:
        raise NotFound("Job not found")


def _asker(caller: Caller) -> Asker:
    plan = caller.kernel.plans.of(caller.who.plan, caller.who.overrides)
    return Asker(caller.workspace_id, caller.who.key_id, caller.record, plan.ingest_mb_per_day)


def _started(job_id: str) -> Response:
    told = links(job_id)
    return answers.accepted({"job_id": job_id, "status": "queued", "links": told}, told["self"])


def _path(collection_id: str) -> str:
    return f"/v1/rag/collections/{collection_id}"
