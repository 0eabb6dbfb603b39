"""Endpoints and an outbox on a real store, for tests without a receiver."""

from dataclasses import replace
from typing import Any

import orjson

from kernel.clock import ManualClock
from kernel.ids import new_id
from kernel.paging import PageQuery
from kernel.sealing import Wrapped
from kernel.storage import keys
from kernel.storage.outbox import Disabled, Flight, OutboxStore, Outcome, Places
from kernel.storage.store import Store
from kernel.storage.webhooks import Setting, StoredWebhook, WebhookStore
from kernel.webhooks.record import disabled_entry

WS = "ws_" + "0" * 26
SHARD = keys.shard_of(WS)
NEXT = next(name for name in (f"ws_{n:026}" for n in range(1, 999)) if keys.shard_of(name) == SHARD)
"""Another workspace of the shard."""
URL = "https://example.com/hook"
PAGE = PageQuery(limit=100)


class NoCustody:
    """Wraps nothing."""

    async def current(self) -> str:
        return "none"

    async def wrap(self, data_key: bytes, bound: bytes) -> Wrapped:
        return Wrapped("none", data_key)

    async def unwrap(self, wrapped: Wrapped, bound: bytes) -> bytes:
        return wrapped.key


class Post:
    """What a courier named `c1` does, a step at a time; it holds the shard of `WS` once `open` was called."""

    def __init__(self, store: Store, clock: ManualClock):
        self.store, self.clock = store, clock
        self.outbox, self.webhooks = OutboxStore(store), WebhookStore(store)

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    async def open(self, name: str = "c1") -> None:
        assert await self.outbox.hold(SHARD, name, 600_000, self.now) is not None

    async def endpoint(self, *events: str, ws: str = WS, enabled: bool = True) -> str:
        webhook_id = new_id("wh")
        setting = Setting(orjson.dumps({"url": URL}), events or ("*",), enabled)
        await self.webhooks.create(ws, webhook_id, setting, b"sealed", "", "")
        return webhook_id

    async def stored(self, webhook_id: str, ws: str = WS) -> StoredWebhook:
        stored = await self.webhooks.read(ws, webhook_id)
        assert stored is not None
        return stored

    async def enable(self, webhook_id: str, enabled: bool) -> None:
        setting = Setting(orjson.dumps({"url": URL}), ("*",), enabled)
        assert await self.webhooks.update(WS, await self.stored(webhook_id), setting, "")

    async def tell(self, event: str = "agent.created", ws: str = WS, count: int = 1) -> None:
        """Rows, whether anybody wants them or not."""
        row = ("*", "ws", ws, "event", event, "at", self.now, "d", "{}")
        await self.store.together(*[("XADD", keys.shard_key("outbox", SHARD), *row)] * count)

    async def end_of(self, execution_id: str, url: str = "https://own.example.com") -> None:
        """The row of an execution with a URL of its own."""
        row = ("ws", WS, "event", "execution.completed", "at", self.now, "x", execution_id, "u", url)
        await self.store.call("XADD", keys.shard_key("outbox", SHARD), "*", *row)

    async def fan(self, name: str = "c1") -> list[str]:
        """The event ids of what was in the outbox."""
        rows = await self.outbox.rows(SHARD, 100_000)
        for row in rows:
            assert await self.outbox.fan(name, row, row.event.encode(), self.now)
        return [row.event_id for row in rows]

    async def told(self, event: str = "agent.created", ws: str = WS, count: int = 1) -> list[str]:
        await self.tell(event, ws, count)
        return await self.fan()

    async def take(self, room: int = 100, each: int = 8, name: str = "c1", **more: Any) -> list[Flight]:
        """failing, most (of one workspace), flying: without limit unless they are given."""
        places = Places(room, more.get("failing", room), each, more.get("most", 1000))
        flights = await self.outbox.take(SHARD, name, self.now, places, more.get("flying", {}))
        assert flights is not None
        return flights

    async def end(self, flight: Flight, verdict: Any = "delivered", **said: Any) -> list[Disabled]:
        good = verdict == "delivered"
        reason = "gone" if verdict == "gone" else "failing"
        outcome = Outcome(
            *(flight.workspace_id, flight.webhook_id, flight.event_id, verdict, self.now),
            duration_ms=5,
            status_code=200 if good else 503,
            error=None if good else "status",
            body="said",
            audit="" if good else disabled_entry(flight.webhook_id, reason, self.now),
        )
        disabled = await self.outbox.done(SHARD, "c1", [replace(outcome, **said)], self.now)
        assert disabled is not None
        return disabled

    async def deliveries(self, webhook_id: str, status: str | None = None, ws: str = WS) -> list[Any]:
        """As they are stored, newest first."""
        _, rows = await self.webhooks.deliveries(ws, webhook_id, status, PAGE)
        return [orjson.loads(row.text) | {"id": row.event_id, "due": row.next_attempt_at} for row in rows]

    async def kept(self) -> list[bytes]:
        """The messages that are kept."""
        found: list[bytes] = await self.store.call("KEYS", f"{keys.LAYOUT}:*:message:*")
        return found
