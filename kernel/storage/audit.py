"""The audit log of each workspace: a sorted set of `<event id> <entry as JSON>`, oldest first, only ever added to.

Scripts that change something add the entry themselves. Sets of event ids by action, user and key make filters cheap.
"""

from collections.abc import Mapping

from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.meeting import meeting
from kernel.storage.store import Store
from kernel.storage.wire import Argument


class AuditStore:
    def __init__(self, store: Store):
        self._store = store

    async def add(self, workspace_id: str, entry: str) -> None:
        await self._store.run("access_note", workspace_id, workspace_id, entry)

    async def page(
        self, workspace_id: str, filters: Mapping[str, str], low: str, high: str, query: PageQuery
    ) -> tuple[int, list[bytes]]:
        """Total; then entries, newest first: one more than the page holds, if there are. Bounds are lexical."""
        if len(filters) > 1:
            return await self._page_of_meeting(workspace_id, filters, (low, high), query)
        flat = [part for pair in filters.items() for part in pair]
        args: tuple[Argument, ...] = (
            workspace_id,
            low,
            high,
            query.before or "",
            query.offset,
            query.limit,
            *flat,
        )
        total, *rows = await self._store.run("access_audit", workspace_id, *args)
        return total, rows

    async def _page_of_meeting(
        self, workspace_id: str, filters: Mapping[str, str], bounds: tuple[str, str], query: PageQuery
    ) -> tuple[int, list[bytes]]:
        ids, total = await meeting(self._store, workspace_id, "audit", filters, bounds, query)
        name = keys.key("audit", workspace_id)
        rows = await self._store.together(
            *(("ZRANGEBYLEX", name, f"[{one} ", f"({one}!", "LIMIT", 0, 1) for one in ids)
        )
        return total, [row[0] for row in rows if row]

    async def oldest(self, workspace_id: str, low: str, high: str, most: int) -> list[bytes]:
        """Entries between two lexical bounds, oldest first."""
        name = keys.key("audit", workspace_id)
        rows: list[bytes] = await self._store.call("ZRANGEBYLEX", name, low, high, "LIMIT", 0, most)
        return rows
