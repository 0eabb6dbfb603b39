"""Finds executions wherever they are: in Redis while they are young, in Parquet after the retention time."""

from collections.abc import Mapping
from dataclasses import dataclass

from kernel.errors import ValidationError
from kernel.ids import is_id
from kernel.paging import Page, PageQuery
from kernel.storage.archive import Archive, Span
from kernel.storage.executions import ExecutionStore, StoredEvent, StoredExecution

DEEPEST = 10_000
"""How far page numbers reach into a list that is partly in Parquet; cursors have no such bound."""


@dataclass(frozen=True, slots=True)
class Lookup:
    live: ExecutionStore
    archive: Archive

    async def stored(self, workspace_id: str, execution_id: str) -> StoredExecution | None:
        if not is_id("exec", execution_id):
            return None
        if (found := await self.live.read(workspace_id, execution_id)) is not None:
            return found
        archived = await self.archive.find(workspace_id, execution_id)
        return archived.stored if archived else None

    async def status(self, workspace_id: str, execution_id: str) -> str | None:
        if not is_id("exec", execution_id):
            return None
        if (status := await self.live.status(workspace_id, execution_id)) is not None:
            return status
        archived = await self.archive.find(workspace_id, execution_id)
        return archived.stored.record["status"].decode() if archived else None

    async def events(self, workspace_id: str, execution_id: str, after: int) -> list[StoredEvent]:
        """Some events after `after`; none when there are no more."""
        if events := await self.live.events(workspace_id, execution_id, after):
            return events
        if await self.live.status(workspace_id, execution_id) is not None:
            return []
        archived = await self.archive.find(workspace_id, execution_id)
        return [event for event in archived.events if event.seq > after] if archived else []

    async def page(
        self, workspace_id: str, filters: Mapping[str, str], low: str, high: str, query: PageQuery
    ) -> Page[dict[str, str]]:
        """Newest first over both places. low and high: ids, half-open, empty for none."""
        lower, upper = f"[{low}" if low else "-", f"({high}" if high else "+"
        page = await self.live.page(workspace_id, filters, lower, upper, query)
        segments = await self.archive.segments(workspace_id)
        if not segments:
            return page
        total = page.total + await self.archive.count(workspace_id, filters, Span(low, high))
        if query.offset >= total:
            return Page([], total, None, False)
        if page.more and not any(segment.last > (page.last_id or "") for segment in segments):
            return Page(page.items, total, page.last_id, True)
        reach = query.offset + query.limit
        if reach > DEEPEST:
            raise ValidationError.at("page", f"Pages go to item {DEEPEST} here: go on with next_cursor")
        live = await self.live.page(workspace_id, filters, lower, upper, PageQuery(1, reach, query.before))
        archived = await self.archive.rows(
            workspace_id, filters, Span(low, high, query.before or ""), reach + 1
        )
        rows = {row["id"]: row for row in (*archived, *live.items)}
        ordered = sorted(rows.values(), key=lambda row: row["id"], reverse=True)
        items = ordered[query.offset : reach]
        more = len(ordered) > reach or live.more
        return Page(items, total, items[-1]["id"] if items else None, more)
