"""The buckets of requests in Redis, which every replica's leases are taken from."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import orjson

from kernel.storage.keys import prefix_of, shard_of
from kernel.storage.store import Store

MOST_A_STEP = 100
"""Asks that one script settles; the store serves nobody else for about 3 ms meanwhile."""


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


Packed = tuple[str, bytes]
"""A shard's prefix and asks of its workspaces as JSON: what one step settles."""


async def settled(
    asks: Sequence[Ask], settle: Callable[[Sequence[Packed]], Awaitable[Sequence[bytes]]]
) -> list[Settled]:
    """What `settle` answers to the asks when they are packed, in their order."""
    steps = _steps(asks)
    answers = await settle([_packed([asks[place] for place in places]) for places in steps])
    found: dict[int, Settled] = {}
    for places, answer in zip(steps, answers, strict=True):
        found.update(zip(places, _unpacked(answer), strict=True))
    return [found[place] for place in range(len(asks))]


def _steps(asks: Sequence[Ask]) -> list[list[int]]:
    """The places of those that are settled together."""
    of_shard: dict[int, list[int]] = {}
    for place, ask in enumerate(asks):
        of_shard.setdefault(shard_of(ask.workspace_id), []).append(place)
    return [
        places[begin : begin + MOST_A_STEP]
        for places in of_shard.values()
        for begin in range(0, len(places), MOST_A_STEP)
    ]


def _packed(asks: Sequence[Ask]) -> Packed:
    return prefix_of(asks[0].workspace_id), orjson.dumps([(*ask,) for ask in asks])


def _unpacked(answer: bytes) -> Iterator[Settled]:
    return (Settled(*one) for one in orjson.loads(answer))


class MeterStore:
    """Grants straight from the buckets (`kernel.metering.admission.Meter`)."""

    lanes = 1

    def __init__(self, store: Store):
        self._store = store

    async def settle(self, lane: int, asks: Sequence[Ask]) -> list[Settled]:
        """All in one go, each settled wholly or not at all. Raises Unavailable."""
        return await settled(asks, self.settle_packed)

    async def settle_packed(self, steps: Sequence[Packed], now_us: int = 0) -> list[bytes]:
        """Answers as JSON. now_us: 0 is the store's own clock, the one that counts for all. Raises Unavailable."""
        runs = (self._store.run("meter_settle", prefix, now_us, asks) for prefix, asks in steps)
        answers: list[bytes] = await asyncio.gather(*runs)
        return answers

    async def settle_at(self, ask: Ask, now_us: int = 0) -> Settled:
        """Of one. now_us: as `settle_packed` takes it."""
        return (await settled([ask], partial(self.settle_packed, now_us=now_us)))[0]
