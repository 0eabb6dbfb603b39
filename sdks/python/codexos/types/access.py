from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from codexos.types._model import Model


@dataclass(frozen=True, kw_only=True)
class Workspace(Model):
    id: str
    name: str
    plan: str


@dataclass(frozen=True, kw_only=True)
class Me(Model):
    """Whose key it is: `user` and `key` as objects, with `id` among others."""

    user: dict[str, Any]
    workspace: Workspace
    key: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ApiKey(Model):
    """prefix: the part of the key that may be shown. agents, collections: the only ones it reaches; None: all."""

    id: str
    name: str
    prefix: str
    workspace_id: str
    created_by: str
    scopes: list[str]
    agents: list[str] | None
    collections: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class NewApiKey(ApiKey):
    """key: the secret, told this once."""

    key: str

    def __repr__(self) -> str:
        return f"NewApiKey(id={self.id!r}, name={self.name!r})"


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Model):
    """A model that a flow or collection may name. price: USD per million tokens."""

    id: str
    provider: str
    kind: Literal["chat", "embedding", "rerank"]
    ready: bool
    missing: str | None = None
    context_length: int | None = None
    dimensions: int | None = None
    price: dict[str, float] | None = None
