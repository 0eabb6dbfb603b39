"""The webhooks of a workspace: made, changed, tested, deleted, their secrets rotated, and what was delivered."""

from collections.abc import Callable, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from kernel.access.act import Act
from kernel.access.audit import Trail
from kernel.clock import Clock, rfc3339_or_none
from kernel.errors import Conflict, NotFound, ValidationError
from kernel.ids import id_at, is_id, new_id
from kernel.paging import Page, PageQuery
from kernel.sealing import Envelope
from kernel.storage.webhooks import SIGNING, Message, Setting, StoredDelivery, StoredWebhook, WebhookStore
from kernel.webhooks.record import (
    OVERLAP_MS,
    TEST_EVENT,
    Item,
    Secret,
    SecretRotation,
    WebhookCreate,
    WebhookPatch,
    encode_secrets,
    new_secret,
    payload,
    shown,
    shown_delivery,
    shown_undelivered,
    valid_secrets,
)

Status = Literal["pending", "delivered", "dead"]
Show = Callable[[StoredDelivery], dict[str, Any]]
CheckUrl = Callable[[str], str | None]
"""Why a URL may not be used, or None: `Egress.check_url`."""


class Webhooks:
    """Raises NotFound for what another workspace has, AuthorizationError for a limited key."""

    def __init__(
        self, store: WebhookStore, envelope: Envelope, trail: Trail, check_url: CheckUrl, clock: Clock
    ):
        self._store, self._envelope, self._trail = store, envelope, trail
        self._check_url, self._clock = check_url, clock

    async def create(self, act: Act, order: WebhookCreate) -> dict[str, Any]:
        """As the API answers it, with its secret. Raises ValidationError, Conflict (100 there are), Unavailable."""
        ws, now = act.who.workspace_id, self._clock.now_ms()
        await self._allow(act, "create")
        self._check(order.url)
        webhook_id = act.before or new_id("wh")
        item = Item(
            url=order.url,
            events=list(order.events),
            description=order.description,
            created_by=act.who.user_id,
            created_at=now,
            updated_at=now,
        )
        sealed = await self._seal(ws, webhook_id, [Secret(order.secret or new_secret())])
        audit = self._entry(
            act, "create", webhook_id, {"host": urlsplit(item.url).hostname, "events": item.events}
        )
        new = Setting(item.encode(), item.events, order.enabled)
        await self._store.create(ws, webhook_id, new, sealed, act.record, audit)
        return await self._with_secret(ws, webhook_id)

    async def list(self, act: Act, query: PageQuery) -> Page[dict[str, Any]]:
        await self._allow(act, "list")
        total, rows = await self._store.page(act.who.workspace_id, query)
        items = [shown(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def get(self, act: Act, webhook_id: str) -> StoredWebhook:
        await self._allow(act, "get", webhook_id)
        return await self._read(act.who.workspace_id, webhook_id)

    async def patch(
        self, act: Act, webhook_id: str, patch: WebhookPatch, if_match: str | None
    ) -> StoredWebhook:
        """Raises ValidationError, Conflict when `if_match` is not its ETag."""
        ws = act.who.workspace_id
        await self._allow(act, "update", webhook_id)
        if patch.url is not None:
            self._check(patch.url)
        while True:
            was = await self._held(ws, webhook_id, if_match)
            old = Item.model_validate_json(was.item)
            item = old.patched(patch)
            enabled = was.enabled if patch.enabled is None else patch.enabled
            if (item, enabled) == (old, was.enabled):
                return was
            item = item.model_copy(update={"updated_at": self._clock.now_ms()})
            audit = self._entry(act, "update", webhook_id, {"changed": sorted(patch.model_fields_set)})
            if await self._store.update(ws, was, Setting(item.encode(), item.events, enabled), audit):
                return await self._read(ws, webhook_id)

    async def delete(self, act: Act, webhook_id: str, if_match: str | None) -> None:
        """With the log of its deliveries; what waits is not delivered. Raises Conflict."""
        await self._allow(act, "delete", webhook_id)
        while True:
            was = await self._held(act.who.workspace_id, webhook_id, if_match)
            audit = self._entry(act, "delete", webhook_id)
            if await self._store.delete(act.who.workspace_id, was, audit):
                return

    async def rotate(self, act: Act, webhook_id: str, order: SecretRotation) -> dict[str, Any]:
        """Another secret; the one before signs beside it for `OVERLAP_MS`. As the API answers it, with the secret."""
        await self._allow(act, "rotate_secret", webhook_id)
        await self._read(act.who.workspace_id, webhook_id)
        await self._rotate(act, webhook_id, order)
        return await self._with_secret(act.who.workspace_id, webhook_id)

    async def _rotate(self, act: Act, webhook_id: str, order: SecretRotation) -> None:
        ws, text = act.who.workspace_id, order.secret or new_secret()
        while act.before is None:
            was, now = await self._found(ws, webhook_id), self._clock.now_ms()
            current = (await self._secrets(ws, was))[0].text
            sealed = await self._seal(ws, webhook_id, [Secret(text), Secret(current, now + OVERLAP_MS)])
            audit = self._entry(act, "rotate_secret", webhook_id)
            if await self._store.rotate(ws, was, sealed, now, act.record, audit):
                return

    async def signing(self, act: Act) -> dict[str, Any]:
        """The workspace's own secret: signs what goes to URLs of executions, and is made when it is first asked for."""
        await self._allow(act, "read_secret", SIGNING)
        await self.make_signing(act.who.workspace_id)
        await self._trail.note(act.who, act.origin, "webhook.read_secret", SIGNING)
        return await self._signing(act.who.workspace_id)

    async def rotate_signing(self, act: Act, order: SecretRotation) -> dict[str, Any]:
        await self._allow(act, "rotate_secret", SIGNING)
        await self.make_signing(act.who.workspace_id)
        await self._rotate(act, SIGNING, order)
        return await self._signing(act.who.workspace_id)

    async def check_hook(self, ws: str, url: str) -> None:
        """To be called before an execution is accepted whose end goes to that URL. Raises ValidationError."""
        if problem := self._check_url(url):
            raise ValidationError.at("options.webhook_url", problem)
        await self.make_signing(ws)

    async def make_signing(self, ws: str) -> None:
        if await self._store.signing(ws) is None:
            await self._store.signing(ws, await self._seal(ws, SIGNING, [Secret(new_secret())]))

    async def test(self, act: Act, webhook_id: str) -> dict[str, Any]:
        """An event of its own for this endpoint: its delivery. Raises Conflict when it is disabled."""
        ws, now = act.who.workspace_id, self._clock.now_ms()
        await self._allow(act, "test", webhook_id)
        await self._read(ws, webhook_id)
        event_id = act.before or id_at("evt", now)
        message = Message(event_id, TEST_EVENT, payload(TEST_EVENT, now, {"webhook_id": webhook_id}))
        audit = self._entry(act, "test", webhook_id)
        await self._store.post(ws, webhook_id, message, now, act.record, audit)
        return shown_delivery(await self._store.delivery(ws, webhook_id, event_id))

    async def deliveries(
        self, act: Act, webhook_id: str, status: Status | None, query: PageQuery
    ) -> Page[dict[str, Any]]:
        """Newest first."""
        await self._allow(act, "deliveries", webhook_id)
        await self._read(act.who.workspace_id, webhook_id)
        return await self._deliveries(act, webhook_id, status, query, shown_delivery)

    async def undelivered(self, act: Act, query: PageQuery) -> Page[dict[str, Any]]:
        """Ends of executions that could not be told to their `webhook_url`: the newest 1,000, newest first."""
        await self._allow(act, "undelivered", SIGNING)
        return await self._deliveries(act, SIGNING, "dead", query, shown_undelivered)

    async def _deliveries(
        self, act: Act, webhook_id: str, status: Status | None, query: PageQuery, show: Show
    ) -> Page[dict[str, Any]]:
        total, rows = await self._store.deliveries(act.who.workspace_id, webhook_id, status, query)
        items = [show(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def redeliver(self, act: Act, webhook_id: str, event_id: str) -> dict[str, Any]:
        """The same body under the same id once more, now: its delivery. Raises Conflict while it is under way, when
        its body is not kept any more, and when the endpoint is disabled."""
        ws = act.who.workspace_id
        await self._allow(act, "redeliver", webhook_id)
        await self._read(ws, webhook_id)
        if not is_id("evt", event_id):
            raise NotFound("Delivery not found")
        if act.before is None:
            audit = self._entry(act, "redeliver", webhook_id, {"event_id": event_id})
            await self._store.redeliver(ws, webhook_id, event_id, self._clock.now_ms(), act.record, audit)
        return shown_delivery(await self._store.delivery(ws, webhook_id, event_id))

    async def _allow(self, act: Act, action: str, webhook_id: str = "") -> None:
        async with self._trail.watching(act.who, act.origin, f"webhook.{action}", webhook_id[:64]):
            act.who.require_unlimited()

    def _entry(self, act: Act, action: str, webhook_id: str, details: dict[str, Any] | None = None) -> str:
        return self._trail.text(act.who, act.origin, f"webhook.{action}", webhook_id, details)

    def _check(self, url: str) -> None:
        if problem := self._check_url(url):
            raise ValidationError.at("url", problem)

    async def _read(self, ws: str, webhook_id: str) -> StoredWebhook:
        if not is_id("wh", webhook_id):
            raise NotFound("Webhook not found")
        return await self._found(ws, webhook_id)

    async def _found(self, ws: str, webhook_id: str) -> StoredWebhook:
        stored = await self._store.read(ws, webhook_id)
        if stored is None:
            raise NotFound("Webhook not found")
        return stored

    async def _signing(self, ws: str) -> dict[str, Any]:
        stored = await self._found(ws, SIGNING)
        rotated = rfc3339_or_none(stored.rotated_at)
        return {"secret": (await self._secrets(ws, stored))[0].text, "secret_rotated_at": rotated}

    async def _held(self, ws: str, webhook_id: str, if_match: str | None) -> StoredWebhook:
        stored = await self._read(ws, webhook_id)
        if if_match is not None and stored.etag not in [_tag(tag) for tag in if_match.split(",")]:
            raise Conflict("The webhook has changed since it was read: read it again", {"etag": stored.etag})
        return stored

    async def _seal(self, ws: str, webhook_id: str, secrets: Sequence[Secret]) -> bytes:
        return await self._envelope.seal(encode_secrets(secrets), ws, webhook_id, "secret")

    async def _secrets(self, ws: str, stored: StoredWebhook) -> Sequence[Secret]:
        plain = await self._envelope.open(stored.sealed, ws, stored.id, "secret")
        return valid_secrets(plain, self._clock.now_ms())

    async def _with_secret(self, ws: str, webhook_id: str) -> dict[str, Any]:
        stored = await self._read(ws, webhook_id)
        return shown(stored) | {"secret": (await self._secrets(ws, stored))[0].text}


def _tag(text: str) -> str:
    return text.strip().removeprefix("W/")
