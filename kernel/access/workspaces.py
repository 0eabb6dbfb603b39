"""Workspaces: members see them, owners and admins name them, the operator sets their plans."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import orjson
import pydantic
from pydantic import Field, field_validator

from kernel.access.audit import LOCAL, Origin, Trail
from kernel.access.hold import Hold, any_state
from kernel.access.membership import Membership
from kernel.access.principal import Principal
from kernel.access.roles import Role
from kernel.access.scopes import Scope
from kernel.clock import Clock, rfc3339
from kernel.errors import AuthorizationError, Conflict, NotFound, Problem, ValidationError
from kernel.ids import new_id
from kernel.paging import Page, PageQuery
from kernel.shape import Shape
from kernel.storage.members import MemberStore
from kernel.storage.workspaces import StoredWorkspace, WorkspaceStore
from kernel.text import Name, refuse_null

BASIC_PLAN = "free"
MAX_WORKSPACES = 20
"""That one user makes, but for the operator."""
BY_OPERATOR = ("plan", "limits", "status")
Status = Literal["active", "disabled"]


class Plan(Protocol):
    def model_dump(self) -> dict[str, Any]: ...


class Plans(Protocol):
    def all(self) -> Mapping[str, Plan]:
        """By name."""
        ...

    def of(self, name: str, overrides: str = "") -> Plan:
        """The limits of a workspace."""
        ...

    def check(self, name: str, overrides: str) -> None:
        """Raises pydantic's ValidationError for overrides that do not fit the plan."""
        ...


class WorkspaceCreate(Shape):
    name: Name
    plan: str = Field(BASIC_PLAN, max_length=64)


class OwnLimits(Shape):
    """Limits in place of the plan's; null is unlimited, an absent one is the plan's."""

    requests_per_hour: int | None = Field(None, ge=1)
    burst: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    ingest_mb_per_day: int | None = Field(None, ge=1)

    @property
    def text(self) -> str:
        """As it is stored: empty for none."""
        own = self.model_dump(exclude_unset=True)
        return orjson.dumps(own).decode() if own else ""


class WorkspacePatch(Shape):
    """`limits` null: those of the plan alone."""

    name: Name | None = None
    plan: str | None = Field(None, max_length=64)
    limits: OwnLimits | None = None
    status: Status | None = None

    _not_null = field_validator("name", "plan", "status", mode="before")(refuse_null)


class Workspace(Shape):
    """`limits` are the plan's, the workspace's own in their place. `role` is the caller's; None: only the operator."""

    id: str
    name: str
    plan: str
    limits: dict[str, int | None]
    status: Status
    created_at: int
    role: Role | None

    def shown(self) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"created_at": rfc3339(self.created_at)}


