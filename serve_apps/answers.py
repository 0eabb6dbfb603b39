"""Answers as bytes: no response model runs at request time, `openapi.py` documents them instead."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import urlencode

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from kernel.errors import Conflict
from kernel.paging import Page, PageQuery
from serve_apps.deps import Caller

JSON = "application/json"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent")


def encode(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain)


def etag_of(body: bytes) -> str:
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def read(
    caller: Caller, value: Any, etag: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """200, or 304 when the caller has it already."""
    body = value if isinstance(value, bytes) else encode(value)
    tag = etag or etag_of(body)
    extra = {"etag": tag, **(headers or {})}
    if _matches(caller.connection.headers.get("if-none-match"), tag):
        return Response(None, 304, extra)
    return Response(body, 200, extra, JSON)


def listed(caller: Caller, name: str, page: Page[Any], query: PageQuery) -> Response:
    """A page of a list under its name, with the way to the next one."""
    value = {name: page.items, "pagination": page.pagination(query), "next_cursor": page.next_cursor}
    return read(caller, value, headers=_link(caller, page.next_cursor))


def _link(caller: Caller, cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    kept = [(k, v) for k, v in caller.connection.query_params.multi_items() if k not in ("cursor", "page")]
    path = caller.connection.scope["path"]
    return {"link": f'<{path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}


def created(value: Any, location: str, etag: str | None = None, secret: bool = False) -> Response:
    extra = {"location": location} | ({"etag": etag} if etag else {})
    return Response(encode(value), 201, extra | ({"cache-control": "no-store"} if secret else {}), JSON)


def accepted(value: Any, location: str) -> Response:
    return Response(encode(value), 202, {"location": location}, JSON)


def done(value: Any, etag: str | None = None) -> Response:
    body = value if isinstance(value, bytes) else encode(value)
    return Response(body, 200, {"etag": etag} if etag else None, JSON)


def secret(value: Any) -> Response:
    """A read that nobody may keep: it has no ETag."""
    return Response(encode(value), 200, {"cache-control": "no-store"}, JSON)


def no_content() -> Response:
    return Response(None, 204)


def if_match(caller: Caller) -> str | None:
    """The tag an edit is bound to; None when it is bound to none."""
    given = caller.connection.headers.get("if-match")
    return None if given is None or given.strip() == "*" else given.strip()


def hold_match(caller: Caller, etag: str) -> None:
    """Raises Conflict when the caller's `If-Match` names another state."""
    wanted = if_match(caller)
    if wanted is not None and not _matches(wanted, etag):
        raise Conflict("The resource has changed since it was read", {"reason": "stale_etag"})


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags
