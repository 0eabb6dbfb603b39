"""Notes what each workspace stores, again and again; usage shows the mean."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from kernel.clock import Clock
from kernel.storage.objects import ObjectStore
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import folder
from kernel.storage.wire import ROUND_FAULTS

log = structlog.get_logger()

Weigher = Callable[[str], Awaitable[int]]
"""Workspace -> bytes of one kind of thing that it stores."""
VectorWeigher = Callable[[str], Awaitable[Mapping[str, int]]]
"""Workspace -> bytes of the vectors and texts of each of its collections."""


@dataclass(frozen=True, slots=True)
class Sampler:
    usage: UsageStore
    weighers: Sequence[Weigher]
    vectors: VectorWeigher
    clock: Clock

    async def round(self) -> None:
        """One workspace after the other, so that the machine is not busy with it. What fails is left out."""
        async for workspace_id in self.usage.workspaces():
            try:
                await self._sample(workspace_id)
            except ROUND_FAULTS:
                log.exception("a workspace cannot be weighed now", workspace_id=workspace_id)

    async def _sample(self, workspace_id: str) -> None:
        vectors = await self.vectors(workspace_id)
        size = sum([sum(vectors.values()), *[await weigh(workspace_id) for weigh in self.weighers]])
        await self.usage.sample(workspace_id, self.clock.now_ms(), size, vectors)


def objects_of(objects: ObjectStore) -> Weigher:
    """Weighs large values, archived executions, what waits to be ingested, and past usage."""

    async def weigh(workspace_id: str) -> int:
        own = (f"executions/{workspace_id}", f"archive/{workspace_id}", f"ingestion/{workspace_id}")
        folders = (*own, folder(workspace_id))
        return sum([await objects.size_of_folder(path) for path in folders])

    return weigh