class Workspaces:
    def __init__(
        self,
        store: WorkspaceStore,
        members: MemberStore,
        membership: Membership,
        trail: Trail,
        clock: Clock,
        plans: Plans,
        changed: Callable[[str], None],
    ):
        self._store, self._members, self._membership = store, members, membership
        self._trail, self._clock, self._plans, self._changed = trail, clock, plans, changed

    async def create(
        self,
        who: Principal,
        order: WorkspaceCreate,
        origin: Origin = LOCAL,
        *,
        workspace_id: str | None = None,
        idempotency_record: str = "",
    ) -> Workspace:
        """Raises AuthorizationError when one who is not the operator asks for more than the free plan, Conflict when
        they have made too many.

        workspace_id: what an earlier, lost try had made or meant to make.
        """
        self._check_plan(order.plan)
        async with self._trail.watching(who, origin, "workspace.create"):
            who.require_unbound()
            is_operator = await self._membership.is_operator(who)
            if order.plan != BASIC_PLAN and not is_operator:
                raise AuthorizationError("Only the owner of this installation sets plans")
        name, now = workspace_id or new_id("ws"), self._clock.now_ms()
        audit = self._trail.text(who, origin, "workspace.create", name, order.model_dump())
        named = (order.name, order.plan)
        most = None if is_operator else MAX_WORKSPACES
        if not await self._store.add(name, named, who.user_id, most, now, audit, idempotency_record):
            raise Conflict(f"One user makes at most {MAX_WORKSPACES} workspaces", {"reason": "workspaces"})
        return await self.get(who, name)

    async def list(self, who: Principal, query: PageQuery) -> Page[Workspace]:
        """Those of the user behind the key, newest first; of a bound key its own alone."""
        ids = [who.workspace_id] if who.bound else (await self._members.workspace_ids(who.user_id))[::-1]
        left = [name for name in ids if query.before is None or name < query.before]
        wanted = left[query.offset : query.offset + query.limit]
        roles = dict(zip(wanted, await self._members.roles(wanted, who.user_id), strict=True))
        rows = await self._store.read_all([name for name in wanted if roles[name]])
        items = [self._workspace(row, roles[row.id]) for row in rows]
        more = len(left) > query.offset + query.limit
        return Page(items, len(ids), wanted[-1] if wanted else None, more)

    async def get(self, who: Principal, workspace_id: str) -> Workspace:
        """Raises NotFound for one who is neither a member nor the operator."""
        role = await self._role(who, workspace_id)
        return self._workspace(await self._read(workspace_id), role)

    async def update(
        self,
        who: Principal,
        workspace_id: str,
        patch: WorkspacePatch,
        origin: Origin = LOCAL,
        hold: Hold = any_state,
    ) -> Workspace:
        """`hold` is asked about the very state that is changed. Raises AuthorizationError, Conflict, NotFound."""
        role = await self._role(who, workspace_id)
        async with self._trail.watching(who, origin, "workspace.update", workspace_id):
            who.require_unlimited()
            await self._check_rights(who, role, patch)
        if patch.status == "disabled" and workspace_id == who.workspace_id:
            raise Conflict("The key of this request is of this workspace and would open nothing any more")
        details = patch.model_dump(mode="json", exclude_unset=True)
        while True:
            was = await self._read(workspace_id)
            hold(self._workspace(was, role).shown())
            state = self._state(was, patch)
            if state == was.state:
                return self._workspace(was, role)
            audit = self._trail.text(who, origin, "workspace.update", workspace_id, details)
            if await self._store.change(workspace_id, was, state, audit):
                self._changed(workspace_id)
                return self._workspace(StoredWorkspace(was.id, *state, was.created_ms), role)

    async def _role(self, who: Principal, workspace_id: str) -> Role | None:
        """None for the operator, who is no member but sees all. Raises NotFound."""
        try:
            return await self._membership.role(who, workspace_id)
        except NotFound:
            if who.may(Scope.ADMIN) and await self._membership.is_operator(who):
                return None
            raise

    async def _read(self, workspace_id: str) -> StoredWorkspace:
        if (found := await self._store.read(workspace_id)) is None:
            raise NotFound("Workspace not found")
        return found

    async def _check_rights(self, who: Principal, role: Role | None, patch: WorkspacePatch) -> None:
        if "name" in patch.model_fields_set:
            (role or Role.VIEWER).require_manager()
        for field in BY_OPERATOR:
            if field in patch.model_fields_set and not await self._membership.is_operator(who):
                raise AuthorizationError(
                    f"Only the owner of this installation sets {field}", {"field": field}
                )

    def _state(self, was: StoredWorkspace, patch: WorkspacePatch) -> tuple[str, str, str, str]:
        """Name, plan, limits and status as they shall be. Raises ValidationError for what cannot be."""
        given = patch.model_fields_set
        limits = was.limits
        if "limits" in given:
            limits = patch.limits.text if patch.limits else ""
        plan = was.plan if patch.plan is None else patch.plan
        if "plan" in given:
            self._check_plan(plan)
        if {"plan", "limits"} & given:
            self._check_limits(plan, limits)
        return patch.name or was.name, plan, limits, patch.status or was.status

    def _check_plan(self, plan: str) -> None:
        plans = self._plans.all()
        if plan not in plans:
            raise ValidationError.at("plan", f"must be one of {', '.join(sorted(plans))}")

    def _check_limits(self, plan: str, limits: str) -> None:
        try:
            self._plans.check(plan, limits)
        except pydantic.ValidationError as error:
            problems = [_problem(one) for one in error.errors(include_url=False)]
            raise ValidationError.of("These limits do not fit the plan", problems) from None

    def _workspace(self, row: StoredWorkspace, role: str | None) -> Workspace:
        return Workspace.model_validate(
            {
                "id": row.id,
                "name": row.name,
                "plan": row.plan,
                "limits": self._plans.of(row.plan, row.limits).model_dump(),
                "status": row.status,
                "created_at": row.created_ms,
                "role": None if role is None else Role(role),
            }
        )


def _problem(error: Mapping[str, Any]) -> Problem:
    field = ".".join(["limits", *map(str, error["loc"])])
    if error["type"] == "value_error":
        return Problem(field, str(error["ctx"]["error"]))
    return Problem(field, error["msg"].replace("Input should", "must"))
