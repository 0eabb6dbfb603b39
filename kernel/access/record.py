"""API keys as they are stored and as callers send and see them."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
)

from kernel.access.scopes import Scope
from kernel.access.secret import shown_prefix
from kernel.clock import epoch_ms, rfc3339
from kernel.ids import Prefix, is_id
from kernel.shape import Shape
from kernel.text import Name, refuse_null

MAX_IDS = 100
DAY_MS = 86_400_000


def _moment(value: object) -> object:
    if not isinstance(value, str | None):
        raise ValueError("must be a time such as 2024-01-15T10:00:00Z")
    return None if value is None else epoch_ms(value)


def _ids_of(kind: Prefix) -> AfterValidator:
    def check(ids: list[str] | None) -> list[str] | None:
        if ids is not None and not all(is_id(kind, name) for name in ids):
            raise ValueError(f"must be ids such as {kind}_…")
        return None if ids is None else sorted(set(ids))

    return AfterValidator(check)


def _in_order(scopes: list[Scope]) -> list[Scope]:
    return sorted(set(scopes))


Scopes = Annotated[
    list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=64), AfterValidator(_in_order)
]
AgentIds = Annotated[list[str] | None, Field(max_length=MAX_IDS), _ids_of("agent")]
CollectionIds = Annotated[list[str] | None, Field(max_length=MAX_IDS), _ids_of("col")]
Moment = Annotated[
    int | None,
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}),
]


class KeyCreate(Shape):
    """`agents` and `collections` limit the key to those; without `workspace_id` it is of the caller's own.

    `user_id` is the member it acts for, by default the caller.
    """

    name: Name
    scopes: Scopes
    workspace_id: str | None = None
    user_id: str | None = None
    expires_at: Moment = None
    agents: AgentIds = None
    collections: CollectionIds = None


class KeyPatch(Shape):
    name: Name | None = None
    scopes: Scopes | None = None
    expires_at: Moment = None
    agents: AgentIds = None
    collections: CollectionIds = None

    _not_null = field_validator("name", "scopes", mode="before")(refuse_null)


class KeyRotation(Shape):
    """`overlap_ms`: how long the old key goes on working beside its successor; 0 ends it at once."""

    overlap_ms: int = Field(DAY_MS, ge=0, le=7 * DAY_MS)


class ApiKey(Shape):
    """What is stored of a key beside its hash. Times in ms.

    It acts for `user_id`; `created_by` is who made it, None for the same. `delegated`: made by somebody else, or with
    a key that was. `makers`: other users who must be members, and whose roles bound it. `replaced_by` is the successor
    of a key that was rotated.
    """

    id: str
    workspace_id: str
    user_id: str
    created_by: str | None = None
    delegated: bool = False
    makers: list[str] = Field(default_factory=list)
    environment: str
    name: str
    scopes: Scopes
    created_at: int
    expires_at: int | None = None
    agents: list[str] | None = None
    collections: list[str] | None = None
    replaced_by: str | None = None

    def shown(self, used_ms: int = 0) -> dict[str, Any]:
        """As the API answers it. `used_ms` 0 is never."""
        return {
            "id": self.id,
            "name": self.name,
            "prefix": shown_prefix(self.environment, self.id),
            "workspace_id": self.workspace_id,
            "user_id": self.user_id,
            "created_by": self.created_by or self.user_id,
            "scopes": [str(scope) for scope in self.scopes],
            "agents": self.agents,
            "collections": self.collections,
            "created_at": rfc3339(self.created_at),
            "expires_at": rfc3339(self.expires_at) if self.expires_at is not None else None,
            "last_used_at": rfc3339(used_ms) if used_ms else None,
            "replaced_by": self.replaced_by,
        }
