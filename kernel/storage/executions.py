"""Executions in Redis: the record, the journal of nodes and the stream of events, and their indices.

Every change is one script: `execution_create`, `execution_commit` (what a runner writes), `execution_end` (the last of
it, with all that an end changes), `execution_cancel`, `execution_delete`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kernel.errors import Conflict, NotFound, RateLimitError
from kernel.paging import Page, PageQuery
from kernel.storage import keys
from kernel.storage.budgets import begins_again, parts
from kernel.storage.idempotency import superseded
from kernel.storage.meeting import meeting
from kernel.storage.store import Store
from kernel.storage.wire import Argument

EVERYTHING = ("-", "+")
PRIORITY = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Creation:
    """What `create` writes. `agent_id` is empty for an inline flow; `slots` and `tokens_per_day` None is no limit.

    hook: a URL that is told of the end, empty for none.
    """

    workspace_id: str
    execution_id: str
    agent_id: str
    expected_version: str
    spec: bytes
    priority: Literal["high", "normal", "low"]
    now_ms: int
    first_event: bytes
    key_id: str = ""
    slots: int | None = None
    tokens_per_day: int | None = None
    reply_to: str = ""
    idempotency_record: str = ""
    hook: str = ""
    labels: tuple[str, ...] = ()
    journal: Mapping[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class StoredExecution:
    """Record and journal as they are kept: fields as bytes, nodes as JSON."""

    record: dict[str, bytes]
    nodes: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Ending:
    """`facts` are record fields: output, tokens_used, cost, spent, error; without tokens_used the store takes what
    was used from the journal. `shown` is the whole execution as JSON, for whoever waits; empty lets them read it.
    `at` is the moment, by default that of the commit."""

    status: Literal["completed", "failed", "cancelled", "timed_out"]
    facts: Mapping[str, bytes]
    shown: bytes = b""
    at: int | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    seq: int
    body: bytes


class AgentChanged(Exception):
    """The agent has another current version than the caller read."""

    def __init__(self, version: str):
        super().__init__(version)
        self.version = version


class ExecutionStore:
    def __init__(self, store: Store):
        self._store = store

    async def create(self, new: Creation) -> None:
        """Raises NotFound, Conflict (inactive), RateLimitError (no slot, no tokens, a budget is spent), AgentChanged,
        Unavailable (full)."""
        answer = await self._store.run("execution_create", new.workspace_id, *_create_arguments(new))
        state = answer[0]
        if state == b"ok":
            return
        if state == b"version":
            raise AgentChanged(answer[1].decode())
        raise _refusal(new, *answer)

    async def commit(
        self,
        workspace_id: str,
        execution_id: str,
        epoch: int,
        seq: int,
        now_ms: int,
        events: Sequence[bytes],
        nodes: Mapping[str, bytes],
        ending: Ending | None = None,
    ) -> bool:
        """Journals in one step. False: the lease is not the caller's any more, nothing was written."""
        now_ms = ending.at if ending and ending.at else now_ms
        args: list[Argument] = [
            workspace_id,
            execution_id,
            epoch,
            seq,
            now_ms,
            len(events),
            *events,
            len(nodes),
        ]
        for node, record in nodes.items():
            args += (node, record)
        if ending is None:
            return bool(await self._store.run("execution_commit", workspace_id, *args))
        args += (ending.status, ending.shown)
        for fact in ending.facts.items():
            args += fact
        return bool(await self._store.run("execution_end", workspace_id, *args))

    async def read(self, workspace_id: str, execution_id: str) -> StoredExecution | None:
        record, nodes = await self._store.together(
            ("HGETALL", keys.key("execution", workspace_id, id=execution_id)),
            ("HGETALL", keys.key("nodes", workspace_id, id=execution_id)),
        )
        return StoredExecution(_decoded(record), _decoded(nodes)) if record else None

    async def status(self, workspace_id: str, execution_id: str) -> str | None:
        status = await self._store.call(
            "HGET", keys.key("execution", workspace_id, id=execution_id), "status"
        )
        return status.decode() if status else None

    async def node(self, workspace_id: str, execution_id: str, node_id: str) -> bytes | None:
        found: bytes | None = await self._store.call(
            "HGET", keys.key("nodes", workspace_id, id=execution_id), node_id
        )
        return found

    async def queue_position(self, workspace_id: str, execution_id: str) -> int | None:
        """1 is next in its workspace; None when it is not queued."""
        rank = await self._store.call("ZRANK", keys.key("queue", workspace_id), execution_id)
        return None if rank is None else int(rank) + 1

    async def events(
        self, workspace_id: str, execution_id: str, after: int, most: int = 500
    ) -> list[StoredEvent]:
        name = keys.key("events", workspace_id, id=execution_id)
        rows = await self._store.call("XRANGE", name, f"{after + 1}-0", "+", "COUNT", most)
        return [StoredEvent(int(seq.split(b"-")[0]), fields[1]) for seq, fields in rows]

    async def cancel(self, workspace_id: str, execution_id: str, now_ms: int, event: bytes) -> str | None:
        """The state it is in now: `cancelling`, or its status if it has ended. None when it is not here."""
        answer = await self._store.run(
            "execution_cancel", workspace_id, workspace_id, execution_id, now_ms, event
        )
        state: str = answer[-1].decode()
        return None if state == "gone" else state

    async def delete(self, workspace_id: str, execution_id: str, archived: bool = False) -> bool:
        """False when there is none. Raises Conflict while it runs."""
        answer = await self._store.run(
            "execution_delete", workspace_id, workspace_id, execution_id, int(archived)
        )
        if answer[0] == b"running":
            raise Conflict("The execution is still running: cancel it first", {"status": "running"})
        return bool(answer[0] == b"ok")

    async def page(
        self, workspace_id: str, filters: Mapping[str, str], low: str, high: str, query: PageQuery
    ) -> Page[dict[str, str]]:
        """Rows of record fields. filters: agent, status, label; low and high: lexical bounds of ids."""
        if len(filters) > 1 and (low, high) != EVERYTHING:
            return await self._page_of_meeting(workspace_id, filters, (low, high), query)
        where: list[Argument] = [low, high, query.before or "", query.offset, query.limit]
        flat = [part for pair in filters.items() for part in pair]
        total, *rows = await self._store.run("execution_page", workspace_id, workspace_id, *where, *flat)
        items = [_row(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def _page_of_meeting(
        self, workspace_id: str, filters: Mapping[str, str], bounds: tuple[str, str], query: PageQuery
    ) -> Page[dict[str, str]]:
        ids, total = await meeting(self._store, workspace_id, "executions", filters, bounds, query)
        fields = ROW[1:]
        rows = await self._store.together(
            *(("HMGET", keys.key("execution", workspace_id, id=name), *fields) for name in ids[: query.limit])
        )
        found = zip(ids, rows, strict=False)
        items = [_row([name.encode(), *row]) for name, row in found if row[1] is not None]
        return Page(items, total, items[-1]["id"] if items else None, len(ids) > query.limit)

    async def ended_before(self, shard: int, moment_ms: int, most: int) -> list[tuple[str, str]]:
        """Oldest ended executions of a shard, as (workspace, execution)."""
        rows = await self._store.call(
            "ZRANGEBYSCORE", keys.shard_key("ended", shard), "-inf", f"({moment_ms}", "LIMIT", 0, most
        )
        return [tuple(row.decode().split(" ", 1)) for row in rows]


def _create_arguments(new: Creation) -> list[Argument]:
    journal = [part for pair in (new.journal or {}).items() for part in pair]
    return [
        *(new.workspace_id, new.execution_id, new.agent_id, new.expected_version, new.spec),
        *(PRIORITY[new.priority], new.now_ms, -1 if new.slots is None else new.slots, new.reply_to),
        *(new.first_event, new.idempotency_record, new.key_id),
        *(-1 if new.tokens_per_day is None else new.tokens_per_day, new.hook),
        *(len(new.labels), *new.labels, *journal),
    ]


def _refusal(new: Creation, state: bytes, *facts: bytes) -> Exception:
    if state == b"gone":
        return NotFound("Agent not found")
    if state == b"superseded":
        return superseded()
    if state == b"inactive":
        return Conflict("The agent is inactive: set its status to active first", {"status": "inactive"})
    if state == b"tokens":
        return RateLimitError(
            f"The {new.tokens_per_day} tokens of this UTC day are used",
            {"limit": "tokens", "max": new.tokens_per_day},
            (begins_again("day", new.now_ms) - new.now_ms) / 1000,
        )
    if state == b"budget":
        return _over_budget(new.now_ms, *facts)
    return RateLimitError(
        f"All {new.slots} concurrent executions of the plan are in use",
        {"limit": "concurrent", "max": new.slots},
        1.0,
    )


def _over_budget(now_ms: int, field: bytes, amount: bytes) -> RateLimitError:
    (scope, period, _), most = parts(field.decode()), int(amount) / 1_000_000
    return RateLimitError(
        f"The {scope}'s budget of {most} USD for this {period} is spent",
        {"limit": "budget", "max": most, "scope": scope, "period": period},
        (begins_again(period, now_ms) - now_ms) / 1000,
    )


def _decoded(flat: list[bytes]) -> dict[str, bytes]:
    return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}


ROW = (
    "id",
    "agent",
    "status",
    "phase",
    "created_at",
    "started_at",
    "completed_at",
    "labels",
    "tokens_used",
    "cost",
    "spent",
)


def _row(row: Sequence[Any]) -> dict[str, str]:
    return {name: value.decode() for name, value in zip(ROW, row, strict=True) if value is not None}
