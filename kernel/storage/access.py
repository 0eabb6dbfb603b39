"""API keys in Redis, and how an installation gets its first. Scripts that end or change a key tell every replica.

A key's id is made so that it falls in its workspace's shard: one script then reads or changes both.
The first owner and all that belongs to them live in shard 0. `audit`: the entry a change is recorded with.
"""

from dataclasses import dataclass
from typing import Literal

from kernel.ids import Prefix, new_id
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.idempotency import note_resource
from kernel.storage.store import Store

OWNERS_SHARD = 0
Rotated = Literal["ok", "moved", "full"]


def id_in(shard: int, kind: Prefix) -> str:
    """A new id of this kind that falls in this shard."""
    while keys.shard_of(name := new_id(kind)) != shard:
        pass
    return name


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key with what its workspace says: `limits` is JSON, `roles` are of its user and makers, None: no member."""

    hash: bytes
    record: bytes
    used_ms: int
    plan: str
    active: bool
    limits: str
    roles: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """`record` is JSON, `used_ms` 0 before the first use."""

    record: bytes
    used_ms: int


@dataclass(frozen=True, slots=True)
class NewKey:
    id: str
    hash: bytes
    record: str


class AccessStore:
    def __init__(self, store: Store):
        self._store = store

    async def turns(self) -> list[bytes | None]:
        """For each shard, how often something has changed that decides what its keys open."""
        shards = (("GET", keys.shard_key("access_turn", shard)) for shard in range(keys.SHARDS))
        return await self._store.together(*shards)

    async def find_key(self, key_id: str) -> FoundKey | None:
        """Of whichever workspace: what authenticates a request, before anyone is known to ask."""
        found = await self._store.run("access_find", key_id, key_id)
        if found is None:
            return None
        hashed, record, used, plan, status, limits, roles = found
        return FoundKey(
            hash=hashed,
            record=record,
            used_ms=int(used),
            plan=(plan or b"").decode(),
            active=status == b"active",
            limits=(limits or b"").decode(),
            roles=tuple(role.decode() if role else None for role in roles),
        )

    async def read_key(self, workspace_id: str, key_id: str) -> StoredKey | None:
        """None for another workspace's."""
        name = keys.key("key", key_id, id=key_id)
        workspace, record, used = await self._store.call("HMGET", name, "workspace", "record", "used")
        return StoredKey(record, int(used)) if workspace == workspace_id.encode() else None

    async def add_key(
        self, workspace_id: str, key: NewKey, most: int, audit: str, idempotency_record: str = ""
    ) -> bool:
        """most: keys there may be. False when there are as many."""
        await note_resource(self._store, idempotency_record, key.id)
        args = (workspace_id, key.id, key.hash, key.record, most, audit)
        return bool(await self._store.run("access_add_key", workspace_id, *args))

    async def change_key(self, workspace_id: str, key_id: str, was: bytes, record: str, audit: str) -> bool:
        """False when the record is no longer the one that was read."""
        args = (workspace_id, key_id, was, record, audit)
        return bool(await self._store.run("access_change_key", workspace_id, *args))

    async def remove_key(self, workspace_id: str, key_id: str, audit: str, was: bytes = b"") -> bool:
        """False when the workspace has no such key, or its record is no longer the one that was read."""
        return bool(
            await self._store.run("access_remove_key", workspace_id, workspace_id, key_id, was, audit)
        )

    async def rotate_key(
        self,
        workspace_id: str,
        old: tuple[str, bytes, str],
        new: NewKey,
        lost: str,
        most: int,
        audit: str,
        idempotency_record: str,
    ) -> Rotated:
        """old: id, record as read (empty: it is gone), new record (empty: it ends now). lost: a key to end.

        The successor takes over the budgets. `moved`: the old one's record is no longer the one that was read; `full`:
        the workspace has `most` keys.
        """
        await note_resource(self._store, idempotency_record, new.id)
        args = (workspace_id, *old, new.id, new.hash, new.record, lost, most, audit)
        said: Rotated = (await self._store.run("access_rotate_key", workspace_id, *args)).decode()
        return said

    async def list_keys(self, workspace_id: str, query: PageQuery) -> tuple[int, list[StoredKey]]:
        """Total; then one more than the page holds, if there are."""
        total, *rest = await self._store.run(
            "access_keys", workspace_id, workspace_id, query.before or "", query.offset, query.limit + 1
        )
        return total, [
            StoredKey(record, int(used)) for record, used in zip(rest[::2], rest[1::2], strict=True)
        ]

    async def note_use(self, key_id: str, now_ms: int) -> None:
        await self._store.run("access_use", key_id, key_id, now_ms)

    async def bootstrap(
        self, user: tuple[str, str], workspace: tuple[str, str, str], now_ms: int, key: NewKey, audit: str
    ) -> bool:
        """user: id, name; workspace: id, name, plan. False when the installation has an owner."""
        args = (*user, *workspace, now_ms, key.id, key.hash, key.record, audit)
        return bool(await self._store.run("access_bootstrap", keys.PREFIXES[OWNERS_SHARD], *args))

    async def owner(self) -> str | None:
        """The user who owns the installation."""
        name = await self._store.call("GET", keys.shard_key("owner", OWNERS_SHARD))
        return name.decode() if name else None
