"""Who the caller is, and API keys."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import ConfigDict, JsonValue
from starlette.responses import Response

from kernel.access.record import KeyCreate, KeyPatch, KeyRotation
from serve_apps import answers
from serve_apps.deps import Caller, KeyId, Paging, needs, paged
from serve_apps.openapi import fails, gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import ApiKeyPage, ApiKeyShape, Me, NewApiKey, RotatedApiKey

router = APIRouter(prefix="/v1", route_class=Route, tags=["access"])

Anyone = Annotated[Caller, needs()]
Admin = Annotated[Caller, needs("admin")]
ORDER: JsonValue = {"name": "CI", "scopes": ["agents:read", "executions:write"]}


class NewKey(KeyCreate):
    """A key to be made. `agents` limits it to those; without `workspace_id` it is of the caller's own.

    `user_id` is the member of the workspace it acts for, by default the caller: owners and admins make keys for others,
    and only owners make them for an owner.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


class KeyChanges(KeyPatch):
    """An absent field stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Build"}]})


class Rotation(KeyRotation):
    """`overlap_ms` is how long the old key goes on working, by default a day; 0 ends it at once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_ms": 3_600_000}]})


@router.get(
    "/me", summary="Who am I", responses=gives(200, Me, "The user, workspace and key of this request.")
)
async def me(caller: Anyone) -> Response:
    """Works with any valid key. `scopes` are those that count: the key's, as far as the user's role allows them."""
    return answers.read(caller, await caller.kernel.access.me(caller.who))


@router.get("/api-keys", summary="List API keys", responses=gives(200, ApiKeyPage, "A page, newest first."))
async def index(caller: Admin, paging: Annotated[Paging, paged]) -> Response:
    """The workspace's keys, without their secrets."""
    query = paging.of("key")
    return answers.listed(caller, "api_keys", await caller.kernel.access.keys.list(caller.who, query), query)


@router.post(
    "/api-keys",
    status_code=201,
    summary="Create an API key",
    responses=gives(201, NewApiKey, "The key, shown once.") | fails(404),
)
async def create(caller: Admin, order: NewKey) -> Response:
    """A key may have no more rights than the one that makes it.

    One that is made for somebody else stands for them in this workspace alone.
    """
    issued = await caller.kernel.access.keys.create(
        caller.who, order, caller.origin, lost=caller.created_before, idempotency_record=caller.record
    )
    return answers.created(issued.shown(), f"/v1/api-keys/{issued.key.id}", secret=True)


@router.get("/api-keys/{key_id}", summary="Get an API key", responses=gives(200, ApiKeyShape, "The key."))
async def get(caller: Admin, key_id: KeyId) -> Response:
    """Without its secret."""
    key = await caller.kernel.access.keys.get(caller.who, key_id)
    return answers.read(caller, key, _tag(key))


@router.patch(
    "/api-keys/{key_id}", summary="Change an API key", responses=gives(200, ApiKeyShape, "The key.")
)
async def update(caller: Admin, key_id: KeyId, patch: KeyChanges) -> Response:
    """An absent field stays."""
    hold = partial(_hold, caller)
    key = await caller.kernel.access.keys.update(caller.who, key_id, patch, caller.origin, hold)
    return answers.done(key, _tag(key))


@router.delete(
    "/api-keys/{key_id}",
    status_code=204,
    summary="Revoke an API key",
    responses=gives_nothing(204, "Revoked; every replica refuses it within a second."),
)
async def revoke(caller: Admin, key_id: KeyId) -> Response:
    """Streams that it opened are closed within 5 s."""
    await caller.kernel.access.keys.revoke(caller.who, key_id, caller.origin, partial(_hold, caller))
    return answers.no_content()


@router.post(
    "/api-keys/{key_id}/rotate",
    status_code=201,
    summary="Rotate an API key",
    responses=gives(201, RotatedApiKey, "The successor, shown once, and the end of the old key."),
)
async def rotate(caller: Admin, key_id: KeyId, order: Annotated[Rotation, Body()] = Rotation()) -> Response:
    """A successor with the same name, rights, limits and expiry. A key may rotate itself, and is rotated once."""
    issued = await caller.kernel.access.keys.rotate(
        caller.who, key_id, order, caller.origin, lost=caller.created_before, idempotency_record=caller.record
    )
    return answers.created(issued.shown(), f"/v1/api-keys/{issued.key.id}", secret=True)


def _hold(caller: Caller, key: dict[str, Any]) -> None:
    answers.hold_match(caller, _tag(key))


def _tag(key: dict[str, Any]) -> str:
    """Using a key does not change it."""
    return answers.etag_of(answers.encode(key | {"last_used_at": None}))
