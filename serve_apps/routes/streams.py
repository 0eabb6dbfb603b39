"""Events of an execution as they happen: WebSocket, its SSE twin, and the tickets browsers open them with.

A reader that leaves or lags never touches the run: it can come back with `after` (SSE: `Last-Event-ID`).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from kernel.clock import rfc3339
from kernel.errors import CodexError, Unavailable, ValidationError
from kernel.storage.following import StreamEvent
from kernel.storage.tickets import LIVES_S
from serve_apps import answers
from serve_apps.deps import Caller, ExecutionId, Whole, needs
from serve_apps.openapi import Answers, fails, gives
from serve_apps.routes.executions import reach
from serve_apps.routing import Route
from serve_apps.shapes import EXECUTION, StreamTicket

router = APIRouter(prefix="/v1", route_class=Route, tags=["streams"])

RECHECK_S = 2.0
"""How often an open stream makes sure that its key still holds."""

Reader = Annotated[Caller, needs("executions:read")]
After = Annotated[
    int, Field(ge=0), Whole, Query(description="Send only events with a greater `seq`.", examples=[0])
]
Ticket = Annotated[
    str | None, Query(max_length=64, description="Instead of a key: see `POST /stream-tickets`.")
]
LastEventId = Annotated[
    Annotated[int, Field(ge=0), Whole] | None, Header(description="As `after`, and wins over it.")
]

MESSAGE = {
    "type": "object",
    "required": ["data"],
    "properties": {"id": {"type": "string", "examples": ["1"]}, "data": {"type": "string"}},
}
SSE: Answers = {
    200: {
        "description": "One message for each event: `id` is its `seq`, `data` the event as JSON.",
        "content": {"text/event-stream": {"schema": MESSAGE}},
    },
    204: {"description": "It has ended, and nothing comes after the given event: do not connect again."},
}


class TicketOrder(BaseModel):
    """What a ticket is to open."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"execution_id": EXECUTION}]}
    )

    execution_id: str = Field(description="The execution whose stream the ticket opens.")


@router.post(
    "/stream-tickets",
    status_code=201,
    summary="Make a stream ticket",
    responses=gives(201, StreamTicket, "It opens one stream of this execution, once, within 30 s.")
    | fails(404),
)
async def ticket(caller: Reader, order: TicketOrder) -> Response:
    """Browsers cannot send a key with a WebSocket: they open it with `?ticket=` instead."""
    await reach(caller, order.execution_id)
    made = await caller.kernel.tickets.issue(order.execution_id, caller.who.key_id)
    path = f"/v1/executions/{order.execution_id}/stream?ticket={made}"
    expires = rfc3339(caller.kernel.clock.now_ms() + LIVES_S * 1000)
    return answers.created({"ticket": made, "expires_at": expires, "path": path}, path, secret=True)


@router.get(
    "/executions/{execution_id}/events",
    summary="Follow an execution (SSE)",
    responses=SSE,
    response_class=StreamingResponse,
)
async def events(
    caller: Reader,
    execution_id: ExecutionId,
    after: After = 0,
    ticket: Ticket = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Replays from the durable log, goes on live, and ends after the terminal event."""
    execution = await reach(caller, execution_id)
    seq = after if last_event_id is None else last_event_id
    following = caller.kernel.executions.follow(caller.workspace_id, execution_id, seq)
    return await as_sse(caller, following, execution["status"] != "running")


@router.get(
    "/executions/{execution_id}/stream",
    status_code=101,
    summary="Follow an execution (WebSocket)",
    responses={
        101: {"description": "Text messages, each one event as JSON; closed with 1000 after the last."}
    },
)
async def stream_without_upgrade(
    caller: Reader, execution_id: ExecutionId, after: After = 0, ticket: Ticket = None
) -> Response:
    """Close codes: 1000 the end, 4008 too slow (come again with `after`), 4401 the key is void."""
    raise ValidationError.at("Upgrade", "Open this address as a WebSocket, or use /events")


async def as_sse(caller: Caller, following: AsyncGenerator[StreamEvent], ended: bool) -> Response:
    """The events as a stream, or 204 when it has ended and there are none."""
    if ended:
        if (first := await anext(following, None)) is None:
            return Response(None, 204)
        following = _again(first, following)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_lines(caller, following), 200, headers, "text/event-stream")


async def _again(first: StreamEvent, rest: AsyncGenerator[StreamEvent]) -> AsyncGenerator[StreamEvent]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _lines(caller: Caller, following: AsyncGenerator[StreamEvent]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(paced(caller, following, caller.kernel.settings.api.ping_s)) as coming:
            async for event in coming:
                yield b": ping\n\n" if event is None else b"id: %d\ndata: %s\n\n" % (event.seq, event.body)
    except CodexError as error:
        body = {"error": error.body(caller.connection.scope["request_id"])}
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(body)


async def paced(
    caller: Caller, following: AsyncGenerator[StreamEvent], every_s: float | None
) -> AsyncGenerator[StreamEvent | None]:
    """The events, and None when none came for `every_s`. Raises AuthenticationError once the key is void."""
    void = asyncio.create_task(_until_void(caller))
    coming = asyncio.create_task(_next(following))
    try:
        while True:
            done, _ = await asyncio.wait({coming, void}, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if void in done:
                await void
            if coming not in done:
                yield None
                continue
            if (event := coming.result()) is None:
                return
            yield event
            coming = asyncio.create_task(_next(following))
    finally:
        void.cancel()
        coming.cancel()
        await asyncio.gather(void, coming, return_exceptions=True)
        await following.aclose()


async def _next(following: AsyncGenerator[StreamEvent]) -> StreamEvent | None:
    return await anext(following, None)


async def _until_void(caller: Caller) -> None:
    """Raises AuthenticationError when the key is revoked or expired; a store that is away says neither."""
    while True:
        await asyncio.sleep(RECHECK_S)
        try:
            await caller.kernel.access.principal(caller.who.key_id)
        except Unavailable:
            continue
