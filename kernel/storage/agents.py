"""Agents in Redis: the record, its immutable versions, and the sets it is listed and found by.

A change is made only if the agent still is at the revision and status that were read. Versions outlive a
deleted agent for `VERSIONS_STAY_S`, because executions that run on keep reading theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kernel.errors import Conflict
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.idempotency import superseded
from kernel.storage.store import Store
from kernel.storage.wire import Argument

VERSIONS_STAY_S = 30 * 86_400
COUNTS_KEPT = 1_000
"""Totals of searches with several conditions: slow to count, so counted once for each turn of the sets."""

Place = tuple[str, str]
"""A set that an agent is in: field (tag, prefix or status) and value."""


@dataclass(frozen=True, slots=True)
class Stats:
    """How many executions there were, and how they ended."""

    executions: int = 0
    completed: int = 0
    failed: int = 0
    timed_out: int = 0


@dataclass(frozen=True, slots=True)
class StoredItem:
    """`item` is the list's item as JSON, without status and stats."""

    status: str
    item: bytes
    stats: Stats


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """`document` is the current version as JSON."""

    listed: StoredItem
    revision: int
    document: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """How far an agent has come: what a change is made against."""

    revision: int
    status: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What to store: `document` and `history` are empty when the version stays.

    credentials: ids of those that the agent uses from now on; None leaves them as they are.
    """

    version: str
    item: bytes
    document: bytes = b""
    history: bytes = b""
    credentials: frozenset[str] | None = None

    @property
    def uses(self) -> str:
        """For scripts: ids between spaces, `-` to leave them."""
        return "-" if self.credentials is None else " ".join(sorted(self.credentials))


@dataclass(frozen=True, slots=True)
class Move:
    """How an agent's sets change."""

    leaves: Sequence[Place]
    joins: Sequence[Place]


class AgentStore:
    def __init__(self, store: Store):
        self._store = store
        self._counted: dict[tuple[str, ...], tuple[bytes, int]] = {}

    async def create(
        self, ws: str, agent_id: str, draft: Draft, places: Iterable[Place], idempotency_record: str
    ) -> None:
        """Does nothing when the agent is there already.

        Raises Conflict for a request that was taken for lost, or when a credential has gone meanwhile.
        """
        state = await self._store.run(
            "agent_create",
            ws,
            *(ws, agent_id, draft.version, draft.item, draft.document, draft.history),
            *(idempotency_record, draft.uses),
            *_flat(places),
        )
        if state == b"superseded":
            raise superseded()
        if state == b"credential":
            raise _credential_gone()

    async def read(self, ws: str, agent_id: str) -> StoredAgent | None:
        found = await self._store.run("agent_read", ws, ws, agent_id)
        return StoredAgent(_item(found[:3]), int(found[3]), found[4]) if found else None

    async def update(self, ws: str, agent_id: str, was: Mark, status: str, draft: Draft, move: Move) -> bool:
        """False when the agent is no longer as it was read. Raises Conflict when a credential has gone meanwhile."""
        args: list[Argument] = [ws, agent_id, was.revision, was.status, status]
        args += [draft.version, draft.item, draft.document, draft.history, draft.uses]
        args += [len(move.leaves), *_flat(move.leaves), *_flat(move.joins)]
        state = await self._store.run("agent_update", ws, *args)
        if state == b"credential":
            raise _credential_gone()
        return bool(state)

    async def delete(self, ws: str, agent_id: str, was: Mark, places: Iterable[Place]) -> bool:
        """False when the agent is no longer as it was read."""
        args = (ws, agent_id, was.revision, was.status, VERSIONS_STAY_S)
        return bool(await self._store.run("agent_delete", ws, *args, *_flat(places)))

    async def exists(self, ws: str, agent_id: str) -> bool:
        return bool(await self._store.call("EXISTS", keys.key("agent", ws, id=agent_id)))

    async def version(self, ws: str, agent_id: str, version: str) -> bytes | None:
        """A version's document as JSON, of a deleted agent too."""
        found: bytes | None = await self._store.call(
            "HGET", keys.key("agent_versions", ws, id=agent_id), version
        )
        return found

    async def history(self, ws: str, agent_id: str, query: PageQuery) -> tuple[int, list[bytes]]:
        """How many versions there are, and a page of their entries, newest first."""
        name = keys.key("agent_history", ws, id=agent_id)
        total = int(await self._store.call("LLEN", name))
        rows: list[bytes] = await self._store.call(
            "LRANGE", name, query.offset, query.offset + query.limit - 1
        )
        return total, rows

    async def page(
        self, ws: str, places: Iterable[Place], only: Iterable[str] | None, query: PageQuery
    ) -> tuple[int, list[StoredItem]]:
        """Total, then one more than the page holds, if there are. only: the ids to choose from."""
        among = [] if only is None else sorted(only, reverse=True)
        flat = _flat(places)
        counted = (ws, *flat)
        args: list[Argument] = [ws, query.before or "", query.offset, query.limit]
        args += [*self._counted.get(counted, (b"", 0)), -1 if only is None else len(among), *among, *flat]
        turn, total, *rows = await self._store.run("agent_page", ws, *args)
        if only is None and len(flat) > 2:
            self._keep_count(counted, turn, total)
        return total, [_item(row) for row in rows]

    def _keep_count(self, counted: tuple[str, ...], turn: bytes, total: int) -> None:
        self._counted.pop(counted, None)
        self._counted[counted] = (turn, total)
        if len(self._counted) > COUNTS_KEPT:
            del self._counted[next(iter(self._counted))]


def _item(row: Sequence[Any]) -> StoredItem:
    return StoredItem(row[0].decode(), row[1], Stats(*(int(count or 0) for count in row[2])))


def _credential_gone() -> Conflict:
    return Conflict("A credential that the flow uses has been deleted meanwhile")


def _flat(places: Iterable[Place]) -> list[str]:
    return [part for place in places for part in place]
