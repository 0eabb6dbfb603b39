"""Collections of documents: made, found, changed, deleted, searched."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field, JsonValue
from starlette.responses import Response

from kernel.errors import Conflict, ProviderError, Unavailable, ValidationError
from kernel.knowledge.record import CollectionCreate, CollectionPatch, CollectionRecord
from kernel.knowledge.search import Found, SearchOrder
from kernel.paging import PageQuery
from kernel.shape import at_most
from serve_apps import answers
from serve_apps.deps import Caller, Paging, needs, paged
from serve_apps.openapi import fails, gives, gives_nothing
from serve_apps.rag_shapes import (
    COLLECTION,
    DOCUMENT,
    CollectionPage,
    CollectionsAnswer,
    CollectionShape,
    CollectionStats,
    DocumentPage,
    DocumentShape,
    SearchAnswer,
)
from serve_apps.routing import Route

router = APIRouter(prefix="/v1/rag", route_class=Route, tags=["rag"])

Reader = Annotated[Caller, needs("rag:read")]
Writer = Annotated[Caller, needs("rag:write")]
CollectionId = Annotated[str, Path(description="A collection's id.", examples=[COLLECTION])]
DocumentId = Annotated[str, Path(description="A document's id.", examples=[DOCUMENT])]

MOST_COLLECTIONS = 20
ORDER: JsonValue = {
    "name": "my-docs",
    "description": "Product documentation",
    "embedding_model": "text-embedding-ada-002",
    "chunk_size": 1000,
    "chunk_overlap": 200,
}
SEARCH: dict[str, JsonValue] = {
    "query": "How do I authenticate users?",
    "top_k": 5,
    "filters": {"source_type": "documentation"},
}


class NewCollection(CollectionCreate):
    """A collection to be made. Names are told apart in lower case; chunks are counted in `chunk_unit`."""

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


class CollectionChanges(CollectionPatch):
    """An absent field stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"description": "All of our documentation"}]})


class CollectionSearch(SearchOrder):
    """What to look for. `rerank`: true is the model that is there, or the name of one of `GET /models`."""

    model_config = ConfigDict(json_schema_extra={"examples": [SEARCH]})


class CollectionsSearch(SearchOrder):
    """What to look for, and where: without `collection_ids`, in all that the key reaches."""

    model_config = ConfigDict(json_schema_extra={"examples": [SEARCH | {"collection_ids": [COLLECTION]}]})

    collection_ids: (
        Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1), at_most(MOST_COLLECTIONS)]
        | None
    ) = None


@router.get(
    "/collections", summary="List collections", responses=gives(200, CollectionPage, "A page, newest first.")
)
async def index(caller: Reader, paging: Annotated[Paging, paged]) -> Response:
    """Those that the key reaches."""
    query = paging.of("col")
    page = await caller.kernel.collections.list(caller.workspace_id, caller.who.collections, query)
    return answers.listed(caller, "collections", page, query)


@router.post(
    "/collections",
    status_code=201,
    summary="Create a collection",
    responses=gives(201, CollectionShape, "The collection, still empty."),
)
async def create(caller: Writer, order: NewCollection) -> Response:
    """Its name must be free in the workspace."""
    caller.who.require_all_collections()
    record = await caller.kernel.collections.create(
        caller.workspace_id,
        order,
        collection_id=caller.created_before,
        idempotency_record=caller.record,
    )
    return answers.created(record.shown(), f"/v1/rag/collections/{record.id}", record.etag)


@router.get(
    "/collections/{collection_id}",
    summary="Get a collection",
    responses=gives(200, CollectionShape, "The collection."),
)
async def get(caller: Reader, collection_id: CollectionId) -> Response:
    """With how much is in it."""
    record = await _reach(caller, collection_id)
    return answers.read(caller, record.shown(), record.etag)


@router.patch(
    "/collections/{collection_id}",
    summary="Change a collection",
    responses=gives(200, CollectionShape, "The collection, with the job that re-indexes it if there is one."),
)
async def patch(caller: Writer, collection_id: CollectionId, changes: CollectionChanges) -> Response:
    """Another model, other chunks or another metric make its vectors anew: while there are documents, by a job, which
    `reindex` names. Until that has completed the collection is searched, filled and shown as it was. One such job at a
    time: another change of this kind meanwhile is a CONFLICT.
    """
    caller.who.require_collection(collection_id)
    record = await caller.kernel.collections.patch(
        caller.workspace_id, collection_id, changes, answers.if_match(caller), caller.who.key_id
    )
    return answers.done(record.shown(), record.etag)


