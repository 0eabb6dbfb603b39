"""The agents of a workspace: made, found, changed, taken back to an earlier version, deleted.

Every change of what an agent is makes a version, which never changes: a new flow is a minor one, anything
else a patch. Changes are made against what was read; who comes second reads again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from kernel.agents.flow import Flow
from kernel.agents.json_schema import json_schema_problems
from kernel.agents.judge import Judgement
from kernel.agents.record import (
    FIRST_VERSION,
    AgentCreate,
    AgentPatch,
    AgentRecord,
    Content,
    CurrentAgent,
    Document,
    VersionPart,
    is_version,
    next_version,
    shown_item,
    versions_shown,
)
from kernel.agents.schema import schema_problems
from kernel.agents.search import AgentFilter, places_of
from kernel.agents.secrets import mentions_secrets
from kernel.clock import Clock, rfc3339
from kernel.errors import Conflict, NotFound, PayloadTooLarge, Problem, ValidationError
from kernel.ids import is_id, new_id
from kernel.paging import Page, PageQuery
from kernel.storage.agents import AgentStore, Draft, Move, Place
from kernel.storage.store import Store

UseSecrets = Callable[[], None]
"""Called when a flow uses secrets; raises AuthorizationError where its author may not."""

Validate = Callable[[str, Flow, Mapping[str, Any] | None], Awaitable[Judgement]]

INVALID = "Invalid agent configuration"


def anybody() -> None:
    """For authors who may use secrets anyway."""


LARGEST_BYTES = 8_000_000


class Agents:
    """`validate` judges a flow of a workspace, given the input schema or None."""

    def __init__(self, store: Store, clock: Clock, validate: Validate):
        self._store, self._clock, self._validate = AgentStore(store), clock, validate

    async def create(
        self,
        ws: str,
        author: str,
        order: AgentCreate,
        *,
        agent_id: str | None = None,
        idempotency_record: str = "",
        use_secrets: UseSecrets = anybody,
    ) -> AgentRecord:
        """agent_id: what an earlier, lost try had made. Raises ValidationError, PayloadTooLarge."""
        content = Content.of(order)
        credentials = await self._check(ws, content, use_secrets)
        name, now = agent_id or new_id("agent"), self._clock.now_ms()
        document = Document(**dict(content), version=FIRST_VERSION, author=author, made_at=now, born_at=now)
        draft = _draft(name, document, None, now, credentials)
        await self._store.create(ws, name, draft, _places(document), idempotency_record)
        return await self.get(ws, name)

    async def get(self, ws: str, agent_id: str) -> AgentRecord:
        """Raises NotFound, also for another workspace's."""
        stored = await self._store.read(ws, agent_id) if is_id("agent", agent_id) else None
        if stored is None:
            raise NotFound("Agent not found")
        return AgentRecord.of(agent_id, stored)

    async def list(self, ws: str, wanted: AgentFilter, query: PageQuery) -> Page[dict[str, Any]]:
        total, rows = await self._store.page(ws, wanted.places(), wanted.only, query)
        items = [shown_item(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def patch(
        self,
        ws: str,
        agent_id: str,
        patch: AgentPatch,
        author: str,
        if_match: str | None = None,
        use_secrets: UseSecrets = anybody,
    ) -> AgentRecord:
        """Raises NotFound, ValidationError, Conflict when `if_match` is not the agent's ETag."""
        while True:
            record = await self._fetch(ws, agent_id, if_match)
            was = record.document
            content = was.content.patched(patch)
            credentials = None
            if content == was.content:
                document, status = was, patch.status or record.status
            else:
                may = anybody if content.flow == was.content.flow else use_secrets
                credentials = await self._check(ws, content, may)
                document = self._next(was, content, author)
                status = patch.status or _cured(record.status)
            if document is was and status == record.status:
                return record
            if changed := await self._store_change(ws, record, document, status, credentials):
                return changed

    async def rollback(
        self,
        ws: str,
        agent_id: str,
        version: str,
        author: str,
        if_match: str | None = None,
        use_secrets: UseSecrets = anybody,
    ) -> AgentRecord:
        """A new version with the flow and input schema of an earlier one; the rest stays."""
        earlier = await self._read_version(ws, agent_id, version)
        while True:
            record = await self._fetch(ws, agent_id, if_match)
            if earlier is None:
                raise ValidationError.at("version", f"The agent has no version {version}")
            update = {"flow": earlier.flow, "input_schema": earlier.input_schema}
            content = record.document.content.model_copy(update=update)
            credentials = await self._check(ws, content, use_secrets)
            document = self._next(record.document, content, author, always_minor=True)
            status = _cured(record.status)
            if changed := await self._store_change(ws, record, document, status, credentials):
                return changed

    async def delete(self, ws: str, agent_id: str, if_match: str | None = None) -> None:
        while True:
            record = await self._fetch(ws, agent_id, if_match)
            if await self._store.delete(ws, agent_id, record.mark, _places(record.document)):
                return

    async def validate(self, ws: str, body: Any, use_secrets: UseSecrets = anybody) -> Sequence[Problem]:
        """Everything wrong with a body for `create`; nothing is stored."""
        problems = schema_problems(AgentCreate, body)
        unread = {problem.field.split(".")[0] for problem in problems} & {"", "flow", "input_schema"}
        if unread or not isinstance(body, dict):
            return problems
        flow, schema = Flow.model_validate(body["flow"]), body.get("input_schema")
        judged = await self._meaning(ws, flow, schema, use_secrets)
        return [*problems, *judged.problems]

    async def versions(self, ws: str, agent_id: str, query: PageQuery) -> Page[dict[str, Any]]:
        """`{version, created_at, author}`, newest first, by page number."""
        total, rows = await self._store.history(ws, agent_id, query) if is_id("agent", agent_id) else (0, [])
        if not total:
            raise NotFound("Agent not found")
        return Page(versions_shown(rows), total, None, query.offset + len(rows) < total)

    async def version(self, ws: str, agent_id: str, version: str) -> dict[str, Any]:
        """The agent as it was at that version. Raises NotFound."""
        document = await self._read_version(ws, agent_id, version)
        if document is None or not await self._store.exists(ws, agent_id):
            raise NotFound("Version not found")
        return document.shown(agent_id) | {"created_at": rfc3339(document.made_at)}

    async def current(self, ws: str, agent_id: str) -> CurrentAgent:
        """Raises NotFound."""
        record = await self.get(ws, agent_id)
        was = record.document
        return CurrentAgent(agent_id, was.name, was.version, record.status, was.input_schema)

    async def flow(self, ws: str, agent_id: str, version: str) -> dict[str, Any]:
        """Of a version that an execution holds, though the agent may be deleted since. Raises NotFound."""
        document = await self._read_version(ws, agent_id, version)
        if document is None:
            raise NotFound("Version not found")
        return document.flow

    async def _fetch(self, ws: str, agent_id: str, if_match: str | None) -> AgentRecord:
        record = await self.get(ws, agent_id)
        if not record.matches(if_match):
            raise Conflict("The agent has changed since it was read: read it again", {"etag": record.etag})
        return record

    async def _read_version(self, ws: str, agent_id: str, version: str) -> Document | None:
        if not is_id("agent", agent_id) or not is_version(version):
            return None
        stored = await self._store.version(ws, agent_id, version)
        return None if stored is None else Document.model_construct(**orjson.loads(stored))

    def _next(self, was: Document, content: Content, author: str, always_minor: bool = False) -> Document:
        """The version that follows."""
        part: VersionPart = "minor" if always_minor or content.flow != was.flow else "patch"
        return Document(
            **dict(content),
            version=next_version(was.version, part),
            author=author,
            made_at=self._clock.now_ms(),
            born_at=was.born_at,
        )

    async def _store_change(
        self,
        ws: str,
        record: AgentRecord,
        document: Document,
        status: str,
        credentials: frozenset[str] | None,
    ) -> AgentRecord | None:
        """None when someone else was faster. credentials: None leaves them as they are."""
        draft = _draft(record.id, document, record.document, self._clock.now_ms(), credentials)
        before, after = set(_places(record.document)), set(_places(document))
        move = Move(sorted(before - after), sorted(after - before))
        if not await self._store.update(ws, record.id, record.mark, status, draft, move):
            return None
        return record.after(document, status, draft.item)

    async def _check(self, ws: str, content: Content, use_secrets: UseSecrets) -> frozenset[str]:
        """The credentials it uses. Raises ValidationError."""
        flow = Flow.model_validate(content.flow)
        judged = await self._meaning(ws, flow, content.input_schema, use_secrets)
        if judged.problems:
            raise ValidationError.of(INVALID, judged.problems)
        return judged.credentials

    async def _meaning(
        self, ws: str, flow: Flow, schema: dict[str, Any] | None, use_secrets: UseSecrets
    ) -> Judgement:
        """The schema is looked at in a thread: a large one takes long."""
        if mentions_secrets(flow):
            use_secrets()
        wrong: list[Problem] = []
        if schema is not None:
            wrong = await asyncio.to_thread(json_schema_problems, schema, "input_schema")
        judged = await self._validate(ws, flow, None if wrong else schema)
        return replace(judged, problems=judged.problems + wrong)


def _draft(
    agent_id: str,
    document: Document,
    was: Document | None,
    now_ms: int,
    credentials: frozenset[str] | None,
) -> Draft:
    """Raises PayloadTooLarge."""
    draft = replace(document.draft(agent_id, was, now_ms), credentials=credentials)
    if len(draft.document) > LARGEST_BYTES:
        raise PayloadTooLarge(
            f"The agent is larger than {LARGEST_BYTES / 1e6:g} MB", {"limit_bytes": LARGEST_BYTES}
        )
    return draft


def _cured(status: str) -> str:
    """A new version takes an agent out of `error`."""
    return "active" if status == "error" else status


def _places(document: Document) -> list[Place]:
    return places_of(document.name, document.description, document.tags)
