"""The audit log: who did what, when and from where. It can be read, and nothing else."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from kernel.access.audit import COLUMNS, MEDIA, AuditFilter, Format
from serve_apps import answers
from serve_apps.deps import Caller, Paging, needs, paged
from serve_apps.openapi import Answers, gives
from serve_apps.routes.executions import Moment
from serve_apps.routing import Route
from serve_apps.shapes import KEY, USER, AuditPage

router = APIRouter(prefix="/v1/audit", route_class=Route, tags=["audit"])

Admin = Annotated[Caller, needs("admin")]
ID = r"^[A-Za-z0-9_]{1,64}$"
FileFormat = Annotated[Format, Query(alias="format", description="Kind of file.")]
FILE: Answers = {
    200: {
        "description": "One entry a line. In CSV, text that a spreadsheet would take for a formula begins with `'`.",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"id":"evt_…","action":"key.create"}',
            },
            "text/csv": {"schema": {"type": "string"}, "example": ",".join(COLUMNS)},
        },
    }
}


async def filtered(
    action: Annotated[
        str | None,
        Query(pattern=r"^[a-z_.]{1,64}$", description="Only of this kind.", examples=["key.create"]),
    ] = None,
    user_id: Annotated[
        str | None, Query(pattern=ID, description="Only what this user did.", examples=[USER])
    ] = None,
    key_id: Annotated[
        str | None, Query(pattern=ID, description="Only what was done with this key.", examples=[KEY])
    ] = None,
    after: Annotated[Moment | None, Query(description="At or after.")] = None,
    before: Annotated[Moment | None, Query(description="Before.")] = None,
) -> AuditFilter:
    return AuditFilter(action, user_id, key_id, after, before)


Wanted = Annotated[AuditFilter, Depends(filtered)]


@router.get("", summary="Read the audit log", responses=gives(200, AuditPage, "A page, newest first."))
async def index(caller: Admin, paging: Annotated[Paging, paged], wanted: Wanted) -> Response:
    """Newest first; filters combine with AND. Entries are never changed and never deleted."""
    caller.who.require_unlimited()
    query = paging.of("evt")
    page = await caller.kernel.access.trail.list(caller.workspace_id, wanted, query)
    return answers.listed(caller, "entries", page, query)


@router.get("/export", summary="Export the audit log", responses=FILE, response_class=StreamingResponse)
async def export(
    caller: Admin,
    wanted: Wanted,
    file_format: FileFormat = "jsonl",
) -> Response:
    """All of it, or what the filters leave, oldest first."""
    caller.who.require_unlimited()
    parts = caller.kernel.access.trail.export(caller.workspace_id, wanted, file_format)
    return await file_of(parts, "audit", file_format)


async def file_of(parts: AsyncGenerator[bytes], name: str, file_format: Format) -> Response:
    first = await anext(parts, b"")
    headers = {
        "cache-control": "no-store",
        "content-disposition": f'attachment; filename="{name}.{file_format}"',
    }
    return StreamingResponse(_from(first, parts), 200, headers, MEDIA[file_format])


async def _from(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A store that is away before the first part is an error answer, not half a file."""
    async with aclosing(rest):
        yield first
        async for part in rest:
            yield part
