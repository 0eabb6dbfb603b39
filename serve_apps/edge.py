"""The outermost layer: names the request, brings its path to one form, answers for what is raised inside."""

import re
from collections.abc import Iterable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.errors import RateLimitError
from kernel.ids import new_id
from kernel.logs import REQUEST_ID
from serve_apps.errors import respond

log = structlog.get_logger()

SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's id when it is sane and sent once, else a new one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and SANE_ID.fullmatch(given[0]):
        return given[0].decode()
    return new_id("req")


class Edge:
    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        name = request_id(scope["headers"])
        REQUEST_ID.set(name)
        without_body = scope.get("method") == "HEAD"
        scope = canonical(scope) | {"request_id": name}
        tagged = _Tagged(send, scope, without_body)
        try:
            await self._app(scope, receive, tagged)
        except Exception as error:
            if tagged.status:
                log.error("broken off", path=scope["path"], exc_info=error)
                raise
            await respond(scope, error)(scope, receive, tagged)
        if tagged.status == RateLimitError.status and "admitted" in scope:
            scope["app"].state.kernel.admission.forgive(scope["principal"].key_id)
        log.debug("request", method=scope.get("method", "WS"), path=scope["path"], status=tagged.status)


def canonical(scope: Scope) -> dict[str, Any]:
    """`/api/v1/…` is `/v1/…`; HEAD is GET whose body is not sent."""
    changed = dict(scope)
    if scope["path"].startswith("/api/v1/"):
        changed["path"] = scope["path"][4:]
        changed["raw_path"] = scope.get("raw_path", b"")[4:]
    if scope.get("method") == "HEAD":
        changed["method"] = "GET"
    return changed


class _Tagged:
    """`send` that puts the request id and the limits on the answer and keeps its status."""

    def __init__(self, send: Send, scope: Scope, without_body: bool):
        self._send, self._scope, self._without_body = send, scope, without_body
        self.status = 0

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind in STARTS:
            self.status = message.get("status", 101)
            own = (b"x-request-id", self._scope["request_id"].encode())
            message["headers"] = [*message.get("headers", ()), own, *self._scope.get("told", ())]
        elif self._without_body and kind == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)
