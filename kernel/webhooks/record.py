"""Endpoints of webhooks and deliveries to them, as they are stored and as callers send and see them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from kernel.access.audit import AuditEntry
from kernel.clock import rfc3339, rfc3339_or_none
from kernel.shape import Shape, at_most
from kernel.storage.webhooks import StoredDelivery, StoredWebhook
from kernel.text import clean_text, refuse_null

Event = Literal[
    "*",
    "execution.started",
    "execution.completed",
    "execution.failed",
    "execution.cancelled",
    "execution.timed_out",
    "execution.waiting",
    "agent.created",
    "agent.updated",
    "agent.deleted",
    "agent.error",
    "ingestion.completed",
    "ingestion.failed",
    "batch.completed",
    "usage.threshold",
]
EVENTS: tuple[str, ...] = get_args(Event)
TEST_EVENT = "webhook.test"
MAX_EVENTS = 100
MAX_SECRET = 256
SECRET_PREFIX = "whsec_"
OVERLAP_MS = 86_400_000
"""How long a secret that was rotated out signs beside the new one."""


def secret_bytes(secret: str) -> bytes:
    """What signs: of `whsec_<base64>` what is encoded, of other text its UTF-8 bytes. Raises ValueError."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raw = b""
    if not raw:
        raise ValueError(f"must be base64 after {SECRET_PREFIX}")
    return raw


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(token_bytes(32)).decode()


@dataclass(frozen=True, slots=True)
class Secret:
    """text: as it was given or shown. until: ms, when it ends to be valid; None for the current one."""

    text: str
    until: int | None = None


def encode_secrets(secrets: Sequence[Secret]) -> bytes:
    """What is sealed, bound to (workspace, webhook, "secret")."""
    return orjson.dumps([{"secret": secret.text, "until": secret.until} for secret in secrets])


def valid_secrets(plain: bytes, now_ms: int) -> list[Secret]:
    """Those of `encode_secrets` that sign at this moment, the current one first: one or two."""
    known = [Secret(one["secret"], one["until"]) for one in orjson.loads(plain)]
    return [secret for secret in known if secret.until is None or now_ms < secret.until]


def _checked(secret: str) -> str:
    secret_bytes(secret)
    return secret


def _no_placeholder(url: str) -> str:
    if "{{" in url:
        raise ValueError("must not contain a placeholder")
    return url


def _once(events: list[str]) -> list[str]:
    """In the order of `EVENTS`; beside `*` no other says anything."""
    return ["*"] if "*" in events else sorted(set(events), key=EVENTS.index)


Url = Annotated[str, Field(min_length=1, max_length=8192), AfterValidator(_no_placeholder)]
Events = Annotated[
    list[Event],
    Field(min_length=1, json_schema_extra={"maxItems": MAX_EVENTS}),
    at_most(MAX_EVENTS),
    AfterValidator(_once),
]
SecretText = Annotated[str, Field(min_length=1, max_length=MAX_SECRET), AfterValidator(_checked)]
Description = Annotated[
    str,
    AfterValidator(lambda text: clean_text(text, 1000)),
    WithJsonSchema({"type": "string", "maxLength": 1000}),
]


class WebhookCreate(Shape):
    """`secret`: `whsec_<base64>`, or any other text; without one, one is made and shown once."""

    url: Url
    events: Events
    secret: SecretText | None = None
    description: Description | None = None
    enabled: bool = True


class WebhookPatch(Shape):
    """An absent field stays. The secret is changed by rotation."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None

    _not_null = field_validator("url", "events", "enabled", mode="before")(refuse_null)


class SecretRotation(Shape):
    """Without `secret`, one is made."""

    secret: SecretText | None = None


class Item(BaseModel):
    """What people set of an endpoint. Times in ms."""

    model_config = ConfigDict(frozen=True)

    url: str
    events: list[str]
    description: str | None
    created_by: str
    created_at: int
    updated_at: int

    def encode(self) -> bytes:
        return orjson.dumps(self.model_dump())

    def patched(self, patch: WebhookPatch) -> "Item":
        said = patch.model_dump(exclude_unset=True, exclude={"enabled"})
        return self.model_copy(update=said)


def status_of(stored: StoredWebhook) -> str:
    """enabled | failing (the last attempt did not succeed) | disabled."""
    if not stored.enabled:
        return "disabled"
    return "failing" if stored.failing_since else "enabled"


def shown(stored: StoredWebhook) -> dict[str, Any]:
    """As the API answers it; the secret never."""
    item = Item.model_validate_json(stored.item)
    last = orjson.loads(stored.last) if stored.last else None
    return {
        "id": stored.id,
        "url": item.url,
        "events": item.events,
        "description": item.description,
        "status": status_of(stored),
        "disabled_reason": stored.disabled_reason,
        "failing_since": rfc3339_or_none(stored.failing_since),
        "last_delivery": last and _last(last),
        "secret_rotated_at": rfc3339_or_none(stored.rotated_at),
        "created_by": item.created_by,
        "created_at": rfc3339(item.created_at),
        "updated_at": rfc3339(item.updated_at),
    }


def shown_delivery(stored: StoredDelivery) -> dict[str, Any]:
    """With all attempts that are kept, the oldest first; the answer's beginning of the last alone."""
    said = orjson.loads(stored.text)
    due = stored.next_attempt_at
    return {
        "id": stored.event_id,
        "event": said["event"],
        "status": said["status"],
        "created_at": rfc3339(said["created_at"]),
        "next_attempt_at": rfc3339_or_none(due),
        "attempts": [_attempt(attempt) for attempt in said.get("attempts", ())],
    }


def shown_undelivered(stored: StoredDelivery) -> dict[str, Any]:
    """One that was to go to the URL of an execution. Of the URL its host: the rest may hold a secret."""
    said = orjson.loads(stored.text)
    return {
        "id": stored.event_id,
        "execution_id": said["execution_id"],
        "host": urlsplit(said["url"]).hostname,
        "event": said["event"],
        "created_at": rfc3339(said["created_at"]),
        "attempts": [_attempt(attempt) for attempt in said.get("attempts", ())],
    }


def _attempt(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": rfc3339(said["at"]),
        "duration_ms": said["duration_ms"],
        "status_code": said["status_code"],
        "error": said["error"],
        "body": said.get("body"),
    }


def _last(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": said["id"],
        "event": said["event"],
        "at": rfc3339(said["at"]),
        "status_code": said["status_code"],
        "error": said["error"],
    }


def payload(event: str, at_ms: int, data: Any) -> bytes:
    """The body of an event: what receivers get, and what is signed."""
    return orjson.dumps({"event": event, "timestamp": rfc3339(at_ms), "data": data})


def disabled_entry(webhook_id: str, reason: Literal["failing", "gone"], at_ms: int) -> str:
    """The audit entry of an endpoint that the platform itself disabled."""
    return AuditEntry(
        at=at_ms,
        user_id=None,
        key_id=None,
        action="webhook.disable",
        target=webhook_id,
        outcome="ok",
        request_id="",
        address="",
        details={"reason": reason},
    ).text()
