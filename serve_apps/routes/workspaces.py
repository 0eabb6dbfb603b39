"""Workspaces and their members."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict
from starlette.responses import Response

from kernel.access.members import MemberCreate, MemberPatch
from kernel.access.workspaces import WorkspaceCreate, WorkspacePatch
from kernel.paging import Page
from serve_apps import answers
from serve_apps.deps import Caller, Paging, UserId, WorkspaceId, needs, paged
from serve_apps.openapi import gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import MemberPage, MemberShape, WorkspacePage, WorkspaceShape

router = APIRouter(prefix="/v1", route_class=Route, tags=["workspaces"])

Anyone = Annotated[Caller, needs()]
Admin = Annotated[Caller, needs("admin")]


class NewWorkspace(WorkspaceCreate):
    """A workspace to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Lab"}]})


class WorkspaceChanges(WorkspacePatch):
    """An absent field stays. `limits` take the place of the plan's: null in it is unlimited, null for it is none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"plan": "pro", "limits": {"concurrent": 80}}]})


class NewMember(MemberCreate):
    """`user_id` is a member of a workspace that the caller manages; without it a user is made, who needs a name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Ada", "email": "ada@example.com", "role": "developer"}]}
    )


class MemberChanges(MemberPatch):
    """What the member shall be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "viewer"}]})


@router.get(
    "/workspaces", summary="List workspaces", responses=gives(200, WorkspacePage, "A page, newest first.")
)
async def index(caller: Anyone, paging: Annotated[Paging, paged]) -> Response:
    """Those of the user behind the key; of a key that is limited, or that somebody else made, its own alone."""
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
async def create(caller: Admin, order: NewWorkspace) -> Response:
    """Another plan than `free` is set by the owner of the installation only."""
    made = await caller.kernel.access.workspaces.create(
        caller.who,
        order,
        caller.origin,
        workspace_id=caller.created_before,
        idempotency_record=caller.record,
    )
    return answers.created(made.shown(), f"/v1/workspaces/{made.id}", _tag(made.shown()))


@router.get(
    "/workspaces/{workspace_id}",
    summary="Get a workspace",
    responses=gives(200, WorkspaceShape, "The workspace."),
)
async def get(caller: Anyone, workspace_id: WorkspaceId) -> Response:
    """To members, and to the owner of the installation; to others it does not exist."""
    return answers.read(caller, (await caller.kernel.access.workspaces.get(caller.who, workspace_id)).shown())


@router.patch(
    "/workspaces/{workspace_id}",
    summary="Change a workspace",
    responses=gives(200, WorkspaceShape, "The workspace."),
)
async def update(caller: Admin, workspace_id: WorkspaceId, patch: WorkspaceChanges) -> Response:
    """Its owners and admins set the name; the owner of the installation sets plan, limits and status.

    Every replica goes by the new ones within a second. A disabled workspace's keys open nothing.
    """
    changed = await caller.kernel.access.workspaces.update(
        caller.who, workspace_id, patch, caller.origin, partial(_hold, caller)
    )
    return answers.done(changed.shown(), _tag(changed.shown()))


@router.get(
    "/workspaces/{workspace_id}/members",
    summary="List members",
    responses=gives(200, MemberPage, "A page, the newest users first."),
)
async def members(caller: Admin, workspace_id: WorkspaceId, paging: Annotated[Paging, paged]) -> Response:
    """For owners and admins of the workspace."""
    query = paging.of("user")
    page = await caller.kernel.access.members.list(caller.who, workspace_id, query)
    return answers.listed(caller, "members", page, query)


@router.post(
    "/workspaces/{workspace_id}/members",
    status_code=201,
    summary="Add a member",
    responses=gives(201, MemberShape, "The member."),
)
async def add(caller: Admin, workspace_id: WorkspaceId, order: NewMember) -> Response:
    """By owners and admins; another owner by owners only. An email is of one member of the workspace."""
    member = await caller.kernel.access.members.add(
        caller.who,
        workspace_id,
        order,
        caller.origin,
        created_before=caller.created_before,
        idempotency_record=caller.record,
    )
    path = f"/v1/workspaces/{workspace_id}/members/{member['user_id']}"
    return answers.created(member, path, _tag(member))


@router.get(
    "/workspaces/{workspace_id}/members/{user_id}",
    summary="Get a member",
    responses=gives(200, MemberShape, "The member."),
)
async def get_member(caller: Admin, workspace_id: WorkspaceId, user_id: UserId) -> Response:
    """For owners and admins of the workspace."""
    return answers.read(caller, await caller.kernel.access.members.get(caller.who, workspace_id, user_id))


@router.patch(
    "/workspaces/{workspace_id}/members/{user_id}",
    summary="Change a member's role",
    responses=gives(200, MemberShape, "The member."),
)
async def change(caller: Admin, workspace_id: WorkspaceId, user_id: UserId, patch: MemberChanges) -> Response:
    """Their keys follow within a second. What concerns an owner is for owners; the last one stays."""
    member = await caller.kernel.access.members.change(
        caller.who, workspace_id, user_id, patch.role, caller.origin, partial(_hold, caller)
    )
    return answers.done(member, _tag(member))


@router.delete(
    "/workspaces/{workspace_id}/members/{user_id}",
    status_code=204,
    summary="Remove a member",
    responses=gives_nothing(204, "Removed; every replica refuses their keys within a second."),
)
async def remove(caller: Admin, workspace_id: WorkspaceId, user_id: UserId) -> Response:
    """Their keys in the workspace open nothing, unless they become a member again."""
    await caller.kernel.access.members.change(
        caller.who, workspace_id, user_id, None, caller.origin, partial(_hold, caller)
    )
    return answers.no_content()


def _hold(caller: Caller, shown: dict[str, Any]) -> None:
    answers.hold_match(caller, _tag(shown))


def _tag(shown: dict[str, Any]) -> str:
    return answers.etag_of(answers.encode(shown))
