"""Workspaces in Redis. A change tells every replica, in the same step as it is recorded (`audit`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from kernel.storage import keys
from kernel.storage.idempotency import note_resource
from kernel.storage.store import Store


@dataclass(frozen=True, slots=True)
class StoredWorkspace:
    """`limits`: JSON of those that differ from the plan's, empty for none."""

    id: str
    name: str
    plan: str
    limits: str
    status: str
    created_ms: int

    @property
    def state(self) -> tuple[str, str, str, str]:
        """What can change of it."""
        return self.name, self.plan, self.limits, self.status


class WorkspaceStore:
    def __init__(self, store: Store):
        self._store = store

    async def add(
        self,
        workspace_id: str,
        named: tuple[str, str],
        user_id: str,
        most: int | None,
        now_ms: int,
        audit: str,
        idempotency_record: str = "",
    ) -> bool:
        """named: name, plan. Named first, made then: lists skip a name that leads nowhere.

        Does nothing when the workspace is there already. False when the user has made `most` of them; None: any number.
        """
        await note_resource(self._store, idempotency_record, workspace_id)
        bound = "" if most is None else most
        if not await self._store.run("access_list_workspace", user_id, user_id, workspace_id, bound):
            return False
        await self._store.run(
            "access_add_workspace", workspace_id, workspace_id, *named, now_ms, user_id, audit
        )
        return True

    async def read(self, workspace_id: str) -> StoredWorkspace | None:
        found = await self.read_all([workspace_id])
        return found[0] if found else None

    async def read_all(self, workspace_ids: Sequence[str]) -> list[StoredWorkspace]:
        """Those that exist, in the order given."""
        fields = ("name", "plan", "limits", "status", "created_at")
        rows = await asyncio.gather(
            *(self._store.call("HMGET", keys.key("workspace", name), *fields) for name in workspace_ids)
        )
        return [_workspace(name, row) for name, row in zip(workspace_ids, rows, strict=True) if row[0]]

    async def change(
        self, workspace_id: str, was: StoredWorkspace, state: tuple[str, str, str, str], audit: str
    ) -> bool:
        """False when it is no longer as it was read."""
        args = (workspace_id, *was.state, *state, audit)
        return bool(await self._store.run("access_change_workspace", workspace_id, *args))


def _workspace(name: str, row: Sequence[bytes | None]) -> StoredWorkspace:
    title, plan, limits, status, created = ((field or b"").decode() for field in row)
    return StoredWorkspace(name, title, plan, limits, status, int(created))
