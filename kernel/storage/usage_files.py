"""Usage in Parquet: `usage/workspace=<id>/day=<YYYY-MM-DD>/`, a row for each hour and value that counted something.

While a day lasts its closed hours are there as `hour-<HH>.parquet`, for whoever reads files; the truth is still in
Redis. Once it is over it is `day.parquet`, which never changes, and the truth. Other programs may read them too:
columns hour (UTC), kind (`total`, `agent`, `key`, …), value, then those of `Counts`.
"""

import asyncio
import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from kernel.errors import NotFound
from kernel.storage.counts import DAY, HOUR_MS, KINDS, Counts, by_kind
from kernel.storage.objects import ObjectStore

Bucket = Mapping[str, int]
"""Fields of an hour's bucket."""
EPOCH = date(1970, 1, 1).toordinal()
DAY_FILE = "day.parquet"
KEPT_BYTES = 64_000_000
"""Days that are kept in memory once read, at most."""
ROW_BYTES = 200
"""What a day's row of totals takes in memory, about."""


@dataclass(frozen=True, slots=True)
class Day:
    """A day as it was read. totals: by hour; rest: a table of all other rows, with one sample an hour, None when there
    is none."""

    totals: Mapping[int, Counts]
    rest: Any = None

    @property
    def size(self) -> int:
        return ROW_BYTES * (1 + len(self.totals)) + (0 if self.rest is None else self.rest.nbytes)

    def grouped(self, hours: range, kind: str, hourly: bool) -> Iterator[tuple[int, str, Counts]]:
        """(hour, value, counts) of a kind. hourly: else all of the day's hours in one, under the first of them."""
        if self.rest is None:
            return
        import pyarrow.compute as pc

        hour = pc.field("hour")
        wanted = (pc.field("kind") == KINDS[kind]) & (hour >= hours.start) & (hour < hours.stop)
        sums = [("hour", "min"), *((name, "sum") for name in Counts._fields)]
        by = ["value", "hour"] if hourly else ["value"]
        found = self.rest.filter(wanted).group_by(by).aggregate(sums)
        names = ["hour_min", "value", *(f"{name}_sum" for name in Counts._fields)]
        for first, value, *counts in zip(*(found.column(name).to_pylist() for name in names), strict=True):
            yield first, value, Counts(*counts)


class UsageFiles:
    def __init__(self, objects: ObjectStore):
        self._objects = objects
        self._days: OrderedDict[str, Day] = OrderedDict()
        self._size = 0

    async def write_hour(self, workspace_id: str, hour: int, bucket: Bucket) -> None:
        await self._write(f"{_folder(workspace_id, hour)}/{_hour_file(hour)}", {hour: bucket})

    async def write_day(self, workspace_id: str, buckets: Mapping[int, Bucket]) -> None:
        """All hours of one day that have a bucket, by hour. The files of its hours go."""
        folder = _folder(workspace_id, min(buckets))
        await self._write(f"{folder}/{DAY_FILE}", buckets)
        for name in await self._objects.names(folder):
            if name != DAY_FILE:
                await self._objects.delete(f"{folder}/{name}")

    async def hours_of_day(self, workspace_id: str, hour: int) -> set[int]:
        """Those of the same day that have a file."""
        first = hour - hour % DAY
        names = await self._objects.names(_folder(workspace_id, hour))
        return {one for one in range(first, first + DAY) if _hour_file(one) in names}

    async def days(self, workspace_id: str, first_hours: Sequence[int]) -> list[Day]:
        """The days that begin at these hours; one without a file is empty. Only of days that never change."""
        return await asyncio.gather(
            *(self._day(f"{_folder(workspace_id, at)}/{DAY_FILE}") for at in first_hours)
        )

    async def _day(self, path: str) -> Day:
        if (known := self._days.get(path)) is not None:
            self._days.move_to_end(path)
            return known
        try:
            day = await asyncio.to_thread(_decode, await self._objects.get(path))
        except NotFound:
            day = Day({})
        self._keep(path, day)
        return day

    def _keep(self, path: str, day: Day) -> None:
        self._size += day.size - (self._days[path].size if path in self._days else 0)
        self._days[path] = day
        while self._size > KEPT_BYTES:
            self._size -= self._days.popitem(last=False)[1].size

    async def _write(self, path: str, buckets: Mapping[int, Bucket]) -> None:
        await self._objects.put(path, await asyncio.to_thread(_encode, buckets))


def folder(workspace_id: str) -> str:
    """Of all usage of a workspace."""
    return f"usage/workspace={workspace_id}"


def _folder(workspace_id: str, hour: int) -> str:
    return f"{folder(workspace_id)}/day={date.fromordinal(EPOCH + hour // DAY)}"


def _hour_file(hour: int) -> str:
    return f"hour-{hour % DAY:02}.parquet"


def _encode(buckets: Mapping[int, Bucket]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (hour * HOUR_MS, KINDS[kind], value, *counts)
        for hour, bucket in sorted(buckets.items())
        for (kind, value), counts in sorted(by_kind(bucket.items()).items())
    ]
    types = [pa.timestamp("ms", "UTC"), pa.string(), pa.string(), *(pa.int64() for _ in Counts._fields)]
    columns = [pa.array(column, type_) for column, type_ in zip(zip(*rows, strict=True), types, strict=True)]
    out = io.BytesIO()
    table = pa.table(columns, names=["hour", "kind", "value", *Counts._fields])
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _decode(data: bytes) -> Day:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data), read_dictionary=["kind", "value"])
    hours = pc.divide(table.column("hour").cast(pa.int64()), HOUR_MS)
    table = table.set_column(0, "hour", hours)
    nothing = pa.nulls(table.num_rows, pa.int64()).fill_null(0)
    for name in set(Counts._fields) - set(table.column_names):  # not counted yet when the file was written
        table = table.append_column(name, nothing)
    total = pc.field("kind") == KINDS[""]
    rows = table.filter(total).select(["hour", *Counts._fields]).to_pydict().values()
    totals = {hour: Counts(*counts) for hour, *counts in zip(*rows, strict=True)}
    rest = table.filter(~total)
    return Day(totals, _hourly(rest) if rest.num_rows else None)


def _hourly(table: Any) -> Any:
    """See `Counts.hourly`."""
    import pyarrow.compute as pc

    samples = table.column("samples")
    means = pc.divide(table.column("stored"), pc.max_element_wise(samples, 1))
    for name, column in (("stored", means), ("samples", pc.min_element_wise(samples, 1))):
        table = table.set_column(table.column_names.index(name), name, column)
    return table
