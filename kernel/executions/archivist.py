"""Moves executions that ended long ago from Redis to Parquet, a file of many for each workspace."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from configs.settings import Retention
from kernel.clock import Clock
from kernel.storage import keys
from kernel.storage.archive import Archive, ArchivedExecution
from kernel.storage.executions import ExecutionStore, StoredEvent

log = structlog.get_logger()

LARGEST_FILE = 32_000_000
"""Bytes of executions, uncompressed, that end a file early: one is held in memory whole."""
SMALL = 0.25
"""A batch under this share of the largest waits for more, for a time."""


@dataclass(frozen=True, slots=True)
class Archivist:
    executions: ExecutionStore
    archive: Archive
    clock: Clock
    settings: Retention

    async def round(self) -> None:
        """Moves what is due. A crash half way leaves executions in both places, which readers bear."""
        for shard in range(keys.SHARDS):
            while await self._shard(shard):
                pass

    async def _shard(self, shard: int) -> bool:
        """Whether there may be more to move."""
        due = self.clock.now_ms() - self.settings.after_s * 1000
        overdue = due - self.settings.gather_s * 1000
        ended = await self.executions.ended_before(shard, due, self.settings.batch)
        late = set(await self.executions.ended_before(shard, overdue, 1))
        by_workspace: dict[str, list[str]] = defaultdict(list)
        for workspace_id, execution_id in ended:
            by_workspace[workspace_id].append(execution_id)
        moved = 0
        for workspace_id, ids in by_workspace.items():
            if late or len(ids) >= SMALL * self.settings.batch:
                moved += await self._move(workspace_id, ids)
        return moved > 0 and len(ended) == self.settings.batch

    async def _move(self, workspace_id: str, ids: Sequence[str]) -> int:
        moved, batch, size = 0, [], 0
        for execution_id in ids:
            if (one := await self._read(workspace_id, execution_id)) is not None:
                batch.append(one)
                size += _size(one)
            if size > LARGEST_FILE:
                moved += await self._write(workspace_id, batch)
                batch, size = [], 0
        return moved + await self._write(workspace_id, batch)

    async def _write(self, workspace_id: str, batch: Sequence[ArchivedExecution]) -> int:
        if batch:
            await self.archive.write(workspace_id, batch)
            await asyncio.gather(*(self._leave(workspace_id, one.execution_id) for one in batch))
            log.info("archived executions", workspace_id=workspace_id, count=len(batch))
        return len(batch)

    async def _leave(self, workspace_id: str, execution_id: str) -> None:
        """Takes it out of Redis; one that was deleted meanwhile must not come back from its file."""
        if not await self.executions.delete(workspace_id, execution_id, archived=True):
            await self.archive.hide(workspace_id, execution_id)

    async def _read(self, workspace_id: str, execution_id: str) -> ArchivedExecution | None:
        stored = await self.executions.read(workspace_id, execution_id)
        if stored is None:
            return None
        events: list[StoredEvent] = []
        while batch := await self.executions.events(workspace_id, execution_id, len(events)):
            events += batch
        return ArchivedExecution(execution_id, stored, events)


def _size(one: ArchivedExecution) -> int:
    parts = (*one.stored.record.values(), *one.stored.nodes.values(), *(event.body for event in one.events))
    return sum(map(len, parts))
