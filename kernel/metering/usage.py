"""Usage as callers ask for it: sums of a period, of its parts, and of groups.

Every sum is of whole hours. What was stored is the mean over the hours that were sampled, each by its own mean.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from kernel.clock import rfc3339
from kernel.errors import ValidationError
from kernel.metering.period import Period
from kernel.metering.tariff import Tariff, usd
from kernel.storage.counts import HOUR_MS, Counts
from kernel.storage.usage import Hours, UsageStore

GroupBy = Literal["agent", "key", "model", "label", "collection"]

MB = 1_000_000
MOST_GROUPS = 1_000
"""Groups that are shown by name; what the others used is under `OTHER`."""
MOST_KEPT = 20_000
"""Groups that are kept while they are added up: values that are used once would fill the memory."""
MOST_ROWS = 50_000
"""Rows of an export, which is built in memory."""
GROUPED_AT_ONCE = 2
"""Grouped reads that a process makes at a time, each of which keeps the store and this process busy; others wait."""
OTHER = "(other)"
NONE = ""
"""What is counted under this has no value, although others may have several: labels."""

ENDED = frozenset(("executions", "tokens", "cost", "unpriced", "cpu_ms", "gpu_ms"))
EMBEDDED = frozenset(("embedded", "embedded_cost", "embedded_unpriced"))


@dataclass(frozen=True, slots=True)
class Kind:
    """How something is counted by: `letter` in the names of counts; `counted`, the counts that there are for it."""

    letter: str
    counted: frozenset[str]


KINDS: Mapping[GroupBy, Kind] = {
    "agent": Kind("a", ENDED),
    "key": Kind("k", ENDED | EMBEDDED | {"calls", "ingested"}),
    "model": Kind("m", EMBEDDED | {"tokens", "cost"}),
    "label": Kind("l", ENDED),
    "collection": Kind("o", EMBEDDED | {"ingested", "stored"}),
}
ALL = frozenset(Counts._fields)
NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class Line:
    """What is shown of a part, or of a group (None: what belongs to no value). Costs in millionths of a USD;
    compute is None when nothing of it is known. counted: the counts that it has."""

    counts: Counts
    compute: int | None
    storage: int
    api: int
    value: str | None = None
    counted: frozenset[str] = ALL

    @property
    def total(self) -> int | None:
        return None if self.compute is None else self.compute + self.storage + self.api

    @property
    def rank(self) -> tuple[int, int, str]:
        """Dearest first, then busiest."""
        return -(self.compute or 0) - self.storage - self.api, -self.counts.executions, self.value or ""

    def usage(self) -> dict[str, Any]:
        """A count that a group cannot have is None."""
        shown = self._usage()
        if self.counted is ALL:
            return shown
        return {name: value if SOURCES[name] in self.counted else None for name, value in shown.items()}

    def _usage(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "executions": counts.executions,
            "tokens": counts.tokens,
            "storage_mb": round(counts.stored / counts.samples / MB, 6) if counts.samples else 0,
            "api_calls": counts.calls,
            "cpu_seconds": counts.cpu_ms / 1000,
            "gpu_seconds": counts.gpu_ms / 1000,
            "ingested_mb": counts.ingested / MB,
            "unpriced_executions": counts.unpriced,
            "late_executions": counts.late,
            "embedding_tokens": counts.embedded,
            "unpriced_embeddings": counts.embedded_unpriced,
        }

    def costs(self) -> dict[str, float | None]:
        return {
            "compute": None if self.compute is None else usd(self.compute),
            "storage": usd(self.storage),
            "api": usd(self.api),
            "total": None if self.total is None else usd(self.total),
        }

    def shown(self) -> dict[str, Any]:
        """`usage` and `costs` as answered."""
        costs = self.costs()
        return {"usage": self.usage(), "costs": {"total": costs.pop("total"), "breakdown": costs}}


SOURCES = {
    "executions": "executions",
    "tokens": "tokens",
    "storage_mb": "stored",
    "api_calls": "calls",
    "cpu_seconds": "cpu_ms",
    "gpu_seconds": "gpu_ms",
    "ingested_mb": "ingested",
    "unpriced_executions": "unpriced",
    "late_executions": "late",
    "embedding_tokens": "embedded",
    "unpriced_embeddings": "embedded_unpriced",
}
"""What is shown -> the count it is made of."""


@dataclass(frozen=True, slots=True)
class Sums:
    """parts: (start, end) in ms. totals: of each. groups: value -> counts, of each part or of all as one."""

    parts: list[tuple[int, int]]
    totals: list[Counts]
    groups: list[dict[str, Counts]]

    def whole(self) -> Counts:
        return _sum(self.totals)


class Usage:
    def __init__(self, store: UsageStore, tariff: Tariff):
        self._store, self._tariff = store, tariff
        self._grouped = asyncio.Semaphore(GROUPED_AT_ONCE)

    async def stats(
        self, workspace_id: str, period: Period, group_by: GroupBy | None = None
    ) -> dict[str, Any]:
        """`GET /v1/usage/stats`."""
        sums = await self._sums(workspace_id, period, group_by, by_part=False)
        return await asyncio.to_thread(self._shown, period, sums, group_by)

    async def rows(
        self, workspace_id: str, period: Period, group_by: GroupBy | None = None
    ) -> list[tuple[int, int, Line]]:
        """(start, end, line) of each part; with `group_by` one of each value that used something in it.

        Raises ValidationError when that is too many.
        """
        sums = await self._sums(workspace_id, period, group_by, by_part=True)
        if group_by is None:
            return [(*part, self._line(counts)) for part, counts in zip(sums.parts, sums.totals, strict=True)]
        return [
            (*part, line)
            for part, counts, groups in zip(sums.parts, sums.totals, sums.groups, strict=True)
            for line in self._lines(counts, groups, KINDS[group_by])
        ]

    async def _sums(self, workspace_id: str, period: Period, group_by: GroupBy | None, by_part: bool) -> Sums:
        async with self._grouped if group_by else nullcontext():
            return await self._added_up(workspace_id, period, group_by, by_part)

    async def _added_up(
        self, workspace_id: str, period: Period, group_by: GroupBy | None, by_part: bool
    ) -> Sums:
        parts, kind = period.parts(), KINDS[group_by] if group_by else None
        groups: list[dict[str, Counts]] = [{} for _ in (parts if by_part else (0,))] if kind else []
        sums = Sums(parts, [NOTHING] * len(parts), groups)
        starts = [start for start, _ in parts]
        async for hours, some in self._store.parts(workspace_id, period.hours, kind.letter if kind else ""):
            _add_totals(sums, starts, hours, some)
            if kind:
                fine = by_part and period.granularity == "hour"
                found = some.grouped(hours, kind.letter, fine)
                await asyncio.to_thread(_add_groups, sums.groups, starts if by_part else [0], found)
        return sums

    def _shown(self, period: Period, sums: Sums, group_by: GroupBy | None) -> dict[str, Any]:
        shown = {
            "period": _span(period.start, period.end),
            **self._line(sums.whole()).shown(),
            "granularity": period.granularity,
            "series": [
                {**_span(*part), **self._line(counts).shown()}
                for part, counts in zip(sums.parts, sums.totals, strict=True)
            ],
        }
        if group_by is None:
            return shown
        lines = self._lines(sums.whole(), _largest(sums.groups[0], MOST_GROUPS), KINDS[group_by])
        groups = [{"value": line.value, **line.shown()} for line in lines]
        return {**shown, "group_by": group_by, "groups": groups}

    def _lines(self, total: Counts, groups: Mapping[str, Counts], kind: Kind) -> list[Line]:
        """The groups and, as None, what belongs to none of them."""
        named = {value: counts for value, counts in groups.items() if value != NONE}
        rest = total.minus(_sum(named.values()))._replace(samples=total.samples)
        if NONE in groups:
            rest = rest._replace(**{name: getattr(groups[NONE], name) for name in kind.counted})
        lines = [self._line(counts, value, kind.counted) for value, counts in named.items()]
        return sorted([*lines, self._line(rest)] if any(rest) else lines, key=lambda line: line.rank)

    def _line(self, counts: Counts, value: str | None = None, counted: frozenset[str] = ALL) -> Line:
        """Of executions and embeddings whose cost is not known, all may be."""
        cost = counts.cost + round(counts.embedded_cost / 1000)
        known = cost or not counts.unpriced + counts.embedded_unpriced
        storage, api = self._tariff.storage(counts.stored), self._tariff.calls(counts.calls)
        return Line(counts, cost if known else None, storage, api, value, counted)


def _add_totals(sums: Sums, starts: list[int], hours: range, some: Hours) -> None:
    for hour, counts in some.totals.items():
        if hour in hours:
            at = bisect_right(starts, hour * HOUR_MS) - 1
            sums.totals[at] = sums.totals[at].plus(counts.hourly())


def _add_groups(
    groups: list[dict[str, Counts]], starts: list[int], found: Iterable[tuple[int, str, Counts]]
) -> None:
    for hour, value, counts in found:
        at = bisect_right(starts, hour * HOUR_MS) - 1
        group = groups[at]
        group[value] = group.get(value, NOTHING).plus(counts)
    if len(starts) > 1:
        _check_rows(groups)
    elif len(groups[0]) > MOST_KEPT:
        groups[0] = _largest(groups[0], MOST_KEPT // 2)


def _check_rows(groups: list[dict[str, Counts]]) -> None:
    if sum(map(len, groups)) > MOST_ROWS:
        raise ValidationError.at(
            "granularity",
            f"gives more than {MOST_ROWS:,} rows: take a coarser one, a shorter period or no group_by",
        )


def _largest(groups: Mapping[str, Counts], most: int) -> dict[str, Counts]:
    """The dearest by name, all others as one."""
    named = [value for value in groups if value not in (NONE, OTHER)]
    if len(named) <= most:
        return dict(groups)
    named.sort(key=lambda value: _size(groups[value]), reverse=True)
    kept = {value: groups[value] for value in (*named[:most], NONE) if value in groups}
    rest = [groups[value] for value in named[most:]]
    return kept | {OTHER: _sum([groups.get(OTHER, NOTHING), *rest])}


def _size(counts: Counts) -> tuple[int, int, int]:
    return 1000 * counts.cost + counts.embedded_cost, counts.executions, counts.ingested + counts.stored


def _sum(several: Iterable[Counts]) -> Counts:
    columns = zip(*several, strict=True)
    return Counts(*map(sum, columns))


def _span(start: int, end: int) -> dict[str, str]:
    return {"start": rfc3339(start), "end": rfc3339(end)}
