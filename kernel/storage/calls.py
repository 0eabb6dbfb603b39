"""How often each call was made to the scripted model, whose scripts tell the first try from the second.

Stored: `calls` (counter, under the hash of the idempotency key); lives a day.
"""

import asyncio
import random
from hashlib import sha256
from uuid import uuid4

from kernel.errors import Unavailable
from kernel.storage import keys
from kernel.storage.store import Store

KEEP_S = 86_400
AGAIN_S = 0.2


class Calls:
    """Every call leaves a mark of its own, so that one whose answer was lost can be counted again without harm."""

    def __init__(self, store: Store):
        self._store = store

    async def next(self, key: str) -> int:
        """1 for the first call under this key, then 2, …; waits for a store that is away."""
        mark = uuid4().hex
        while True:
            try:
                await self._store.call("SADD", _name(key), mark)
                await self._store.call("EXPIRE", _name(key), KEEP_S)
                return await self.count(key)
            except Unavailable:
                await asyncio.sleep(AGAIN_S * random.uniform(0.5, 1.5))

    async def count(self, key: str) -> int:
        """Calls made so far."""
        return int(await self._store.call("SCARD", _name(key)))


def _name(key: str) -> str:
    return keys.global_key("calls", id=sha256(key.encode()).hexdigest())
