"""Before the cluster stops, couriers end what they have in flight, so that no receiver gets it again later."""

import asyncio
from contextlib import suppress

from kernel.errors import Unavailable
from kernel.storage import keys
from kernel.storage.store import Store, opened

PATIENCE_S = 3.0
"""For receivers that do not answer; what they were sent is sent again."""


async def drain(store_url: str) -> None:
    """Returns when all have given their shards up, when the time is up, and when there is no courier or no store."""
    with suppress(Unavailable, TimeoutError):
        async with opened(store_url, "keeper") as store, asyncio.timeout(PATIENCE_S):
            if await store.call("PUBLISH", keys.channel("drain"), ""):
                while await _held(store):  # noqa: ASYNC110  # in other processes: nothing here could wake us
                    await asyncio.sleep(0.05)


async def _held(store: Store) -> bool:
    """Whether any shard is."""
    return any(
        await store.together(*(("EXISTS", keys.shard_key("courier", one)) for one in range(keys.SHARDS)))
    )
