"""The WebSocket of an execution: refused before the upgrade, or closed with a code that says why."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from urllib.parse import urlsplit

import orjson
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from kernel.errors import (
    AuthenticationError,
    AuthorizationError,
    CodexError,
    NotFound,
    Unavailable,
    ValidationError,
)
from kernel.storage.following import SlowReader, StreamEvent
from serve_apps.deps import Caller, needs
from serve_apps.gate import PROTOCOL
from serve_apps.routes.executions import reach
from serve_apps.routes.streams import After, Ticket, paced
from serve_apps.routing import check_query

router = APIRouter(prefix="/v1")

MAX_FRAME = 64_000
MAX_UNKNOWN = 20

ENDED, BINARY, REFUSED, TOO_BIG, BROKEN, TRY_AGAIN = 1000, 1003, 1008, 1009, 1011, 1013
SLOW, KEY_VOID, GONE = 4008, 4401, 4404


@router.websocket("/executions/{execution_id}/stream")
async def stream(
    socket: WebSocket,
    caller: Annotated[Caller, needs("executions:read")],
    execution_id: str,
    after: After = 0,
    ticket: Ticket = None,
) -> None:
    check_query(socket.scope["query_string"], frozenset({"after", "ticket"}))
    check_origin(socket)
    await reach(caller, execution_id)
    await socket.accept(_subprotocol(socket))
    following = caller.kernel.executions.follow(caller.workspace_id, execution_id, after)
    code = await _first(_deliver(socket, caller, following), _listen(socket, caller))
    if code is not None:
        await socket.close(code)


def check_origin(socket: WebSocket) -> None:
    """Browsers name the page that opens the socket: only our own and the configured ones may."""
    origin = socket.headers.get("origin")
    if origin is None or origin in socket.app.state.settings.api.cors_origins:
        return
    if urlsplit(origin).netloc != socket.headers.get("host"):
        raise AuthorizationError("Pages of this origin may not open streams", {"reason": "origin"})


def _subprotocol(socket: WebSocket) -> str | None:
    """One that was offered, rather not the one that carries the key."""
    offered = sorted(socket.scope.get("subprotocols", ()), key=lambda name: name.startswith(PROTOCOL))
    return offered[0] if offered else None


async def _first(*sides: "asyncio._CoroutineLike[int | None]") -> int | None:
    """What the side says that is done first; the other is stopped."""
    tasks = [asyncio.create_task(side) for side in sides]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _deliver(socket: WebSocket, caller: Caller, following: AsyncGenerator[StreamEvent]) -> int | None:
    """The code to close with; None when the peer is gone."""
    try:
        async with aclosing(paced(caller, following, None)) as coming:
            async for event in coming:
                if event is not None:
                    await socket.send_text(event.body.decode())
        return ENDED
    except SlowReader:
        return SLOW
    except (WebSocketDisconnect, OSError):
        return None
    except CodexError as error:
        await _tell(socket, caller, error)
        return close_code(error)


def close_code(error: CodexError) -> int:
    match error:
        case AuthenticationError():
            return KEY_VOID
        case NotFound():
            return GONE
        case Unavailable():
            return TRY_AGAIN
    return BROKEN


async def _listen(socket: WebSocket, caller: Caller) -> int | None:
    """A stream takes no messages: each is answered with an error, and too many or too large ones end it."""
    for _ in range(MAX_UNKNOWN):
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        if (text := message.get("text")) is None:
            return BINARY
        if len(text.encode()) > MAX_FRAME:
            return TOO_BIG
        await _tell(socket, caller, ValidationError.at("message", "A stream takes no messages"))
    return REFUSED


async def _tell(socket: WebSocket, caller: Caller, error: CodexError) -> None:
    body = {"type": "error", "error": error.body(caller.connection.scope["request_id"])}
    await socket.send_text(orjson.dumps(body).decode())
