"""Workspaces as their owners and the operator handle them."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Literal

from kernel.access.principal import Principal
from kernel.access.record import Workspace, WorkspaceCreate
from kernel.clock import Clock
from kernel.errors import AuthorizationError, NotFound, ValidationError
from kernel.ids import new_id
from kernel.paging import Page, PageQuery
from kernel.storage.access import AccessStore, StoredWorkspace

BASIC_PLAN = "free"


class Workspaces:
    """`plans` are the names of those there are."""

    def __init__(
        self, store: AccessStore, clock: Clock, plans: Collection[str], changed: Callable[[str], None]
    ):
        self._store, self._clock, self._plans, self._changed = store, clock, plans, changed

    async def create(
        self,
        who: Principal,
        order: WorkspaceCreate,
        *,
        workspace_id: str | None = None,
        idempotency_record: str = "",
    ) -> Workspace:
        """Raises AuthorizationError when one who is not the operator asks for more than the free plan.

        workspace_id: what an earlier, lost try had made or meant to make.
        """
        who.require_unlimited()
        self._check_plan(order.plan)
        if order.plan != BASIC_PLAN and await self._store.owner() != who.user_id:
            raise AuthorizationError("Only the owner of this installation sets plans")
        name, now = workspace_id or new_id("ws"), self._clock.now_ms()
        given = (name, order.name, order.plan)
        await self._store.add_workspace(given, now, who.user_id, idempotency_record)
        return await self.get(name)

    async def list(self, who: Principal, query: PageQuery) -> Page[Workspace]:
        """Those of the user behind the key, newest first."""
        ids = (await self._store.workspace_ids(who.user_id))[::-1]
        left = [name for name in ids if query.before is None or name < query.before]
        wanted = left[query.offset : query.offset + query.limit]
        items = [_workspace(row) for row in await self._store.workspaces(wanted)]
        more = len(left) > query.offset + query.limit
        return Page(items, len(ids), wanted[-1] if wanted else None, more)

    async def get(self, workspace_id: str) -> Workspace:
        found = await self._store.workspaces([workspace_id])
        if not found:
            raise NotFound("Workspace not found")
        return _workspace(found[0])

    async def set_status(self, workspace_id: str, status: Literal["active", "disabled"]) -> None:
        """The keys of a disabled workspace are refused. An operator's act."""
        await self._set(workspace_id, "status", status)

    async def set_plan(self, workspace_id: str, plan: str) -> None:
        """An operator's act."""
        self._check_plan(plan)
        await self._set(workspace_id, "plan", plan)

    async def _set(self, workspace_id: str, field: str, value: str) -> None:
        if not await self._store.set_workspace(workspace_id, field, value):
            raise NotFound("Workspace not found")
        self._changed(workspace_id)

    def _check_plan(self, plan: str) -> None:
        if plan not in self._plans:
            raise ValidationError.at("plan", f"must be one of {', '.join(sorted(self._plans))}")


def _workspace(row: StoredWorkspace) -> Workspace:
    fields = asdict(row)
    return Workspace(created_at=fields.pop("created_ms"), **fields)
