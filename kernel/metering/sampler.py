"""Notes what each workspace stores, again and again; usage shows the mean."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from kernel.clock import Clock
from kernel.storage.objects import ObjectStore
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import folder

Weigher = Callable[[str], Awaitable[int]]
"""Workspace -> bytes of one kind of thing that it stores."""


@dataclass(frozen=True, slots=True)
class Sampler:
    usage: UsageStore
    weighers: Sequence[Weigher]
    clock: Clock

    async def round(self) -> None:
        """One workspace after the other, so that the machine is not busy with it."""
        async for workspace_id in self.usage.workspaces():
            size = sum([await weigh(workspace_id) for weigh in self.weighers])
            await self.usage.sample(workspace_id, self.clock.now_ms(), size)


def objects_of(objects: ObjectStore) -> Weigher:
    """Weighs large values, archived executions and past usage."""

    async def weigh(workspace_id: str) -> int:
        folders = (f"executions/{workspace_id}", f"archive/{workspace_id}", folder(workspace_id))
        return sum([await objects.size_of_folder(path) for path in folders])

    return weigh
