"""Whether usage says what the executions say: both are added up by day, each from where it is kept, and compared.

What ends or is deleted meanwhile is counted before and after, so it can hide no more than itself. An execution that
was put into a later hour, because its own was closed, may count on the next day: such days are compared as one. What
is embedded for documents and for searches over the API is of no execution: usage counts it apart, and it is not
looked at here.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from kernel.clock import Clock, rfc3339
from kernel.metering.tariff import micro
from kernel.paging import PageQuery
from kernel.storage.archive import Archive
from kernel.storage.counts import DAY, HOUR_MS, Counts
from kernel.storage.executions import ExecutionStore
from kernel.storage.usage import UsageStore

PAGE = 1_000
"""Executions that are read at once."""


class Sum(NamedTuple):
    """cost: millionths of a USD."""

    executions: int = 0
    tokens: int = 0
    cost: int = 0

    def plus(self, other: "Sum") -> "Sum":
        return Sum(*map(int.__add__, self, other))


Days = Mapping[str, Sum]
"""By day, as `YYYY-MM-DD`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one workspace and a day, or some days in a row. usage: what usage counts; executions: what they say."""

    workspace_id: str
    first: str
    last: str
    usage: Sum
    executions: Sum
    equal: bool


@dataclass(frozen=True, slots=True)
class Reconciler:
    usage: UsageStore
    executions: ExecutionStore
    archive: Archive
    clock: Clock

    async def workspaces(self) -> list[str]:
        return sorted({name async for name in self.usage.workspaces()})

    async def compare(self, workspace_id: str, days: int) -> list[Comparison]:
        """The last days, today included, oldest first."""
        today = self.clock.now_ms() // HOUR_MS // DAY
        hours = range((today - days) * DAY, (today + 1) * DAY)
        wanted = [_day(first * HOUR_MS) for first in hours[::DAY]]
        counted, _ = await self._counted(workspace_id, hours)
        gone = await self._removed(workspace_id)
        ended = await self._ended(workspace_id, wanted[0])
        gone_since = await self._removed(workspace_id)
        counted_since, late = await self._counted(workspace_id, hours)
        found = [
            _compared(
                workspace_id,
                several,
                (_of(counted, several), _of(counted_since, several)),
                (
                    _of(ended, several).plus(_of(gone, several)),
                    _of(ended, several).plus(_of(gone_since, several)),
                ),
            )
            for several in _joined(wanted, late)
        ]
        return [one for one in found if one.last > wanted[0]]

    async def _counted(self, workspace_id: str, hours: range) -> tuple[Days, set[str]]:
        """What usage counts, and the days that have something of hours before."""
        sums: dict[str, Sum] = defaultdict(Sum)
        late = set()
        async for some, part in self.usage.parts(workspace_id, hours):
            for hour, counts in part.totals.items():
                if hour in some:
                    day = _day(hour * HOUR_MS)
                    sums[day] = sums[day].plus(_sum(counts))
                    late |= {day} if counts.late else set()
        return sums, late

    async def _removed(self, workspace_id: str) -> Days:
        return {day: _sum(counts) for day, counts in (await self.usage.removed(workspace_id)).items()}

    async def _ended(self, workspace_id: str, since: str) -> Days:
        """What executions say that ended on that day or later, each counted once."""
        sums: dict[str, Sum] = defaultdict(Sum)
        seen: set[str] = set()
        async for row in self._rows(workspace_id):
            if row.get("completed_at") and row["id"] not in seen:
                seen.add(row["id"])
                if (day := _day(int(row["completed_at"]))) >= since:
                    sums[day] = sums[day].plus(Sum(1, int(row.get("tokens_used") or 0), _cost(row)))
        return sums

    async def _rows(self, workspace_id: str) -> AsyncIterator[dict[str, str]]:
        """First those in Redis: what moves to the archive meanwhile is then found there again, not missed."""
        query, more = PageQuery(limit=PAGE), True
        while more:
            page = await self.executions.page(workspace_id, {}, "-", "+", query)
            for row in page.items:
                yield row
            query, more = PageQuery(limit=PAGE, before=page.last_id), page.more
        async for row in self.archive.each(workspace_id):
            yield row


def _cost(row: Mapping[str, str]) -> int:
    """What is known of it."""
    if row.get("cost"):
        return micro(float(row["cost"]))
    return int(orjson.loads(row.get("spent") or "{}").get("k", 0))


def _compared(
    workspace_id: str, days: list[str], usage: tuple[Sum, Sum], executions: tuple[Sum, Sum]
) -> Comparison:
    """Both as they were before and after looking."""
    equal = all(
        before <= ended_after and ended_before <= after
        for before, after, ended_before, ended_after in zip(*usage, *executions, strict=True)
    )
    return Comparison(workspace_id, days[0], days[-1], usage[1], executions[1], equal)


def _joined(days: list[str], late: set[str]) -> Iterator[list[str]]:
    """Days by themselves, but one that took something late together with the day before."""
    several: list[str] = []
    for day in days:
        if several and day not in late:
            yield several
            several = []
        several.append(day)
    yield several


def _of(sums: Days, days: list[str]) -> Sum:
    total = Sum()
    for day in days:
        total = total.plus(sums.get(day, Sum()))
    return total


def _sum(counts: Counts) -> Sum:
    return Sum(counts.executions, counts.tokens, counts.cost)


def _day(ms: int) -> str:
    return rfc3339(ms)[:10]
