"""An agent as callers send it, as it is stored, and as they see it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, Field, field_validator

from kernel.agents.flow import Edges, Flow, Nodes, Part
from kernel.clock import rfc3339
from kernel.storage.agents import Draft, Mark, Stats, StoredAgent, StoredItem
from kernel.text import Name, clean_name, clean_text, refuse_null

FIRST_VERSION = "1.0.0"
VersionPart = Literal["minor", "patch"]
_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)


def _description(text: str) -> str:
    return clean_text(text, 4096)


def _tags(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(clean_name(tag, 64) for tag in tags))


Description = Annotated[str, AfterValidator(_description)]
Tags = Annotated[list[str], Field(max_length=20), AfterValidator(_tags)]


class AgentCreate(Part):
    """Body of `POST /agents`. `input_schema` is a JSON Schema for `input`."""

    name: Name
    description: Description = ""
    flow: Flow
    tags: Tags = Field(default_factory=list)
    input_schema: dict[str, Any] | None = None


class FlowPatch(Part):
    """Nodes or edges or both; the part that is absent stays."""

    nodes: Nodes | None = None
    edges: Edges | None = None

    _not_null = field_validator("nodes", "edges", mode="before")(refuse_null)


class AgentPatch(Part):
    """Body of `PATCH /agents/{id}`: an absent field stays; `input_schema: null` takes the schema away."""

    name: Name | None = None
    description: Description | None = None
    flow: FlowPatch | None = None
    tags: Tags | None = None
    input_schema: dict[str, Any] | None = None
    status: Literal["active", "inactive"] | None = None

    _not_null = field_validator("name", "description", "flow", "tags", "status", mode="before")(refuse_null)


class Content(Part):
    """What a version holds. `flow` is kept as the caller wrote it, once it has been checked."""

    name: str
    description: str
    flow: dict[str, Any]
    tags: list[str]
    input_schema: dict[str, Any] | None = None

    @classmethod
    def of(cls, order: AgentCreate) -> "Content":
        given = {name: getattr(order, name) for name in ("name", "description", "tags", "input_schema")}
        return cls(flow=written(order.flow), **given)

    def patched(self, patch: AgentPatch) -> "Content":
        names = patch.model_fields_set - {"status", "flow"}
        changes: dict[str, Any] = {name: getattr(patch, name) for name in names}
        if patch.flow is not None:
            changes["flow"] = self.flow | patch.flow.model_dump(mode="json", exclude_unset=True)
        return self.model_copy(update=changes)


class Document(Content):
    """One version of an agent: it never changes. Times in ms."""

    version: str
    author: str
    made_at: int
    born_at: int
    """When the agent was created."""

    @property
    def content(self) -> Content:
        return Content.model_construct(**{name: getattr(self, name) for name in Content.model_fields})

    def shown(self, agent_id: str) -> dict[str, Any]:
        """The reference's fields, and `input_schema` when there is one."""
        schema = {} if self.input_schema is None else {"input_schema": self.input_schema}
        return {
            "id": agent_id,
            "name": self.name,
            "description": self.description,
            "flow": self.flow,
            "metadata": {"version": self.version, "tags": self.tags, "author": self.author},
            **schema,
        }

    def draft(self, agent_id: str, was: "Document | None", now_ms: int) -> Draft:
        """What to store of it; only the item when `was` is the same version."""
        item = orjson.dumps(self._item(agent_id, now_ms))
        if was is not None and was.version == self.version:
            return Draft(self.version, item)
        history = {"version": self.version, "created_at": rfc3339(self.made_at), "author": self.author}
        return Draft(self.version, item, orjson.dumps(self.model_dump()), orjson.dumps(history))

    def _item(self, agent_id: str, now_ms: int) -> dict[str, Any]:
        return {
            "id": agent_id,
            "name": self.name,
            "description": self.description,
            "created_at": rfc3339(self.born_at),
            "updated_at": rfc3339(now_ms),
            "version": self.version,
            "tags": self.tags,
        }


@dataclass(frozen=True, slots=True)
class CurrentAgent:
    """What a start of an execution needs to know."""

    id: str
    name: str
    version: str
    status: str
    input_schema: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent as it was read."""

    id: str
    listed: StoredItem
    revision: int
    document: Document

    @classmethod
    def of(cls, agent_id: str, stored: StoredAgent) -> "AgentRecord":
        document = Document.model_construct(**orjson.loads(stored.document))
        return cls(agent_id, stored.listed, stored.revision, document)

    @property
    def status(self) -> str:
        return self.listed.status

    @property
    def mark(self) -> Mark:
        return Mark(self.revision, self.status)

    @property
    def etag(self) -> str:
        """With its quotes: what people change and the status, then what executions change."""
        stats = self.listed.stats
        return f'{self._state}-{stats.executions}.{stats.completed}.{stats.failed}.{stats.timed_out}"'

    @property
    def _state(self) -> str:
        return f'"{self.document.version}-{self.revision}-{self.status}'

    def matches(self, if_match: str | None) -> bool:
        """Whether an `If-Match` header lets a change through; executions since do not stand in its way."""
        if if_match is None or if_match.strip() == "*":
            return True
        tags = [tag.strip() for tag in if_match.split(",")]
        return self._state in [tag.rpartition("-")[0] for tag in tags if tag.endswith('"')]

    def after(self, document: Document, status: str, item: bytes) -> "AgentRecord":
        """What it is once that is stored."""
        listed = replace(self.listed, status=status, item=item)
        return AgentRecord(self.id, listed, self.revision + 1, document)

    def shown(self) -> dict[str, Any]:
        """The body of `GET /agents/{id}`."""
        return self.document.shown(self.id) | shown_item(self.listed)


def shown_item(stored: StoredItem) -> dict[str, Any]:
    """An item of `GET /agents`."""
    item = orjson.loads(stored.item)
    return {
        "id": item["id"],
        "name": item["name"],
        "description": item["description"],
        "status": stored.status,
        "created_at": item["created_at"],
        "updated_at": item["updated_at"],
        "execution_count": stored.stats.executions,
        "success_rate": success_rate(stored.stats),
        "version": item["version"],
        "tags": item["tags"],
    }


def success_rate(stats: Stats) -> float | None:
    """Completed of all that ended by themselves; None before the first."""
    ended = stats.completed + stats.failed + stats.timed_out
    return stats.completed / ended if ended else None


def written(flow: Flow) -> dict[str, Any]:
    """A flow as its author wrote it: nothing filled in but the two lists."""
    return {"nodes": [], "edges": []} | flow.model_dump(mode="json", exclude_unset=True)


def is_version(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None


def next_version(version: str, part: VersionPart) -> str:
    major, minor, patch = map(int, version.split("."))
    return f"{major}.{minor + 1}.0" if part == "minor" else f"{major}.{minor}.{patch + 1}"


def versions_shown(rows: Sequence[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(row) for row in rows]
