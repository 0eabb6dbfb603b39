"""Users, workspaces and API keys in Redis. Scripts that end or change a key tell every replica.

A key's id is made so that it falls in its workspace's shard: one script then reads or changes both.
The first owner and all that belongs to them live in shard 0.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from kernel.ids import Prefix, new_id
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.idempotency import superseded
from kernel.storage.store import Store

OWNERS_SHARD = 0


def id_in(shard: int, kind: Prefix) -> str:
    """A new id of this kind that falls in this shard."""
    while keys.shard_of(name := new_id(kind)) != shard:
        pass
    return name


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with what its workspace says. `record` is JSON, `used_ms` 0 before the first use."""

    hash: bytes
    record: bytes
    used_ms: int
    plan: str
    active: bool


@dataclass(frozen=True, slots=True)
class NewKey:
    id: str
    hash: bytes
    record: str


@dataclass(frozen=True, slots=True)
class StoredWorkspace:
    id: str
    name: str
    plan: str
    status: str
    created_ms: int


class AccessStore:
    def __init__(self, store: Store):
        self._store = store

    async def find_key(self, key_id: str) -> StoredKey | None:
        found = await self._store.run("access_find", key_id, key_id)
        if found is None:
            return None
        hashed, record, used, plan, status = found
        return StoredKey(hashed, record, int(used), (plan or b"").decode(), status == b"active")

    async def add_key(self, workspace_id: str, key: NewKey, idempotency_record: str = "") -> None:
        await self._note(idempotency_record, key.id)
        await self._store.run("access_add_key", workspace_id, workspace_id, key.id, key.hash, key.record)

    async def change_key(self, key_id: str, was: bytes, record: str) -> bool:
        """False when the record is no longer the one that was read."""
        return bool(await self._store.run("access_change_key", key_id, key_id, was, record))

    async def remove_key(self, workspace_id: str, key_id: str, was: bytes = b"") -> bool:
        """False when the workspace has no such key, or its record is no longer the one that was read."""
        return bool(await self._store.run("access_remove_key", workspace_id, workspace_id, key_id, was))

    async def list_keys(self, workspace_id: str, query: PageQuery) -> tuple[int, list[tuple[bytes, int]]]:
        """Total; then record and last use of one more than the page holds, if there are."""
        total, *rest = await self._store.run(
            "access_keys", workspace_id, workspace_id, query.before or "", query.offset, query.limit + 1
        )
        return total, [(record, int(used)) for record, used in zip(rest[::2], rest[1::2], strict=True)]

    async def note_use(self, key_id: str, now_ms: int) -> None:
        await self._store.run("access_use", key_id, key_id, now_ms)

    async def bootstrap(
        self, user: tuple[str, str], workspace: tuple[str, str, str], now_ms: int, key: NewKey
    ) -> bool:
        """user: id, name; workspace: id, name, plan. False when the installation has an owner."""
        prefix = keys.PREFIXES[OWNERS_SHARD]
        return bool(
            await self._store.run(
                "access_bootstrap", prefix, *user, *workspace, now_ms, key.id, key.hash, key.record
            )
        )

    async def owner(self) -> str | None:
        name = await self._store.call("GET", keys.shard_key("owner", OWNERS_SHARD))
        return name.decode() if name else None

    async def user_name(self, user_id: str) -> str:
        return (await self._store.call("HGET", keys.key("user", user_id, id=user_id), "name") or b"").decode()

    async def role(self, workspace_id: str, user_id: str) -> str | None:
        role = await self._store.call("HGET", keys.key("members", workspace_id), user_id)
        return role.decode() if role else None

    async def add_workspace(
        self, workspace: tuple[str, str, str], now_ms: int, user_id: str, idempotency_record: str = ""
    ) -> None:
        """workspace: id, name, plan. Named first, made then: lists skip a name that leads nowhere.

        Does nothing when the workspace is there already.
        """
        await self._note(idempotency_record, workspace[0])
        await self._store.call("ZADD", keys.key("user_workspaces", user_id, id=user_id), 0, workspace[0])
        await self._store.run("access_add_workspace", workspace[0], *workspace, now_ms, user_id)

    async def _note(self, idempotency_record: str, resource: str) -> None:
        """What is about to be made, before it is: its claim may lie in another shard, out of a script's reach."""
        if idempotency_record:
            key, _, owner = idempotency_record.partition(" ")
            if await self._store.call("HGET", key, "owner") != owner.encode():
                raise superseded()
            await self._store.call("HSET", key, "resource", resource)

    async def set_workspace(self, workspace_id: str, field: str, value: str) -> bool:
        """False when there is no such workspace."""
        return bool(await self._store.run("access_set_workspace", workspace_id, workspace_id, field, value))

    async def workspace_ids(self, user_id: str) -> list[str]:
        """Oldest first."""
        ids = await self._store.call("ZRANGE", keys.key("user_workspaces", user_id, id=user_id), 0, -1)
        return [name.decode() for name in ids]

    async def workspaces(self, ids: Sequence[str]) -> list[StoredWorkspace]:
        """Those that exist, in the order given."""
        fields = ("name", "plan", "status", "created_at")
        rows = await asyncio.gather(
            *(self._store.call("HMGET", keys.key("workspace", name), *fields) for name in ids)
        )
        return [_workspace(name, row) for name, row in zip(ids, rows, strict=True) if row[0] is not None]


def _workspace(name: str, row: Sequence[bytes]) -> StoredWorkspace:
    return StoredWorkspace(name, row[0].decode(), row[1].decode(), row[2].decode(), int(row[3]))
