"""Vectors that were paid for, kept for when the same text is embedded again: a retry, a small change, a query.

Stored: `embeddings` (hash, name -> float32 bytes) and `embeddings_at` (zset, name -> when it was put). Small, since
memory of the store is dear: 8 MB for each workspace, a day from the last addition. A full store refuses additions.
"""

from collections.abc import Mapping, Sequence

from kernel.storage import keys
from kernel.storage.store import Store

MAX_BYTES = 8 * 2**20
KEEP_S = 86_400


class Shelf:
    """Of one workspace: no other learns from it what somebody has embedded."""

    def __init__(self, store: Store, workspace_id: str):
        self._store = store
        self._workspace_id = workspace_id

    async def take(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Raises Unavailable."""
        name = keys.key("embeddings", self._workspace_id)
        found: list[bytes | None] = await self._store.call("HMGET", name, *names) if names else []
        return found

    async def put(self, vectors: Mapping[bytes, bytes]) -> None:
        """All of one size. Raises Unavailable."""
        if not vectors:
            return
        most = MAX_BYTES // len(next(iter(vectors.values())))
        flat = [item for pair in vectors.items() for item in pair]
        await self._store.run("embeddings_put", self._workspace_id, self._workspace_id, most, KEEP_S, *flat)
