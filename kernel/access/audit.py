"""Who did what, when and from where: the audit log of each workspace. Entries are never changed and never deleted.

What changes something is recorded in the step that changes it: scripts take the ready text of an entry (`Trail.text`).
What was refused is recorded by itself (`Trail.note`).
"""

import csv
import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from kernel.access.principal import Principal
from kernel.clock import Clock, rfc3339
from kernel.errors import AuthorizationError
from kernel.ids import first_id_at, id_at
from kernel.paging import Page, PageQuery
from kernel.storage.audit import AuditStore
from kernel.text import cell

Outcome = Literal["ok", "refused"]
Format = Literal["jsonl", "csv"]
MEDIA: dict[Format, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
COLUMNS = (
    *("id", "created_at", "user_id", "key_id", "action"),
    *("target", "outcome", "request_id", "address", "details"),
)
MAX_DETAILS = 2048
"""Bytes of an entry's details as JSON."""
CHUNK = 500
"""Entries that an export reads at once."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from; empty for an act on the machine itself."""

    request_id: str = ""
    address: str = ""


LOCAL = Origin()


class AuditEntry(BaseModel):
    """`at` in ms. `target` is the id of what was acted on, `details` what was done to it: never a secret.

    Of details over `MAX_DETAILS` the parts that fit are kept, with `truncated`.
    """

    model_config = ConfigDict(frozen=True)

    at: int
    user_id: str | None
    key_id: str | None
    action: str
    target: str
    outcome: Outcome
    request_id: str
    address: str
    details: dict[str, Any]

    def text(self) -> str:
        """As it is stored, under a new id."""
        entry = self.model_dump() | {"details": _capped(self.details)}
        return f"{id_at('evt', self.at)} {orjson.dumps(entry).decode()}"


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filters combine with AND. `after` and `before` in ms: at or after the one, before the other."""

    action: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    after: int | None = None
    before: int | None = None

    @property
    def fields(self) -> dict[str, str]:
        named = {"action": self.action, "user_id": self.user_id, "key_id": self.key_id}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def low(self) -> str:
        return "-" if self.after is None else f"[{first_id_at('evt', self.after)}"

    @property
    def high(self) -> str:
        return "+" if self.before is None else f"({first_id_at('evt', self.before)}"

    def matches(self, entry: Mapping[str, Any]) -> bool:
        return all(entry[name] == value for name, value in self.fields.items())


class Trail:
    def __init__(self, store: AuditStore, clock: Clock):
        self._store, self._clock = store, clock

    def text(
        self,
        who: Principal,
        origin: Origin,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        outcome: Outcome = "ok",
    ) -> str:
        """An entry for the script that does it. action: such as `key.create`."""
        return AuditEntry(
            at=self._clock.now_ms(),
            user_id=who.user_id,
            key_id=who.key_id,
            action=action,
            target=target,
            outcome=outcome,
            request_id=origin.request_id,
            address=origin.address,
            details=dict(details or {}),
        ).text()

    async def note(
        self,
        who: Principal,
        origin: Origin,
        action: str,
        target: str,
        details: Mapping[str, Any] | None = None,
        outcome: Outcome = "ok",
    ) -> None:
        """Records in the caller's own workspace what no script records."""
        text = self.text(who, origin, action, target, details, outcome)
        await self._store.add(who.workspace_id, text)

    @asynccontextmanager
    async def watching(
        self, who: Principal, origin: Origin, action: str, target: str = ""
    ) -> AsyncGenerator[None]:
        """Records it when what is done inside is refused for want of a right."""
        try:
            yield
        except AuthorizationError as error:
            details = {"reason": error.message, **error.details}
            await self.note(who, origin, action, target, details, "refused")
            raise

    async def list(self, workspace_id: str, wanted: AuditFilter, query: PageQuery) -> Page[dict[str, Any]]:
        total, rows = await self._store.page(workspace_id, wanted.fields, wanted.low, wanted.high, query)
        items = [_shown(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def export(self, workspace_id: str, wanted: AuditFilter, kind: Format) -> AsyncGenerator[bytes]:
        """The file in parts, oldest entry first."""
        write = _csv if kind == "csv" else _lines
        low, part = wanted.low, _row(COLUMNS) if kind == "csv" else b""
        while rows := await self._store.oldest(workspace_id, low, wanted.high, CHUNK):
            low = f"({rows[-1].decode()}"
            part += write([entry for entry in map(_shown, rows) if wanted.matches(entry)])
            if part:
                yield part
                part = b""
        yield part


def _capped(details: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(details)) <= MAX_DETAILS:
        return details
    kept: dict[str, Any] = {"truncated": True}
    for name, value in details.items():
        if len(orjson.dumps(kept | {name: value})) <= MAX_DETAILS:
            kept[name] = value
    return kept


def _shown(row: bytes) -> dict[str, Any]:
    """As the API answers it, in the order of `COLUMNS`."""
    name, _, text = row.partition(b" ")
    entry = orjson.loads(text)
    known = {"id": name.decode(), "created_at": rfc3339(entry["at"])} | entry
    return {column: known[column] for column in COLUMNS}


def _lines(entries: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(entry) + b"\n" for entry in entries)


def _csv(entries: list[dict[str, Any]]) -> bytes:
    return b"".join(_row([_text(value) for value in entry.values()]) for entry in entries)


def _row(values: "list[str] | tuple[str, ...]") -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([cell(value) for value in values])
    return out.getvalue().encode()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
