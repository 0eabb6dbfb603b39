"""Who the caller is, API keys and workspaces."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict, JsonValue
from starlette.responses import Response

from kernel.access.record import KeyCreate, KeyPatch, WorkspaceCreate
from kernel.paging import Page
from serve_apps import answers
from serve_apps.deps import Caller, Paging, needs, paged
from serve_apps.openapi import fails, gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import ApiKeyPage, ApiKeyShape, Me, NewApiKey, WorkspacePage, WorkspaceShape

router = APIRouter(prefix="/v1", route_class=Route, tags=["access"])

Anyone = Annotated[Caller, needs()]
Admin = Annotated[Caller, needs("admin")]
ORDER: JsonValue = {"name": "CI", "scopes": ["agents:read", "executions:write"]}


class NewKey(KeyCreate):
    """A key to be made. `agents` limits it to those; without `workspace_id` it is of the caller's own."""

    model_config = ConfigDict(json_schema_extra={"examples": [ORDER]})


class KeyChanges(KeyPatch):
    """An absent field stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Build"}]})


class NewWorkspace(WorkspaceCreate):
    """A workspace to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Lab"}]})


KeyId = Annotated[str, Path(description="An API key's id.", examples=["key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])]


@router.get(
    "/me", summary="Who am I", responses=gives(200, Me, "The user, workspace and key of this request.")
)
async def me(caller: Anyone) -> Response:
    """Works with any valid key."""
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
    """A key may have no more rights than the one that makes it."""
    issued = await caller.kernel.access.keys.create(
        caller.who, order, lost=caller.created_before, idempotency_record=caller.record
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
    key = await caller.kernel.access.keys.update(caller.who, key_id, patch, partial(_hold, caller))
    return answers.done(key, _tag(key))


@router.delete(
    "/api-keys/{key_id}",
    status_code=204,
    summary="Revoke an API key",
    responses=gives_nothing(204, "Revoked; every replica refuses it within a second."),
)
async def revoke(caller: Admin, key_id: KeyId) -> Response:
    """Streams that it opened are closed within 5 s."""
    await caller.kernel.access.keys.revoke(caller.who, key_id, partial(_hold, caller))
    return answers.no_content()


@router.get(
    "/workspaces", summary="List workspaces", responses=gives(200, WorkspacePage, "A page, newest first.")
)
async def workspaces(caller: Anyone, paging: Annotated[Paging, paged]) -> Response:
    """Those of the user behind the key."""
    query = paging.of("ws")
    found = await caller.kernel.access.workspaces.list(caller.who, query)
    shown = [workspace.shown() for workspace in found.items]
    return answers.listed(caller, "workspaces", Page(shown, found.total, found.last_id, found.more), query)


@router.post(
    "/workspaces",
    status_code=201,
    summary="Create a workspace",
    responses=gives(201, WorkspaceShape, "The workspace."),
)
async def create_workspace(caller: Admin, order: NewWorkspace) -> Response:
    """Another plan than `free` is set by the owner of the installation only."""
    made = await caller.kernel.access.workspaces.create(
        caller.who, order, workspace_id=caller.created_before, idempotency_record=caller.record
    )
    return answers.created(made.shown(), "/v1/workspaces")


def _hold(caller: Caller, key: dict[str, Any]) -> None:
    answers.hold_match(caller, _tag(key))


def _tag(key: dict[str, Any]) -> str:
    """Using a key does not change it."""
    return answers.etag_of(answers.encode(key | {"last_used_at": None}))
