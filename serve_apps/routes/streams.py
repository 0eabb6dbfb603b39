"""Events of an execution as they happen: WebSocket, its SSE twin, and the tickets browsers open them with.

A reader that leaves or lags never touches the run: it can come back with `after` (SSE: `Last-Event-ID`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated
from urllib.parse import urlsplit

import orjson
import structlog
from fastapi import APIRouter, Header, Query, WebSocket
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from kernel.clock import rfc3339
from kernel.errors import AuthenticationError, AuthorizationError, CodexError, InternalError, NotFound, Unavailable
from kernel.executions.stream import Event, SlowReader
from kernel.storage.tickets import LIVES_S
from serve_apps import answers
from serve_apps.deps import Caller, ExecutionId, Whole, needs
from serve_apps.gate import PROTOCOL, pack
from serve_apps.openapi import fails, gives
from serve_apps.routing import Route, check_query
from serve_apps.shapes import StreamTicket

router = APIRouter(prefix="/v1", route_class=Route, tags=["streams"])
log = structlog.get_logger()

RECHECK_S = 2.0
"""How often an open stream makes sure that its key still holds."""
MAX_FRAME = 64_000
MAX_UNKNOWN = 20
OK, BINARY, POLICY, TOO_BIG, BROKEN, AGAIN = 1000, 1003, 1008, 1009, 1011, 1013
SLOW, NO_KEY, GONE = 4008, 4401, 4404

After = Annotated[int, Whole, Query(ge=0, description="Send only events with a greater `seq`.", examples=[0])]
Reader = Annotated[Caller, needs("executions:read")]


class TicketRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"execution_id": "exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}]})

    execution_id: str = Field(description="The execution whose stream the ticket opens.")


@router.post(
    "/stream-tickets", status_code=201, summary="Make a stream ticket",
    responses=gives(201, StreamTicket, "A ticket for one stream, once, within 30 s.") | fails(404),
)
async def ticket(caller: Reader, wanted: TicketRequest) -> Response:
    """Browsers cannot send a key with a WebSocket: they open it with `?ticket=` instead."""
    await _found(caller, wanted.execution_id)
    made = await caller.kernel.tickets.issue(wanted.execution_id, pack(caller.who))
    path = f"/v1/executions/{wanted.execution_id}/stream?ticket={made}"
    expires = rfc3339(caller.kernel.clock.now_ms() + LIVES_S * 1000)
    return answers.created({"ticket": made, "expires_at": expires, "path": path}, path, secret=True)


@router.get(
    "/executions/{execution_id}/events", summary="Follow an execution (SSE)",
    responses={200: {"description": "Events, each `data:` one JSON object, `id:` its `seq`.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
               204: {"description": "It has ended and there is nothing after `Last-Event-ID`: do not reconnect."}} | fails(404),
    response_class=StreamingResponse,
)
async def events(
    caller: Reader,
    execution_id: ExecutionId,
    after: After = 0,
    ticket: Annotated[str | None, Query(description="Instead of a key: see `POST /stream-tickets`.")] = None,
    last_event_id: Annotated[int | None, Whole, Header(ge=0, description="As `after`; wins over it.")] = None,
) -> Response:
    """Replays from the durable log, then goes on live, and ends after the terminal event."""
    execution = await _found(caller, execution_id)
    after = after if last_event_id is None else last_event_id
    following = caller.kernel.executions.follow(caller.workspace_id, execution_id, after)
    if execution["status"] != "running":
        first = await anext(following, None)
        if first is None:
            return Response(None, 204)
        following = _again(first, following)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_sse(caller, following), media_type="text/event-stream", headers=headers)


async def _again(first: Event, rest: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _sse(caller: Caller, following: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(paced(caller, following, caller.kernel.settings.api.ping_s)) as events:
            async for event in events:
                yield b": ping\n\n" if event is None else b"id: %d\ndata: %s\n\n" % (event.seq, event.body)
    except CodexError as error:
        yield b"event: error\ndata: " + orjson.dumps({"error": error.body(_request_id(caller))}) + b"\n\n"


async def paced(
    caller: Caller, following: AsyncGenerator[Event], every_s: float | None
) -> AsyncGenerator[Event | None]:
    """The events, and None when none came for `every_s`. Raises AuthenticationError once the key is void."""
    watch = asyncio.create_task(_until_void(caller))
    coming = asyncio.create_task(_next(following))
    try:
        while True:
            done, _ = await asyncio.wait({coming, watch}, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if watch in done:
                await watch
            if coming not in done:
                yield None
                continue
            if (event := coming.result()) is None:
                return
            yield event
            coming = asyncio.create_task(_next(following))
    finally:
        watch.cancel()
        coming.cancel()
        await asyncio.gather(watch, coming, return_exceptions=True)
        await following.aclose()


async def _next(following: AsyncIterator[Event]) -> Event | None:
    return await anext(following, None)


async def _until_void(caller: Caller) -> None:
    """Returns never; raises AuthenticationError when the key is revoked or has expired."""
    access, token = caller.kernel.access, caller.connection.scope["token"]
    while True:
        await asyncio.sleep(RECHECK_S)
        try:
            await (access.authenticate(token) if token else access.confirm(caller.who))
        except Unavailable:
            continue


@router.websocket("/executions/{execution_id}/stream")
async def stream(socket: WebSocket, caller: Reader, execution_id: str, after: After = 0) -> None:
    check_query(socket.scope["query_string"], frozenset({"after", "ticket"}))
    _check_origin(socket)
    await _found(caller, execution_id)
    await socket.accept(_subprotocol(socket))
    following = caller.kernel.executions.follow(caller.workspace_id, execution_id, after)
    sending = asyncio.create_task(_deliver(socket, caller, following))
    listening = asyncio.create_task(_listen(socket, caller))
    done, rest = await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    code = (sending if sending in done else listening).result()
    if code is not None:
        await _close(socket, code)


async def _deliver(socket: WebSocket, caller: Caller, following: AsyncGenerator[Event]) -> int | None:
    """The code to close with; None when the peer is gone."""
    try:
        async with aclosing(paced(caller, following, None)) as events:
            async for event in events:
                if event is not None:
                    await socket.send_text(event.body.decode())
        return OK
    except SlowReader:
        return SLOW
    except (WebSocketDisconnect, OSError):
        return None
    except CodexError as error:
        return await _explain(socket, caller, error)
    except Exception as error:
        log.error("unforeseen", path=socket.url.path, exc_info=error)
        return await _explain(socket, caller, InternalError())


async def _explain(socket: WebSocket, caller: Caller, error: CodexError) -> int:
    """Sends the error as the last message; returns the close code that goes with it."""
    await _send_error(socket, caller, error)
    match error:
        case AuthenticationError():
            return NO_KEY
        case NotFound():
            return GONE
        case Unavailable():
            return AGAIN
    return BROKEN


async def _listen(socket: WebSocket, caller: Caller) -> int | None:
    """Streams take no messages: each is answered with an error, too many or too large ones end it."""
    for _ in range(MAX_UNKNOWN):
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        if message.get("bytes") is not None:
            return BINARY
        if len(message["text"].encode()) > MAX_FRAME:
            return TOO_BIG
        await _send_error(socket, caller, CodexError.__subclasses__()[0]("x"))
    return POLICY
