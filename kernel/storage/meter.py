"""The buckets of requests in Redis, which every replica's leases are taken from."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from kernel.storage.store import Store


class Ask(NamedTuple):
    """What a holder wants of its workspace's bucket. `number` names the ask: sent again, it is settled once.

    emission, burst: the limit (`kernel.metering.limits.Limit`); emission 0 is unlimited. hold: µs that spare requests
    stay reserved; shared: 1 when the bucket has any to spare. spent, kept: of those the holder had. waiting: requests
    that wait. spare: how many more it would hold. free: how many of those spent are not to be counted as usage.
    """

    workspace_id: str
    holder: str
    key_id: str
    number: int
    emission: int
    burst: int
    hold: int
    shared: int
    spent: int
    kept: int
    waiting: int
    spare: int
    free: int = 0


class Settled(NamedTuple):
    """granted, spare, remaining and kept are requests; wait (for one more) and full (until it is full) are µs.

    kept: of those the holder had to spare, how many it may keep.
    """

    granted: int
    spare: int
    remaining: int
    wait: int
    full: int
    kept: int


class MeterStore:
    """Grants straight from the buckets (`kernel.metering.admission.Meter`)."""

    lanes = 1

    def __init__(self, store: Store):
        self._store = store

    async def settle(self, lane: int, asks: Sequence[Ask]) -> list[Settled]:
        """All in one go, each an atomic step of its own. Raises Unavailable."""
        return list(await asyncio.gather(*(self.settle_at(ask) for ask in asks)))

    async def settle_at(self, ask: Ask, now_us: int = 0) -> Settled:
        """now_us: 0 is the store's own clock, the one that counts for all."""
        workspace_id, holder, key_id, number, *rest = ask
        answer = await self._store.run(
            "meter_settle", workspace_id, workspace_id, holder, key_id, number, now_us, *rest
        )
        return Settled(*map(int, answer))
