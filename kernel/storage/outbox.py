"""What is to be told to others: the outbox of each shard, and the deliveries that a courier makes of it.

A script that changes something adds a row to `outbox` (a stream; prelude: `tell_outside`). Fanning a row out removes it
and adds a delivery for each endpoint that wants the event: to `webhook_queue` by when it is due, to `webhook_log` and
`webhook_deliveries`, with the body in `message`. What is taken
stands in `webhook_flying`, and its endpoint in `aloft`, until its outcome is told. URLs of executions are one endpoint
of their workspace, `signing`: its deliveries have a `url` each, and those that were delivered leave nothing.

What one workspace can put into the store is bounded: 64 MB of deliveries wait (a body counts for each of them, and 2 kB
more), and of the messages that no delivery waits for the newest 2,000 are kept (`messages_ended`). `due` names
workspaces, `webhooks_due` the endpoints of one.

One courier at a time works for a shard: it holds `courier`, and every step here but `hold` refuses all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from ulid import ULID

from kernel.storage import keys
from kernel.storage.store import Store
from kernel.storage.wire import Argument

Verdict = Literal["delivered", "retry", "dead", "gone"]
"""dead: no try is left. gone: as dead, and the endpoint wants nothing more (410): it is disabled at once."""
MAX_PENDING = 10_000
"""Deliveries that may wait for one endpoint; what comes on top of them is dead at once, with the error `queue_full`."""

PAUSE_MS = 4_500
"""How long an endpoint that failed gets nothing: as long as the first retry takes at least."""


@dataclass(frozen=True, slots=True)
class Places:
    """How many deliveries may be taken. failing: of those, to endpoints whose last attempt failed.

    per_endpoint: in flight to one endpoint at once; one that fails has 1. per_workspace: in flight for one workspace.
    """

    room: int
    failing: int
    per_endpoint: int
    per_workspace: int


@dataclass(frozen=True, slots=True)
class Row:
    """An event of the outbox. at: ms of the change. execution_id: whose state the body tells of; else data, as JSON.

    url: where it is to go beside the endpoints that want it.
    """

    shard: int
    id: str
    workspace_id: str
    event: str
    at: int
    execution_id: str | None
    data: bytes | None
    url: str | None = None

    @property
    def event_id(self) -> str:
        """Always the same for this row, so that fanning out twice makes no second event."""
        ms, seq = map(int, self.id.split("-"))
        raw = ms.to_bytes(6, "big") + self.shard.to_bytes(2, "big") + seq.to_bytes(8, "big")
        return f"evt_{ULID.from_bytes(raw)}"


@dataclass(frozen=True, slots=True)
class Hold:
    """A shard in a courier's hands. next_due: ms, when something can be taken, or None. rows: in the outbox."""

    next_due: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class Flight:
    """A delivery in a courier's hands. sealed: the secrets that sign it, bound to (workspace_id, webhook_id, "secret").

    webhook_id: the endpoint, or `signing` for the URL of an execution. attempt: 1 for the first since the event
    happened or was asked for anew. body: what is sent and signed. failing: the endpoint's last attempt failed.
    """

    workspace_id: str
    webhook_id: str
    event_id: str
    url: str
    sealed: bytes
    attempt: int
    body: bytes
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a flight. at: ms when the attempt began. error: one of the known words, None when delivered.

    body: the beginning of the answer, at most 1 kB. retry_at: ms, for the verdict `retry`. audit: an entry to be added
    if this disables the endpoint (`kernel.webhooks.record.disabled_entry`), '' for a delivered one.
    """

    workspace_id: str
    webhook_id: str
    event_id: str
    verdict: Verdict
    at: int
    duration_ms: int
    status_code: int | None
    error: str | None
    body: str
    retry_at: int = 0
    audit: str = ""

    def _attempt(self) -> bytes:
        return orjson.dumps(
            {
                "at": self.at,
                "duration_ms": self.duration_ms,
                "status_code": self.status_code,
                "error": self.error,
                "body": self.body,
            }
        )

    def arguments(self) -> tuple[Argument, ...]:
        names = (self.workspace_id, self.webhook_id, self.event_id)
        return (*names, self.verdict, self.retry_at, self._attempt(), self.audit)


@dataclass(frozen=True, slots=True)
class Disabled:
    """An endpoint that an outcome disabled. reason: `failing` (for 5 days) or `gone` (410)."""

    workspace_id: str
    webhook_id: str
    reason: str


class OutboxStore:
    """name: of a courier, new with each of its lives. All times in ms, as its clock has them."""

    def __init__(self, store: Store):
        self._store = store

    async def hold(self, shard: int, name: str, ttl_ms: int, now: int) -> Hold | None:
        """Takes a shard that nobody works for, or keeps it. None: another courier has it.

        What the one before had in flight is due at once.
        """
        answer = await self._run("courier_hold", shard, name, ttl_ms, now)
        if not answer:
            return None
        due, rows = answer
        return Hold(int(due) if due else None, rows)

    async def release(self, shard: int, name: str, now: int) -> None:
        """Gives a shard up at once; what was in flight is due again. Nothing when another courier has it."""
        await self._run("courier_release", shard, name, now)

    async def rows(self, shard: int, most: int) -> list[Row]:
        """The oldest events that are not fanned out."""
        found = await self._store.call("XRANGE", keys.shard_key("outbox", shard), "-", "+", "COUNT", most)
        return [_row(shard, name, fields) for name, fields in found]

    async def fan(self, name: str, row: Row, body: bytes, now: int) -> bool:
        """Makes a delivery of an event for each endpoint that wants it, due now, and removes the row.

        Does nothing when it is fanned out already. False: another courier has the shard.
        """
        args = (row.id, row.workspace_id, row.event, row.event_id, body, now, MAX_PENDING)
        return bool(await self._run("courier_fan", row.shard, name, *args, *_own_url(row)))

    async def take(
        self, shard: int, name: str, now: int, places: Places, flying: Mapping[str, int]
    ) -> list[Flight] | None:
        """Deliveries that are due, those that wait longest first. None: another courier has the shard.

        flying: how many are in flight now for workspaces of this shard.
        """
        counts = [part for pair in flying.items() for part in pair]
        limits = (places.room, places.failing, places.per_endpoint, places.per_workspace)
        answer = await self._run("courier_take", shard, name, now, *limits, *counts)
        return [flight for row in answer for flight in _flights(row)] if answer is not None else None

    async def done(
        self, shard: int, name: str, outcomes: Sequence[Outcome], now: int
    ) -> list[Disabled] | None:
        """Records what became of flights of this shard. None: another courier has the shard, and will deliver anew.

        An outcome of what is not in flight (any more), such as of a deleted endpoint, counts for nothing.
        """
        args = [part for outcome in outcomes for part in outcome.arguments()]
        answer = await self._run("courier_done", shard, name, now, now + PAUSE_MS, *args)
        if answer is None:
            return None
        return [Disabled(*(part.decode() for part in row)) for row in answer]

    async def _run(self, script: str, shard: int, *args: Argument) -> Any:
        return await self._store.run(script, keys.PREFIXES[shard], *args)


def _row(shard: int, name: bytes, flat: Sequence[bytes]) -> Row:
    fields = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
    execution = fields["x"].decode() if "x" in fields else None
    ws, event, at = (fields[part].decode() for part in ("ws", "event", "at"))
    url = fields["u"].decode() if "u" in fields else None
    return Row(shard, name.decode(), ws, event, int(at), execution, fields.get("d"), url)


def _own_url(row: Row) -> tuple[str, ...]:
    """Of an execution with a URL of its own: that and its id."""
    return () if row.url is None or row.execution_id is None else (row.url, row.execution_id)


def _flights(row: Sequence[Any]) -> list[Flight]:
    ws, webhook, item, sealed, fails, *due = row
    names, shared = (ws.decode(), webhook.decode()), orjson.loads(item).get("url", "")
    return [
        Flight(*names, event.decode(), own.decode() or shared, sealed, attempt, body, bool(fails))
        for event, attempt, body, own in due
    ]
