"""What a workspace used and what it costs, shown and as files."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BeforeValidator, WithJsonSchema
from starlette.responses import Response

from kernel.metering import export
from kernel.metering.period import Granularity, Period, moment
from kernel.metering.usage import GroupBy
from serve_apps import answers
from serve_apps.deps import Caller, needs
from serve_apps.openapi import Answers, gives
from serve_apps.routing import Route
from serve_apps.shapes import UsageStats

router = APIRouter(prefix="/v1/usage", route_class=Route, tags=["usage"])

Reader = Annotated[Caller, needs("usage:read")]
_WHEN: dict[str, Any] = {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
Moment = Annotated[int, BeforeValidator(moment), WithJsonSchema(_WHEN)]


@dataclass(frozen=True, slots=True)
class Asked:
    start: int | None
    end: int | None
    granularity: Granularity
    group_by: GroupBy | None

    def of(self, caller: Caller) -> Period:
        """Raises AuthorizationError for a key that is limited to some agents or collections, ValidationError."""
        caller.who.require_unlimited()
        return Period.of(self.start, self.end, self.granularity, caller.kernel.clock.now_ms())


async def asked(
    start_date: Annotated[
        Moment | None,
        Query(
            description="A time with its zone, or a date, which is its midnight in UTC. Hours that begin at or after "
            "it count. By default 30 days before the end.",
            examples=["2024-01-01"],
        ),
    ] = None,
    end_date: Annotated[
        Moment | None,
        Query(
            description="Hours that begin before it count, so a date is not itself in the period. By default now; at "
            "most 366 days after the start.",
            examples=["2024-02-01T00:00:00Z"],
        ),
    ] = None,
    granularity: Annotated[
        Granularity, Query(description="Parts of the series, in UTC; weeks begin on Monday.")
    ] = "day",
    group_by: Annotated[
        GroupBy | None,
        Query(
            description="Also sums by agent, key and so on. An execution counts for each of its labels; of collections "
            "it is told what they took in, what was embedded for them, and what their vectors and texts take."
        ),
    ] = None,
) -> Asked:
    return Asked(start_date, end_date, granularity, group_by)


Wanted = Annotated[Asked, Depends(asked)]
TABLE = ",".join(["start", "end", *export.COLUMNS])
FILE: Answers = {
    200: {
        "description": "The file. In CSV, text that a spreadsheet would take for a formula begins with `'`.",
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": TABLE},
            "application/vnd.apache.parquet": {
                "schema": {"type": "string", "format": "binary"},
                "example": "PAR1…",
            },
        },
    },
    304: {"description": "Unchanged since `If-None-Match`."},
}


@router.get("/stats", summary="Get usage stats", responses=gives(200, UsageStats, "Usage and costs."))
async def stats(caller: Reader, wanted: Wanted) -> Response:
    """Sums of the period and of each of its parts. Money is in USD; what is not priced is null."""
    period = wanted.of(caller)
    usage = caller.kernel.books.usage
    return answers.read(caller, await usage.stats(caller.workspace_id, period, wanted.group_by))


@router.get("/export", summary="Export usage", responses=FILE, response_class=Response)
async def export_(
    caller: Reader,
    wanted: Wanted,
    file_format: Annotated[export.Format, Query(alias="format", description="Kind of file.")] = "csv",
) -> Response:
    """A row for each part of the period; with `group_by` one for each value that used something in it."""
    period = wanted.of(caller)
    rows = await caller.kernel.books.usage.rows(caller.workspace_id, period, wanted.group_by)
    data = await asyncio.to_thread(export.file, rows, wanted.group_by is not None, file_format)
    named = f'attachment; filename="{export.file_name(period, file_format)}"'
    response = answers.read(caller, data, headers={"content-disposition": named})
    if response.status_code == 200:
        response.headers["content-type"] = export.MEDIA[file_format]
    return response
