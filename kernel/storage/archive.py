"""Ended executions in Parquet: `archive/<workspace>/<first id>.<last id>.parquet`, one row each, sorted by id.

A file is written whole and never changed. Which files there are, and the range of ids in each, is kept in Redis
(`archive`), beside the counts that lists need (`archived`) and the ids deleted since (`erased`).
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kernel.storage import keys
from kernel.storage.executions import ROW, StoredEvent, StoredExecution
from kernel.storage.objects import ObjectStore
from kernel.storage.store import Store

ROW_GROUP = 200
"""Rows read to find one execution."""


@dataclass(frozen=True, slots=True)
class ArchivedExecution:
    execution_id: str
    stored: StoredExecution
    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True)
class Segment:
    """One file and the ids it spans, both ends included."""

    first: str
    last: str

    def path(self, workspace_id: str) -> str:
        return f"archive/{workspace_id}/{self.first}.{self.last}.parquet"


@dataclass(frozen=True, slots=True)
class Span:
    """Bounds of ids: `low` included, `high` and `before` not; empty is none."""

    low: str = ""
    high: str = ""
    before: str = ""

    def holds(self, execution_id: str) -> bool:
        return execution_id >= self.low and all(
            not bound or execution_id < bound for bound in (self.high, self.before)
        )

    def meets(self, segment: Segment) -> bool:
        return segment.last >= self.low and all(
            not bound or segment.first < bound for bound in (self.high, self.before)
        )


class Archive:
    def __init__(self, store: Store, objects: ObjectStore):
        self._store, self._objects = store, objects

    async def write(self, workspace_id: str, executions: Iterable[ArchivedExecution]) -> None:
        """Durable and findable when it returns. Doing it again for the same executions does no harm."""
        ordered = sorted(executions, key=lambda one: one.execution_id)
        segment = Segment(ordered[0].execution_id, ordered[-1].execution_id)
        await self._objects.put(segment.path(workspace_id), await asyncio.to_thread(_encode, ordered))
        await self._store.call(
            "ZADD", keys.key("archive", workspace_id), 0, f"{segment.first} {segment.last}"
        )

    async def find(self, workspace_id: str, execution_id: str) -> ArchivedExecution | None:
        if await self._store.call("SISMEMBER", keys.key("erased", workspace_id), execution_id):
            return None
        for segment in await self.segments(workspace_id):
            if segment.first <= execution_id <= segment.last:
                data = await self._objects.get(segment.path(workspace_id))
                if found := await asyncio.to_thread(_find, data, execution_id):
                    return found
        return None

    async def erase(self, workspace_id: str, execution: ArchivedExecution) -> None:
        """Hides an archived execution for good, and notes what it had counted."""
        record = {name: value.decode() for name, value in execution.stored.record.items()}
        used = (record["completed_at"], record.get("spent", ""))
        await self._store.run(
            "archive_erase",
            workspace_id,
            *(workspace_id, execution.execution_id, *used, *_counted(record)),
        )

    async def hide(self, workspace_id: str, execution_id: str) -> None:
        """Hides a copy that may be here of an execution deleted before it was counted as archived."""
        if any(one.first <= execution_id <= one.last for one in await self.segments(workspace_id)):
            await self._store.call("SADD", keys.key("erased", workspace_id), execution_id)

    async def segments(self, workspace_id: str) -> list[Segment]:
        """Newest first."""
        names = await self._store.call("ZREVRANGE", keys.key("archive", workspace_id), 0, -1)
        return [Segment(*name.decode().split(" ")) for name in names]

    async def count(self, workspace_id: str, filters: Mapping[str, str], span: Span) -> int:
        """How many archived executions match; read from the counts where they can tell."""
        if len(filters) > 1 or span != Span():
            return len(await self.rows(workspace_id, filters, span))
        name = next((f"{field}:{value}" for field, value in filters.items()), "all")
        return int(await self._store.call("HGET", keys.key("archived", workspace_id), name) or 0)

    async def rows(
        self, workspace_id: str, filters: Mapping[str, str], span: Span, most: int | None = None
    ) -> list[dict[str, str]]:
        """List rows that match, newest first: all, or at least the newest `most`."""
        erased = {
            one.decode() for one in await self._store.call("SMEMBERS", keys.key("erased", workspace_id))
        }
        found: dict[str, dict[str, str]] = {}
        by_last = sorted(await self.segments(workspace_id), key=lambda one: one.last, reverse=True)
        for segment in by_last:
            if (
                most is not None
                and len(found) >= most
                and segment.last < sorted(found, reverse=True)[most - 1]
            ):
                break
            if span.meets(segment):
                data = await self._objects.get(segment.path(workspace_id))
                for row in await asyncio.to_thread(_listed, data):
                    if span.holds(row["id"]) and row["id"] not in erased and _matches(row, filters):
                        found[row["id"]] = row
        return sorted(found.values(), key=lambda row: row["id"], reverse=True)

    async def each(self, workspace_id: str) -> AsyncIterator[dict[str, str]]:
        """All list rows, a file at a time; what was cut off half way may stand in two."""
        erased = {
            one.decode() for one in await self._store.call("SMEMBERS", keys.key("erased", workspace_id))
        }
        for segment in await self.segments(workspace_id):
            data = await self._objects.get(segment.path(workspace_id))
            for row in await asyncio.to_thread(_listed, data):
                if row["id"] not in erased:
                    yield row


def _matches(row: Mapping[str, str], filters: Mapping[str, str]) -> bool:
    return all(
        value in row.get("labels", "").split("\n") if field == "label" else row.get(field) == value
        for field, value in filters.items()
    )


def _counted(record: Mapping[str, str]) -> list[str]:
    """The counts an execution stands in."""
    names = ["all", f"status:{record['status']}"]
    if record.get("agent"):
        names.append(f"agent:{record['agent']}")
    return names + [f"label:{label}" for label in record.get("labels", "").split("\n") if label]


def _encode(executions: Sequence[ArchivedExecution]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(one) for one in executions]
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in rows[0]}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, compression="zstd", row_group_size=ROW_GROUP)
    return out.getvalue()


def _row(one: ArchivedExecution) -> dict[str, str | None]:
    record = {name: value.decode() for name, value in one.stored.record.items()}
    listed = {name: record.get(name) for name in ROW if name != "id"}
    return (
        {"id": one.execution_id}
        | listed
        | {
            "record": orjson.dumps(record).decode(),
            "nodes": orjson.dumps(
                {name: value.decode() for name, value in one.stored.nodes.items()}
            ).decode(),
            "events": b"\n".join(event.body for event in one.events).decode(),
        }
    )


def _find(data: bytes, execution_id: str) -> ArchivedExecution | None:
    import pyarrow.parquet as pq

    filters = [("id", "=", execution_id)]
    found = pq.read_table(
        io.BytesIO(data), columns=["record", "nodes", "events"], filters=filters
    ).to_pylist()
    if not found:
        return None
    record, nodes = (
        {name: value.encode() for name, value in orjson.loads(found[0][column]).items()}
        for column in ("record", "nodes")
    )
    events = [StoredEvent(seq, body) for seq, body in enumerate(found[0]["events"].encode().split(b"\n"), 1)]
    return ArchivedExecution(execution_id, StoredExecution(record, nodes), events)


def _listed(data: bytes) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(io.BytesIO(data)).read(columns=list(ROW)).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
