"""What each workspace used, by the hour: buckets in Redis while they may still change, files of days after that.

Keys: `usage` (a bucket), `usage_closed`, `usage_rolled`, `metered`. A reader gets the border between the two in the
same step as the buckets behind it; files before the border never change. So it misses and doubles nothing.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kernel.storage import keys
from kernel.storage.counts import DAY, METRICS, Counts, by_kind
from kernel.storage.store import Store
from kernel.storage.usage_files import Bucket, UsageFiles

HOURS_AT_ONCE = 1000
"""Hours that one script reads the totals of."""
GROUPED_AT_ONCE = 6
"""The same when it also reads what has some thousand fields in an hour: others wait meanwhile."""
LABELS_AT_ONCE = 2
"""The same for labels, of which there are the most."""
DAYS_AT_ONCE = 31
AHEAD = 2 * DAY
"""Hours that a bucket may be ahead of this machine's clock, or behind the first one that was noted."""
WEIGHED = 32
"""Executions, agents, collections and jobs that stand for all others of a workspace."""
SCANNED = 1000
NAMES = f"{keys.LAYOUT}:*:workspace"
WORKSPACE = re.compile(keys.LAYOUT + r":{s\d\d}:(ws_[^:]+):workspace")


class Hours(Protocol):
    """Usage of some hours and maybe more. totals: by hour, only of those that counted something."""

    @property
    def totals(self) -> Mapping[int, Counts]: ...

    def grouped(self, hours: range, kind: str, hourly: bool) -> Iterator[tuple[int, str, Counts]]:
        """(hour, value, counts) of a kind. hourly: else hours of one day may come in one, under the first of them."""
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """Hours as Redis has them; groups have one sample an hour. fields: of the kind that was asked for, name and count
    by turns, by hour."""

    totals: Mapping[int, Counts]
    fields: Mapping[int, list[bytes]]

    def grouped(self, hours: range, kind: str, hourly: bool) -> Iterator[tuple[int, str, Counts]]:
        return (
            (hour, value, counts.hourly())
            for hour, flat in self.fields.items()
            if hour in hours
            for (_, value), counts in by_kind(_fields(flat)).items()
        )


@dataclass(frozen=True, slots=True)
class Closed:
    """last: the last closed hour of a workspace. hours: those that are closed and have a bucket, in order."""

    last: int
    hours: tuple[int, ...]


class UsageStore:
    def __init__(self, store: Store, files: UsageFiles):
        self._store, self._files = store, files

    async def parts(
        self, workspace_id: str, hours: range, kind: str = ""
    ) -> AsyncIterator[tuple[range, Hours]]:
        """Usage of these hours, oldest first: which of them, and where to find those. kind: a letter, for `grouped`."""
        at, step = hours.start, _hours_at_once(kind)
        while at < hours.stop:
            until = min(at + step, hours.stop)
            rolled, recent = await self._recent(workspace_id, at, until - 1, kind)
            async for part in self._rolled(workspace_id, range(at, min(rolled, hours.stop))):
                yield part
            yield range(max(at, rolled), until), recent
            at = max(until, rolled)

    async def _rolled(self, workspace_id: str, hours: range) -> AsyncIterator[tuple[range, Hours]]:
        days = range(hours.start - hours.start % DAY, hours.stop, DAY)
        for first in range(0, len(days), DAYS_AT_ONCE):
            some = days[first : first + DAYS_AT_ONCE]
            for at, day in zip(some, await self._files.days(workspace_id, some), strict=True):
                yield range(max(at, hours.start), min(at + DAY, hours.stop)), day

    async def _recent(self, workspace_id: str, first: int, last: int, kind: str) -> tuple[int, Recent]:
        """With the first hour that is not in files: what is before it is not in the answer."""
        rolled, *rows = await self._store.run(
            "usage_read", workspace_id, workspace_id, first, last, kind, *METRICS
        )
        totals = {hour: Counts(*map(int, sums.split())) for hour, sums, _ in rows}
        return rolled, Recent(totals, {hour: flat for hour, _, flat in rows})

    async def metered(self, shard: int, last_hour: int) -> list[tuple[str, int]]:
        """Workspaces that have usage which is not in files, up to that hour, each with its oldest."""
        rows = await self._store.call(
            "ZRANGEBYSCORE", keys.shard_key("metered", shard), "-inf", last_hour, "WITHSCORES"
        )
        return [(rows[i].decode(), int(rows[i + 1])) for i in range(0, len(rows), 2)]

    async def close(self, workspace_id: str, last_hour: int, oldest: int) -> Closed:
        """Nothing is added to hours up to this one any more. oldest: as `metered` says."""
        last, *hours = await self._store.run(
            "usage_close", workspace_id, workspace_id, last_hour, max(0, oldest - AHEAD)
        )
        return Closed(last, tuple(hours))

    async def bucket(self, workspace_id: str, hour: int) -> Bucket:
        flat = await self._store.call("HGETALL", keys.key("usage", workspace_id, hour=str(hour)))
        return dict(_fields(flat))

    async def rolled(self, workspace_id: str) -> int:
        """The first hour that is not in files."""
        return int(await self._store.call("GET", keys.key("usage_rolled", workspace_id)) or 0)

    async def forget(self, workspace_id: str, hours: range, now_hour: int) -> None:
        """Drops buckets that are in files, once and for all readers at the same moment."""
        await self._store.run(
            "usage_forget", workspace_id, workspace_id, hours.start, hours.stop, now_hour + AHEAD
        )

    async def sample(self, workspace_id: str, now_ms: int, size: int, of: Mapping[str, int]) -> None:
        """Adds that so many bytes are stored now. of: those of each collection."""
        each = [part for pair in of.items() for part in pair]
        await self._store.run("usage_sample", workspace_id, workspace_id, now_ms, size, *each)

    async def weigh(self, workspace_id: str) -> int:
        """Bytes that a workspace takes of Redis, estimated."""
        return int(await self._store.run("usage_weigh", workspace_id, workspace_id, WEIGHED))

    async def removed(self, workspace_id: str) -> dict[str, Counts]:
        """Day as `YYYY-MM-DD` -> what executions that ended on it, and were deleted since, had counted."""
        found: dict[str, dict[str, int]] = {}
        for field, count in _fields(await self._store.call("HGETALL", keys.key("removed", workspace_id))):
            day, _, metric = field.partition("|")
            found.setdefault(day, {})[metric] = count
        return {day: Counts.of(counts) for day, counts in found.items()}

    async def workspaces(self) -> AsyncIterator[str]:
        """All there are, in no order; one may come twice. Walks through the names of all keys, some at a time."""
        cursor = b"0"
        while True:
            cursor, names = await self._store.call("SCAN", cursor, "MATCH", NAMES, "COUNT", SCANNED)
            for name in names:
                if found := WORKSPACE.fullmatch(name.decode()):
                    yield found[1]
            if cursor == b"0":
                return


def _hours_at_once(kind: str) -> int:
    if kind == "l":
        return LABELS_AT_ONCE
    return GROUPED_AT_ONCE if kind else HOURS_AT_ONCE


def _fields(flat: list[bytes]) -> Iterator[tuple[str, int]]:
    return ((flat[i].decode(), int(flat[i + 1])) for i in range(0, len(flat), 2))
