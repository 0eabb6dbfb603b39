"""How often each call was made to the scripted model, so that its script can tell the first try from the second."""

from hashlib import sha256

from kernel.storage import keys
from kernel.storage.store import Store

KEEP_S = 86_400


class Calls:
    def __init__(self, store: Store):
        self._store = store

    async def next(self, key: str) -> int:
        """1 for the first call under this key, then 2, …; never the same number twice."""
        name = keys.global_key("calls", id=sha256(key.encode()).hexdigest())
        count = int(await self._store.call("INCR", name))
        await self._store.call("EXPIRE", name, KEEP_S)
        return count
