"""Users and what they are in workspaces, in Redis.

A membership stands in two places that may lie in different shards: the workspace's list decides; the user's list of
workspaces says where to look. It is written first and cleared last, so whoever reads it skips what leads nowhere.
The id of a user who is made for a workspace falls in its shard: one script makes both.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kernel.storage import keys
from kernel.storage.idempotency import note_resource
from kernel.storage.store import Store

Added = Literal["ok", "gone", "member", "email", "full"]
Moved = Literal["ok", "moved", "last"]


@dataclass(frozen=True, slots=True)
class StoredUser:
    """`email` is empty for none."""

    id: str
    name: str
    email: str


class MemberStore:
    def __init__(self, store: Store):
        self._store = store

    async def user(self, user_id: str) -> StoredUser | None:
        name, email = await self._store.call("HMGET", keys.key("user", user_id, id=user_id), "name", "email")
        return StoredUser(user_id, name.decode(), (email or b"").decode()) if name else None

    async def workspace_ids(self, user_id: str) -> list[str]:
        """Where to look for the user, oldest first."""
        ids = await self._store.call("ZRANGE", keys.key("user_workspaces", user_id, id=user_id), 0, -1)
        return [name.decode() for name in ids]

    async def is_listed(self, workspace_id: str, user_id: str) -> bool:
        """Whether the user's own list names the workspace, which is not looked at."""
        name = keys.key("user_workspaces", user_id, id=user_id)
        return await self._store.call("ZSCORE", name, workspace_id) is not None

    async def role(self, workspace_id: str, user_id: str) -> str | None:
        role = await self._store.call("HGET", keys.key("members", workspace_id), user_id)
        return role.decode() if role else None

    async def roles(self, workspace_ids: Sequence[str], user_id: str) -> list[str | None]:
        """Of one user in several workspaces."""
        return await asyncio.gather(*(self.role(name, user_id) for name in workspace_ids))

    async def all(self, workspace_id: str) -> dict[str, str]:
        """User id -> role."""
        flat = await self._store.call("HGETALL", keys.key("members", workspace_id))
        return {user.decode(): role.decode() for user, role in zip(flat[::2], flat[1::2], strict=True)}

    async def add(
        self,
        workspace_id: str,
        user: StoredUser,
        role: str,
        most: int,
        made_ms: int | None,
        audit: str,
        idempotency_record: str = "",
    ) -> Added:
        """made_ms: now, for a user who is made with it; None for one there is. most: members there may be."""
        await note_resource(self._store, idempotency_record, user.id)
        listed = keys.key("user_workspaces", user.id, id=user.id)
        new = ("", "") if made_ms is None else (user.name, made_ms)
        if made_ms is None:
            await self._store.call("ZADD", listed, 0, workspace_id)
        args = (workspace_id, user.id, role, user.email, most, *new, audit)
        said: Added = (await self._store.run("access_add_member", workspace_id, *args)).decode()
        if made_ms is None and said == "ok":
            await self._store.call("ZADD", listed, 0, workspace_id)  # a removal may have cleared it meanwhile
        if made_ms is None and said not in ("ok", "member"):
            await self._unlist(workspace_id, user.id)
        return said

    async def set_role(self, workspace_id: str, user: StoredUser, was: str, role: str, audit: str) -> Moved:
        """was: the role as it was read; role: the new one, empty to end the membership."""
        args = (workspace_id, user.id, was, role, user.email, audit)
        said: Moved = (await self._store.run("access_set_member", workspace_id, *args)).decode()
        if said == "ok" and not role:
            await self._unlist(workspace_id, user.id)
        return said

    async def _unlist(self, workspace_id: str, user_id: str) -> None:
        """Clears the user's list of a workspace, unless they have become a member meanwhile."""
        listed = keys.key("user_workspaces", user_id, id=user_id)
        await self._store.call("ZREM", listed, workspace_id)
        if await self.role(workspace_id, user_id) is not None:
            await self._store.call("ZADD", listed, 0, workspace_id)
