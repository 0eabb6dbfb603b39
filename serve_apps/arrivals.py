"""Bodies that are no plain JSON: a file that is streamed to its place, and documents line by line."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi.exceptions import RequestValidationError
from pydantic import Field
from pydantic import ValidationError as Misfit
from starlette.requests import Request
from starlette.responses import Response

from kernel.access.principal import Principal
from kernel.assembly import Kernel
from kernel.ids import new_id
from kernel.knowledge.written import MOST, WrittenDocument
from kernel.shape import Shape, at_most
from serve_apps import body
from serve_apps.multipart import FIELD, IncomingFile
from serve_apps.routing import Handler, Reader, Route

LINES = "application/x-ndjson"
DOCUMENTS = {
    "type": "object",
    "required": ["documents"],
    "additionalProperties": False,
    "properties": {
        "documents": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST,
            "items": WrittenDocument.model_json_schema(),
            "description": "at most 8 MB all together",
        }
    },
}
FORM = {
    "type": "object",
    "required": [FIELD],
    "additionalProperties": False,
    "properties": {FIELD: {"type": "string", "format": "binary", "description": "the file, with its name"}},
}


@dataclass(slots=True)
class Arrived:
    """A file in its place. known: callers have been told of it."""

    workspace_id: str
    collection_id: str
    upload_id: str
    file: IncomingFile
    known: bool = False


async def _receive(request: Request) -> None:
    """Streams the file to its place; in the body's stead stands what makes the request the same as another."""
    kernel: Kernel = request.app.state.kernel
    who: Principal = request.scope["principal"]
    collection_id = request.path_params["collection_id"]
    who.require_collection(collection_id)
    await kernel.ingestion.specs.check_collection(who.workspace_id, collection_id)
    file = IncomingFile(request, kernel.settings.ingestion.max_upload_mb * 1_000_000)
    arrived = Arrived(who.workspace_id, collection_id, new_id("upload"), file)
    await kernel.ingestion.uploads.write(who.workspace_id, collection_id, arrived.upload_id, file.parts())
    request.state.arrived = arrived
    request._body = f"{file.name} {file.digest}".encode()


async def _discard(request: Request) -> None:
    arrived: Arrived | None = getattr(request.state, "arrived", None)
    if arrived is not None and not arrived.known:
        uploads = request.app.state.kernel.ingestion.uploads
        await uploads.discard(arrived.workspace_id, arrived.collection_id, arrived.upload_id)


async def _read_documents(request: Request) -> None:
    """Raises ValidationError, UnsupportedMediaType, PayloadTooLarge, RequestValidationError."""
    raw = await body.read(request, request.app.state.settings.api.max_body_mb * 1_000_000)
    request._body = raw
    in_lines = request.headers.get("content-type", "").partition(";")[0].strip().lower() == LINES
    if not in_lines:
        body.check_headers(request.headers)
    request.state.documents = await asyncio.to_thread(_documents, raw, in_lines)


def _documents(raw: bytes, in_lines: bool) -> list[WrittenDocument]:
    value = (
        {"documents": [body.parse(line) for line in raw.splitlines() if line.strip()]}
        if in_lines
        else body.parse(raw)
    )
    try:
        return WrittenDocuments.model_validate(value).documents
    except Misfit as misfit:
        problems = [{**error, "loc": ("body", *error["loc"])} for error in misfit.errors(include_url=False)]
        raise RequestValidationError(problems, body=value) from None


class WrittenDocuments(Shape):
    """Documents as they are to be found, at most 10,000 and 8 MB at once."""

    documents: Annotated[list[WrittenDocument], at_most(MOST), Field(min_length=1)]


class UploadRoute(Route):
    """The file goes to its place as it arrives. It is taken away again unless the answer makes it known."""

    def body_reader(self) -> Reader:
        return _receive

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def receiving(request: Request) -> Response:
            try:
                return await handle(request)
            finally:
                await _discard(request)

        return receiving


class WriteRoute(Route):
    """Takes documents as JSON or line by line."""

    def body_reader(self) -> Reader:
        return _read_documents
