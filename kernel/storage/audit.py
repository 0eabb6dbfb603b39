"""The audit log of each workspace: a sorted set of `<event id> <entry as JSON>`, oldest first, only ever added to.

Scripts that change something add the entry themselves. Sets of event ids by action, user and key make filters cheap.
`audit_order` has the ids in the order they were written, `audit_chain` a MAC for each of those (`kernel.access.chain`);
workspaces with entries that have none yet are in `audit_open`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.meeting import meeting
from kernel.storage.store import Store
from kernel.storage.wire import Argument


@dataclass(frozen=True, slots=True)
class Link:
    """One entry by its number, from 0. entry: as it was written, None when it is gone. mac: None when not sealed."""

    number: int
    id: str
    entry: bytes | None
    mac: bytes | None


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

    async def unsealed(self) -> list[str]:
        """Workspaces with entries that are not in the chain."""
        sets = [("SMEMBERS", keys.shard_key("audit_open", shard)) for shard in range(keys.SHARDS)]
        return [name.decode() for names in await self._store.together(*sets) for name in names]

    async def sealed(self, workspace_id: str) -> tuple[int, bytes]:
        """How many entries are in the chain, and the last MAC; empty when there is none."""
        name = keys.key("audit_chain", workspace_id)
        count, last = await self._store.together(("LLEN", name), ("LRANGE", name, -1, -1))
        return count, last[0] if last else b""

    async def mac(self, workspace_id: str, number: int) -> bytes:
        """Of the entry with that number, empty when there is none."""
        found = await self._store.call("LRANGE", keys.key("audit_chain", workspace_id), number, number)
        return found[0] if found else b""

    async def links(self, workspace_id: str, number: int, most: int) -> list[Link]:
        """Entries from that number on, in the order they were written."""
        last = number + most - 1
        ids, macs = await self._store.together(
            ("LRANGE", keys.key("audit_order", workspace_id), number, last),
            ("LRANGE", keys.key("audit_chain", workspace_id), number, last),
        )
        name = keys.key("audit", workspace_id)
        rows = await self._store.together(
            *(("ZRANGEBYLEX", name, b"[%s " % one, b"(%s!" % one, "LIMIT", 0, 2) for one in ids)
        )
        return [
            Link(
                number + at,
                one.decode(),
                b"\n".join(rows[at]) if rows[at] else None,
                macs[at] if at < len(macs) else None,
            )
            for at, one in enumerate(ids)
        ]

    async def seal(self, workspace_id: str, number: int, macs: Sequence[bytes]) -> bool:
        """Adds MACs for the entries from that number on. False when there are some already."""
        return bool(await self._store.run("audit_seal", workspace_id, workspace_id, number, *macs))

    async def counts(self, workspace_id: str) -> tuple[int, int]:
        """Entries there are, and entries that were written."""
        found = await self._store.together(
            ("ZCARD", keys.key("audit", workspace_id)), ("LLEN", keys.key("audit_order", workspace_id))
        )
        return found[0], found[1]
