"""The endpoints of webhooks in Redis, and the log of deliveries to each.

Stored: `webhook` (hash): item (JSON: what people set), revision (grows with each change but those of deliveries),
events (between spaces, for scripts), sealed (its secrets), state (enabled or disabled), disabled_reason, failing_since
(ms, since when no attempt has succeeded), paused_until (ms, while it gets nothing after a failure), last (the newest
attempt, JSON), rotated_at (ms); `webhooks`; `webhook_events`, which events anybody wants. A delivery is one event for
one endpoint, in `webhook_log`, `webhook_log_by` its status, and `webhook_deliveries`; of those that ended alike the
newest 1,000 are kept. How they are made and end, and how many there may be: `outbox.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernel.errors import Conflict, NotFound
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.idempotency import superseded
from kernel.storage.outbox import MAX_PENDING
from kernel.storage.store import Store

MAX_WEBHOOKS = 100
SIGNING = "signing"
"""In place of an id: the record of the workspace's own secrets, and the endpoint that all URLs of executions are."""

REFUSALS = {
    b"full": "The endpoint or its workspace has too many deliveries waiting",
    b"disabled": "The endpoint is disabled: enable it first",
    b"pending": "The delivery is under way already",
    b"expired": "The event's body is not kept any more",
}


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """Times in ms. item and last are JSON; last is empty when there was no attempt yet."""

    id: str
    item: bytes
    revision: int
    sealed: bytes
    enabled: bool
    disabled_reason: str | None
    failing_since: int | None
    last: bytes
    rotated_at: int | None

    @property
    def etag(self) -> str:
        """With its quotes: of what people change; deliveries do not stand in their way."""
        return f'"{self.revision}"'


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """text: JSON. next_attempt_at: ms, for one that waits."""

    event_id: str
    text: bytes
    next_attempt_at: int | None


@dataclass(frozen=True, slots=True)
class Message:
    """An event for one endpoint alone. body: as it is sent."""

    event_id: str
    event: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Setting:
    """What an endpoint becomes. item: JSON."""

    item: bytes
    events: Sequence[str]
    enabled: bool

    def arguments(self) -> tuple[bytes, str]:
        return self.item, " ".join(self.events)


class WebhookStore:
    """Every change takes its audit entry along."""

    def __init__(self, store: Store):
        self._store = store

    async def create(
        self, ws: str, webhook_id: str, new: Setting, sealed: bytes, idempotency_record: str, audit: str
    ) -> None:
        """Does nothing when it is there already. Raises Conflict when there are too many."""
        args = (ws, webhook_id, *new.arguments(), sealed, int(new.enabled), MAX_WEBHOOKS, idempotency_record)
        state = await self._store.run("webhook_create", ws, *args, audit)
        if state == b"superseded":
            raise superseded()
        if state == b"full":
            details = {"reason": "too_many", "max": MAX_WEBHOOKS}
            raise Conflict(f"A workspace has at most {MAX_WEBHOOKS} webhooks", details)

    async def read(self, ws: str, webhook_id: str) -> StoredWebhook | None:
        row = await self._store.run("webhook_read", ws, ws, webhook_id)
        return _stored(webhook_id, row) if row else None

    async def page(self, ws: str, query: PageQuery) -> tuple[int, list[StoredWebhook]]:
        """Total, then one more than the page holds, if there are. Newest first."""
        args = (ws, query.before or "", query.offset, query.limit)
        total, *rows = await self._store.run("webhook_page", ws, *args)
        return total, [_stored(row[0].decode(), row[1:]) for row in rows]

    async def update(self, ws: str, was: StoredWebhook, new: Setting, audit: str) -> bool:
        """False when it is not as it was read."""
        args = (ws, was.id, was.revision, *new.arguments(), int(new.enabled), audit)
        return bool(await self._store.run("webhook_update", ws, *args))

    async def rotate(
        self, ws: str, was: StoredWebhook, sealed: bytes, now: int, idempotency_record: str, audit: str
    ) -> bool:
        """Other secrets. False when it is not as it was read."""
        args = (ws, was.id, was.revision, sealed, now, idempotency_record, audit)
        state = await self._store.run("webhook_rotate", ws, *args)
        if state == b"superseded":
            raise superseded()
        return bool(state)

    async def signing(self, ws: str, sealed: bytes = b"") -> bytes | None:
        """What signs for URLs of executions, sealed; `sealed` when there was nothing."""
        found: bytes | None = await self._store.run("webhook_signing", ws, ws, sealed)
        return found

    async def delete(self, ws: str, was: StoredWebhook, audit: str) -> bool:
        """With all its deliveries. False when it is not as it was read."""
        return bool(await self._store.run("webhook_delete", ws, ws, was.id, was.revision, audit))

    async def post(
        self, ws: str, webhook_id: str, message: Message, now: int, idempotency_record: str, audit: str
    ) -> None:
        """Makes a delivery of it, due now. Raises NotFound, Conflict (disabled, too many wait)."""
        args = (ws, webhook_id, message.event_id, message.event, message.body, now, MAX_PENDING)
        _check(await self._store.run("webhook_post", ws, *args, idempotency_record, audit))

    async def redeliver(
        self, ws: str, webhook_id: str, event_id: str, now: int, idempotency_record: str, audit: str
    ) -> None:
        """Makes a delivery that ended due again. Raises NotFound, Conflict."""
        args = (ws, webhook_id, event_id, now, MAX_PENDING, idempotency_record, audit)
        _check(await self._store.run("webhook_redeliver", ws, *args))

    async def deliveries(
        self, ws: str, webhook_id: str, status: str | None, query: PageQuery
    ) -> tuple[int, list[StoredDelivery]]:
        """Total, then one more than the page holds, if there are. Newest first. Raises NotFound, not for `SIGNING`."""
        args = (ws, webhook_id, status or "", query.before or "", query.offset, query.limit)
        answer = await self._store.run("webhook_deliveries", ws, *args)
        if answer is None:
            raise _missing(b"gone")
        total, *rows = answer
        return total, [_delivery(*row) for row in rows]

    async def delivery(self, ws: str, webhook_id: str, event_id: str) -> StoredDelivery:
        """Raises NotFound."""
        text, due = await self._store.together(
            ("HGET", keys.key("webhook_deliveries", ws, id=webhook_id), event_id),
            ("ZSCORE", keys.key("webhook_queue", ws, id=webhook_id), event_id),
        )
        if text is None:
            raise _missing(b"unknown")
        return _delivery(event_id.encode(), text, due)


def _stored(webhook_id: str, row: Sequence[Any]) -> StoredWebhook:
    item, revision, sealed, state, reason, failing, last, rotated = row
    return StoredWebhook(
        id=webhook_id,
        item=item,
        revision=int(revision),
        sealed=sealed,
        enabled=state == b"enabled",
        disabled_reason=reason and reason.decode(),
        failing_since=_ms(failing),
        last=last or b"",
        rotated_at=_ms(rotated),
    )


def _delivery(event_id: bytes, text: bytes, due: Any = None) -> StoredDelivery:
    return StoredDelivery(event_id.decode(), text, _ms(due))


def _ms(value: Any) -> int | None:
    return None if value is None else int(float(value))


def _check(state: bytes) -> None:
    if state in REFUSALS:
        raise Conflict(REFUSALS[state], {"reason": state.decode()})
    if state == b"superseded":
        raise superseded()
    if state in (b"gone", b"unknown"):
        raise _missing(state)


def _missing(state: bytes) -> NotFound:
    return NotFound("Webhook not found" if state == b"gone" else "Delivery not found")
