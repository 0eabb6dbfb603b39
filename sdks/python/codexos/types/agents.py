from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from codexos.types._model import Model

AgentStatus = Literal["active", "inactive", "error"]


@dataclass(frozen=True, kw_only=True)
class AgentItem(Model):
    """An agent as lists show it. success_rate: 0 to 1, None before the first end."""

    id: str
    name: str
    description: str
    status: AgentStatus
    version: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    execution_count: int
    success_rate: float | None


@dataclass(frozen=True, kw_only=True)
class AgentMetadata(Model):
    version: str
    tags: list[str]
    author: str


@dataclass(frozen=True, kw_only=True)
class Agent(AgentItem):
    """flow: its nodes and edges, as they were written."""

    flow: dict[str, Any]
    metadata: AgentMetadata
    input_schema: dict[str, Any] | None = None
