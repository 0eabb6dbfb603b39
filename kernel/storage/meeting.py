"""What stands in several sets at once, between bounds: walked in stretches, so that the store serves others between."""

from collections.abc import Mapping
from typing import Literal

from kernel.paging import PageQuery
from kernel.storage.store import Store

STRETCH = 2_000
"""Ids looked at in one step of the store, some 3 ms."""


async def meeting(
    store: Store,
    workspace_id: str,
    kind: Literal["executions", "audit"],
    filters: Mapping[str, str],
    bounds: tuple[str, str],
    query: PageQuery,
) -> tuple[list[str], int]:
    """Ids of the page, newest first and one more if there are more; then how many there are without `before`."""
    flat = [part for pair in filters.items() for part in pair]
    ids: list[str] = []
    total, seen, after = 0, 0, ""
    while True:
        stop, *found = await store.run(
            "meet", workspace_id, workspace_id, kind, *bounds, after, STRETCH, *flat
        )
        total += len(found)
        for name in map(bytes.decode, found):
            if query.before is None or name < query.before:
                seen += 1
                if query.offset < seen <= query.offset + query.limit + 1:
                    ids.append(name)
        if not stop:
            return ids, total
        after = stop.decode()
