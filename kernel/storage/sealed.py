"""Everything that is sealed, wherever it is stored: what a new key-encryption key has to wrap anew.

`sealed` of each shard has a member `<ws> <kind> <id>` for each, kept by the scripts that store it: kind `cred` is a
credential, `wh` the secrets of a webhook.
"""

from dataclasses import dataclass

from kernel.storage import keys
from kernel.storage.store import Store

AT_ONCE = 200
HASHES = {"cred": "credential", "wh": "webhook"}
"""By kind, the hash that has it in its field `sealed`."""


@dataclass(frozen=True, slots=True)
class SealedValue:
    """version: of a credential, empty for others. sealed: as it is stored."""

    workspace_id: str
    kind: str
    id: str
    version: str
    sealed: bytes

    @property
    def bound(self) -> tuple[str, str, str]:
        """What it is sealed to."""
        return self.workspace_id, self.id, self.version if self.kind == "cred" else "secret"


class SealedStore:
    def __init__(self, store: Store):
        self._store = store

    async def total(self) -> int:
        """How many there are."""
        sets = [("SCARD", keys.shard_key("sealed", shard)) for shard in range(keys.SHARDS)]
        return sum(await self._store.together(*sets))

    async def page(self, shard: int, cursor: bytes) -> tuple[bytes, list[SealedValue]]:
        """Some of a shard's, and where to go on; `0` begins and ends. One may come twice."""
        name = keys.shard_key("sealed", shard)
        following, members = await self._store.call("SSCAN", name, cursor, "COUNT", AT_ONCE)
        found = [tuple(member.decode().split(" ")) for member in members]
        rows = await self._store.together(
            *(("HMGET", keys.key(HASHES[kind], ws, id=one), "sealed", "version") for ws, kind, one in found)
        )
        values = [
            SealedValue(ws, kind, one, (row[1] or b"").decode(), row[0])
            for (ws, kind, one), row in zip(found, rows, strict=True)
            if row[0]
        ]
        return following, values

    async def replace(self, shard: int, value: SealedValue, sealed: bytes) -> bool:
        """False when it is not what it was."""
        name = keys.key(HASHES[value.kind], value.workspace_id, id=value.id)
        field = name.removeprefix(f"{keys.PREFIXES[shard]}:")
        return bool(
            await self._store.run("sealed_replace", keys.PREFIXES[shard], field, value.sealed, sealed)
        )