@router.delete(
    "/collections/{collection_id}",
    status_code=204,
    summary="Delete a collection",
    responses=gives_nothing(204, "Deleted, with its documents, jobs and uploads."),
)
async def delete(caller: Writer, collection_id: CollectionId) -> Response:
    """Jobs under way stop."""
    caller.who.require_collection(collection_id)
    await caller.kernel.collections.delete(caller.workspace_id, collection_id, answers.if_match(caller))
    return answers.no_content()


@router.get(
    "/collections/{collection_id}/stats",
    summary="Get a collection's figures",
    responses=gives(200, CollectionStats, "What is in it."),
)
async def stats(caller: Reader, collection_id: CollectionId) -> Response:
    """Of its documents and vectors."""
    caller.who.require_collection(collection_id)
    return answers.read(caller, await caller.kernel.collections.stats(caller.workspace_id, collection_id))


@router.get(
    "/collections/{collection_id}/documents",
    summary="List documents",
    responses=gives(200, DocumentPage, "A page, newest first."),
)
async def documents(
    caller: Reader, collection_id: CollectionId, paging: Annotated[Paging, paged]
) -> Response:
    """By the time they were last taken in."""
    caller.who.require_collection(collection_id)
    query = paging.of("doc")
    page = await caller.kernel.collections.documents(caller.workspace_id, collection_id, query)
    return answers.listed(caller, "documents", page, query)


@router.get(
    "/collections/{collection_id}/documents/{document_id}",
    summary="Get a document",
    responses=gives(200, DocumentShape, "The document, without its text."),
)
async def document(caller: Reader, collection_id: CollectionId, document_id: DocumentId) -> Response:
    """What is known of it."""
    caller.who.require_collection(collection_id)
    found = await caller.kernel.collections.document(caller.workspace_id, collection_id, document_id)
    return answers.read(caller, found)


@router.delete(
    "/collections/{collection_id}/documents/{document_id}",
    status_code=204,
    summary="Delete a document",
    responses=gives_nothing(204, "Deleted; no search shows it any more."),
)
async def delete_document(caller: Writer, collection_id: CollectionId, document_id: DocumentId) -> Response:
    """A later job that finds it at its source takes it in again."""
    caller.who.require_collection(collection_id)
    collections = caller.kernel.collections
    found = await collections.document(caller.workspace_id, collection_id, document_id)
    answers.hold_match(caller, answers.etag_of(answers.encode(found)))
    await collections.delete_document(caller.workspace_id, collection_id, document_id)
    return answers.no_content()


@router.post(
    "/collections/{collection_id}/search",
    summary="Search a collection",
    responses=gives(200, SearchAnswer, "What was found.") | fails(404, 409),
)
async def search(caller: Reader, collection_id: CollectionId, order: CollectionSearch) -> Response:
    """By meaning, by words, or both ways. What a completed job wrote is found, what was deleted is not."""
    found = await _found(caller, [await _reach(caller, collection_id)], order)
    return answers.done(_answer(found, [one.shown() for one in found.results]))


@router.post(
    "/search",
    summary="Search several collections",
    responses=gives(200, CollectionsAnswer, "What was found.") | fails(404, 409),
)
async def search_several(caller: Reader, order: CollectionsSearch) -> Response:
    """The results of each are merged by where they stand, for scores of different models do not compare."""
    found = await _found(caller, await _named(caller, order.collection_ids), order)
    shown = [one.shown() | {"collection_id": one.collection_id} for one in found.results]
    return answers.done(_answer(found, shown))


async def _reach(caller: Caller, collection_id: str) -> CollectionRecord:
    caller.who.require_collection(collection_id)
    return await caller.kernel.collections.get(caller.workspace_id, collection_id)


async def _named(caller: Caller, ids: list[str] | None) -> list[CollectionRecord]:
    """Raises NotFound, ValidationError when all are meant and there are too many."""
    if ids is None:
        query = PageQuery(limit=MOST_COLLECTIONS)
        page = await caller.kernel.collections.list(caller.workspace_id, caller.who.collections, query)
        if page.more:
            reason = f"Name up to {MOST_COLLECTIONS} of the {page.total} collections"
            raise ValidationError.at("collection_ids", reason)
        ids = [item["id"] for item in page.items]
    return [await _reach(caller, collection_id) for collection_id in dict.fromkeys(ids)]


async def _found(caller: Caller, records: list[CollectionRecord], order: SearchOrder) -> Found:
    try:
        return await caller.kernel.search.answer(caller.workspace_id, caller.who.key_id, records, order)
    except ProviderError as error:
        if error.can_retry:
            raise Unavailable(error.message, error.details, error.retry_after or 1.0) from error
        raise Conflict(f"The collection's model cannot be asked: {error.message}", error.details) from error


def _answer(found: Found, results: list[dict[str, Any]]) -> dict[str, Any]:
    fallback = {"mode_used": found.fallback} if found.fallback else {}
    return {"results": results, "took_ms": found.took_ms} | fallback
