"""The queue of executions and the leases on them, one per shard.

A workspace with work stands in a ring; runners take from one workspace after the other. What a runner holds
is bound to its lease: once that ends, anyone may take the work back, and the epoch that grows with each
claim shuts out the runner that was slow.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernel.storage import keys
from kernel.storage.store import Store

FORGOTTEN_MS = 60_000


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution in a runner's hands. `seq` is that of its last event, `spec` JSON as it was accepted.

    awaited: a caller waits for its end. cap: millionths of a USD that budgets leave it, cap_tokens: what was left of
    the day's tokens; None is no limit.
    """

    workspace_id: str
    execution_id: str
    epoch: int
    spec: bytes
    seq: int
    started_at: int
    cancelled: bool
    has_journal: bool
    awaited: bool
    created_at: int
    cap: int | None = None
    cap_tokens: int | None = None

    @property
    def member(self) -> str:
        return f"{self.workspace_id} {self.execution_id}"


@dataclass(frozen=True, slots=True)
class Backlog:
    queued: int
    held: int


class QueueStore:
    def __init__(self, store: Store):
        self._store = store

    async def claim(self, shard: int, runner: str, lease_ms: int, most: int) -> list[Claim]:
        rows = await self._store.run("queue_claim", keys.PREFIXES[shard], runner, lease_ms, most)
        return [_claim(row) for row in rows]

    async def renew(self, shard: int, runner: str, lease_ms: int) -> dict[str, str]:
        """What the runner still holds in this shard: `<workspace> <execution>` -> phase."""
        rows = await self._store.run("queue_renew", keys.PREFIXES[shard], runner, lease_ms)
        return {member.decode(): phase.decode() for member, phase in rows}

    async def give_back(
        self,
        workspace_id: str,
        execution_id: str,
        runner: str,
        most_deliveries: int,
        problem: bytes,
        event: bytes,
    ) -> None:
        """Returns one execution that its runner cannot go on with; given up after too many deliveries."""
        await self._store.run(
            "queue_return", workspace_id, workspace_id, execution_id, runner, most_deliveries, problem, event
        )

    async def release(self, runner: str, shards: Sequence[int]) -> None:
        """Ends a runner's leases now, so that others take its work at the next look."""
        for shard in shards:
            await self._store.call("ZADD", keys.shard_key("leases", shard), "XX", 0, runner)

    async def reclaim(
        self, most_deliveries: int, problem: bytes, event: bytes, now_ms: int = 0
    ) -> tuple[int, int]:
        """Takes work back from lost runners in all shards. Returns how many go on and how many were given up.

        now_ms: 0 means the server's clock, the one that leases are measured by.
        """
        answers = await asyncio.gather(
            *(
                self._store.run("queue_reclaim", prefix, now_ms, most_deliveries, problem, event)
                for prefix in keys.PREFIXES
            )
        )
        return sum(taken for taken, _ in answers), sum(dead for _, dead in answers)

    async def free_leaked_slots(self) -> list[tuple[str, str]]:
        """Takes concurrency slots back from what does not run. There should be none; returns (workspace, execution)."""
        found = await asyncio.gather(
            *(self._store.call("SMEMBERS", keys.shard_key("busy", shard)) for shard in range(keys.SHARDS))
        )
        workspaces = [name.decode() for names in found for name in names]
        return [(name, leaked) for name in workspaces for leaked in await self._sweep(name)]

    async def _sweep(self, workspace_id: str) -> list[str]:
        cursor, leaked = b"0", []
        while True:
            cursor, *found = await self._store.run("slots_sweep", workspace_id, workspace_id, cursor)
            leaked += [name.decode() for name in found]
            if cursor == b"0":
                return leaked

    async def backlog(self) -> Backlog:
        """Executions queued and held in all shards."""
        rings = await asyncio.gather(
            *(
                self._store.call("ZRANGE", keys.shard_key("ring", shard), 0, -1)
                for shard in range(keys.SHARDS)
            )
        )
        queued = await asyncio.gather(
            *(self._store.call("ZCARD", keys.key("queue", ws.decode())) for ring in rings for ws in ring)
        )
        return Backlog(sum(queued), sum(await asyncio.gather(*map(self._held, range(keys.SHARDS)))))

    async def show_life(self, runner: str, now_ms: int) -> None:
        """Says that a runner takes work, whether it holds any or not."""
        name = keys.global_key("runners")
        await asyncio.gather(
            self._store.call("ZADD", name, now_ms, runner),
            self._store.call("ZREMRANGEBYSCORE", name, "-inf", now_ms - FORGOTTEN_MS),
        )

    async def live_runners(self, since_ms: int) -> int:
        """How many have shown life since then."""
        return int(await self._store.call("ZCOUNT", keys.global_key("runners"), since_ms, "+inf"))

    async def _held(self, shard: int) -> int:
        runners = await self._store.call("ZRANGE", keys.shard_key("leases", shard), 0, -1)
        counts = await asyncio.gather(
            *(
                self._store.call("SCARD", keys.shard_key("held", shard, runner=runner.decode()))
                for runner in runners
            )
        )
        return sum(counts)


def _claim(row: Sequence[Any]) -> Claim:
    ws, execution, epoch, spec, seq, started, cancelled, journal, awaited, created, *caps = row
    flags = bool(cancelled), bool(journal), bool(awaited)
    cap, cap_tokens = (int(bound) if bound else None for bound in caps)
    return Claim(ws.decode(), execution.decode(), epoch, spec, seq, started, *flags, created, cap, cap_tokens)
