"""Closes the hours of usage and moves days that are over from Redis to Parquet.

An hour is closed some time after its end: from then on nothing is added to it, and what ends late counts in the first
open hour. A day all of whose hours are closed is written as one file; then its buckets go, and at that same moment
readers turn to the file. Whatever is cut off half way is done again, and does no harm twice.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from configs.settings import Metering
from kernel.clock import Clock
from kernel.storage import keys
from kernel.storage.counts import DAY, HOUR_MS
from kernel.storage.usage import Closed, UsageStore
from kernel.storage.usage_files import UsageFiles
from kernel.storage.wire import ROUND_FAULTS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ledger:
    usage: UsageStore
    files: UsageFiles
    clock: Clock
    settings: Metering
    _filed: dict[str, int] = field(default_factory=dict)
    """Workspace -> the last closed hour that this process knows all files of."""

    async def round(self) -> None:
        """Closes and moves what is due. A workspace that this fails for is left to the next round."""
        last = (self.clock.now_ms() - self.settings.close_after_s * 1000) // HOUR_MS - 1
        for shard in range(keys.SHARDS):
            for workspace_id, oldest in await self.usage.metered(shard, last):
                try:
                    await self._roll(workspace_id, await self.usage.close(workspace_id, last, oldest))
                except ROUND_FAULTS:
                    log.exception("usage of a workspace cannot be moved now", workspace_id=workspace_id)

    async def _roll(self, workspace_id: str, closed: Closed) -> None:
        days: dict[int, list[int]] = defaultdict(list)
        for hour in closed.hours:
            days[hour - hour % DAY].append(hour)
        for first, hours in days.items():
            if first + DAY <= closed.last + 1:
                await self._move(workspace_id, first, hours)
            elif self._filed.get(workspace_id) != closed.last:
                await self._file(workspace_id, hours)
        if not days:
            await self._forget(workspace_id, range(0))
        self._filed[workspace_id] = closed.last

    async def _move(self, workspace_id: str, first: int, hours: Sequence[int]) -> None:
        buckets = {hour: await self.usage.bucket(workspace_id, hour) for hour in hours}
        if await self.usage.rolled(workspace_id) > first:
            return  # by another process, so some of these may have been gone already
        await self.files.write_day(workspace_id, buckets)
        await self._forget(workspace_id, range(first, first + DAY))
        log.info(
            "moved a day of usage to Parquet", workspace_id=workspace_id, first_hour=first, hours=len(hours)
        )

    async def _file(self, workspace_id: str, hours: Sequence[int]) -> None:
        there = await self.files.hours_of_day(workspace_id, hours[0])
        for hour in hours:
            if hour not in there:
                await self.files.write_hour(workspace_id, hour, await self.usage.bucket(workspace_id, hour))

    async def _forget(self, workspace_id: str, hours: range) -> None:
        await self.usage.forget(workspace_id, hours, self.clock.now_ms() // HOUR_MS)
