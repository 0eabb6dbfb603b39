"""Wraps every data key under the current key-encryption key, while everybody goes on reading.

A value stays the same; only the key around its data key changes, in one step that does nothing when the value has been
replaced meanwhile. Until the last is done the old key opens what is still under it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from kernel.sealing import Damaged, Envelope, Sealed
from kernel.storage import keys
from kernel.storage.sealed import SealedStore, SealedValue

AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """looked: values seen so far of `total`; moved: those that were under another key; damaged: that do not open."""

    total: int
    looked: int
    moved: int
    damaged: int


@dataclass(frozen=True, slots=True)
class Rotation:
    store: SealedStore
    envelope: Envelope

    async def counts(self) -> Counter[str]:
        """How many values there are under each key."""
        found: Counter[str] = Counter()
        async for _, value in self._all():
            try:
                found[Sealed.decode(value.sealed).wrapped.kek] += 1
            except Damaged:
                found[""] += 1
        return found

    async def run(self, tell: Callable[[Progress], None]) -> Progress:
        """Until a whole round finds nothing that is not under the current key. Raises Unavailable."""
        while True:
            done = await self._round(tell)
            if done.moved == 0:
                return done

    async def _round(self, tell: Callable[[Progress], None]) -> Progress:
        done = Progress(await self.store.total(), 0, 0, 0)
        batch: list[tuple[int, SealedValue]] = []
        async for one in self._all():
            batch.append(one)
            if len(batch) == AT_ONCE:
                done = await self._moved(batch, done)
                tell(done)
                batch = []
        done = await self._moved(batch, done)
        tell(done)
        return done

    async def _moved(self, batch: list[tuple[int, SealedValue]], done: Progress) -> Progress:
        outcomes = await asyncio.gather(*(self._move(shard, value) for shard, value in batch))
        return Progress(
            done.total,
            done.looked + len(batch),
            done.moved + outcomes.count("moved"),
            done.damaged + outcomes.count("damaged"),
        )

    async def _move(self, shard: int, value: SealedValue) -> str:
        try:
            sealed = await self.envelope.rewrap(value.sealed, *value.bound)
        except Damaged:
            return "damaged"
        if sealed is None:
            return "there"
        await self.store.replace(shard, value, sealed)
        return "moved"

    async def _all(self) -> AsyncIterator[tuple[int, SealedValue]]:
        for shard in range(keys.SHARDS):
            cursor = b"0"
            while True:
                cursor, values = await self.store.page(shard, cursor)
                for value in values:
                    yield shard, value
                if cursor == b"0":
                    break
