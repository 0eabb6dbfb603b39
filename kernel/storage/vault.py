"""Credentials and vault tokens in Redis.

Stored: `credential` (hash): item (JSON: all that is said of it), revision (grows with each change but renewals),
version (grows with each new value), sealed (the present value, bound to workspace, id and version); `credentials`,
`credentials_by`, `credential_names`; `credential_users` and `credentials_used`, who uses what; `sealed`, of a whole
shard. `vault_token` (hash): what a token opens, by its keyed hash alone. `vault_wrong` (hash): a key's wrong tokens.
All that happens here is in the audit log, where `vault` and `credential` are fields to look by.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kernel.errors import Conflict
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.idempotency import superseded
from kernel.storage.store import Store
from kernel.storage.wire import Argument

MAX_CREDENTIALS = 10_000
"""Of a workspace."""
MAX_WRONG = 5
LOCKED_MS = 900_000
TOKENS_STAY_MS = 3_600_000
"""After its end a token is still known, so that it is told from a guess."""
REFRESH_MS = 30_000

Place = tuple[str, str]
"""A set that a credential is in: field (type, tag or environment) and value."""
Users = list[str]
"""As `<kind> <id>`."""
Changed = Literal["ok", "moved"]


@dataclass(frozen=True, slots=True)
class Listed:
    """item: JSON."""

    id: str
    item: bytes
    revision: int
    version: int

    @property
    def etag(self) -> str:
        """With its quotes."""
        return f'"{self.revision}"'


@dataclass(frozen=True, slots=True)
class StoredCredential(Listed):
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """What a credential is to become. item: JSON."""

    name: str
    item: bytes
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class NewToken:
    """until: ms. uses: None for any number. key: the API key it is bound to. credentials: None for all."""

    id: str
    hash: bytes
    until: int
    uses: int | None
    key: str | None
    credentials: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to read a value. token: the id it claims, None for what is no token; hash: of all that was sent.

    allowed and refused: audit entries; the latter's details end with a reason, `?`.
    """

    key: str
    token: str | None
    hash: bytes
    allowed: str
    refused: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """reason: as `vault_reveal.lua` has them. left_ms: of a lock-out."""

    reason: str
    left_ms: int = 0


class VaultStore:
    """Every change takes its audit entry along."""

    def __init__(self, store: Store):
        self._store = store

    async def create(
        self, ws: str, credential_id: str, new: Draft, sealed: bytes, audit: str, idempotency_record: str = ""
    ) -> None:
        """Does nothing when it is there already. Raises Conflict: the name is taken in any case, there are too many."""
        args = (ws, credential_id, new.name.lower(), new.item, sealed, MAX_CREDENTIALS, idempotency_record)
        state = await self._store.run("vault_create", ws, *args, audit, *_flat(new.places))
        _check(state)
        if state == b"full":
            details = {"reason": "too_many", "max": MAX_CREDENTIALS}
            raise Conflict(f"A workspace has at most {MAX_CREDENTIALS} credentials", details)

    async def read(self, ws: str, credential_id: str) -> StoredCredential | None:
        row = await self._read(ws, credential_id, "item", "revision", "version", "sealed")
        return StoredCredential(credential_id, row[0], int(row[1]), int(row[2]), row[3]) if row[0] else None

    async def listed(self, ws: str, credential_id: str) -> Listed | None:
        """Without its value."""
        row = await self._read(ws, credential_id, "item", "revision", "version")
        return Listed(credential_id, row[0], int(row[1]), int(row[2])) if row[0] else None

    async def page(
        self, ws: str, search: str, places: Sequence[Place], query: PageQuery
    ) -> tuple[int, list[Listed]]:
        """Total, then one more than the page holds, if there are. Newest first. search: a part of the name."""
        args = (ws, query.before or "", query.offset, query.limit, search.lower(), *_flat(places))
        total, *rows = await self._store.run("vault_page", ws, *args)
        return total, [Listed(row[0].decode(), row[1], int(row[2]), int(row[3])) for row in rows]

    async def known(
        self, ws: str, names: Collection[str], ids: Collection[str]
    ) -> tuple[dict[str, str], frozenset[str]]:
        """Of names in lower case, and of ids, those that are there: ids by name, and ids."""
        asks: list[tuple[Argument, ...]] = [("EXISTS", keys.key("credential", ws, id=one)) for one in ids]
        if names:
            asks.append(("HMGET", keys.key("credential_names", ws), *names))
        answers = await self._store.together(*asks)
        named = zip(names, answers[-1], strict=True) if names else ()
        there = frozenset(one for one, is_there in zip(ids, answers, strict=False) if is_there)
        return {name: found.decode() for name, found in named if found}, there

    async def id_of(self, ws: str, name: str) -> str | None:
        """By its name, in any case."""
        found = await self._store.call("HGET", keys.key("credential_names", ws), name.lower())
        return found.decode() if found else None

    async def of_provider(self, ws: str, provider: str, environment: str) -> StoredCredential | None:
        """Named or tagged like the provider, in any case."""
        row = await self._store.run("vault_of_provider", ws, ws, provider.lower(), environment)
        return StoredCredential(row[0].decode(), row[1], int(row[2]), int(row[3]), row[4]) if row else None

    async def users(self, ws: str, credential_id: str) -> Users:
        return _users(await self._store.call("SMEMBERS", keys.key("credential_users", ws, id=credential_id)))

    async def update(self, ws: str, was: Listed, before: Draft, after: Draft, audit: str) -> Changed | Users:
        """moved: it is not as it was read. Its users, when it cannot be renamed for them. Raises Conflict (name)."""
        leaves = [place for place in before.places if place not in after.places]
        joins = [place for place in after.places if place not in before.places]
        read = f"{was.revision} {was.version}"
        args = (was.id, read, before.name.lower(), after.name.lower(), after.item, audit)
        places = (len(leaves), *_flat(leaves), *_flat(joins))
        return _changed(await self._store.run("vault_update", ws, ws, *args, *places))

    async def put_version(
        self,
        ws: str,
        was: Listed,
        item: bytes,
        sealed: bytes,
        audit: str,
        idempotency_record: str = "",
    ) -> bool:
        """A value sealed for the next version. False when the credential is not as it was read.

        audit: empty for a renewal, which leaves the revision.
        """
        args = (ws, was.id, was.version, was.revision, item, sealed, idempotency_record, audit)
        state = await self._store.run("vault_version", ws, *args)
        _check(state)
        return bool(state == b"ok")

    async def delete(self, ws: str, was: Listed, state: Draft, force: bool, audit: str) -> Changed | Users:
        """moved: it is not as it was read. Its users, when there are some and it is not forced."""
        args = (ws, was.id, was.revision, state.name.lower(), int(force), audit, *_flat(state.places))
        return _changed(await self._store.run("vault_delete", ws, *args))

    async def reveal(
        self, ws: str, credential_id: str | None, attempt: Attempt, now: int
    ) -> StoredCredential | Refusal:
        """Judges, counts and notes it, in one step. credential_id: None for what is no id."""
        args = (ws, credential_id or "", now, attempt.key, attempt.token or "", attempt.hash)
        texts = (attempt.allowed, attempt.refused, MAX_WRONG, LOCKED_MS)
        state, *row = await self._store.run("vault_reveal", ws, *args, *texts)
        if state != b"ok":
            return Refusal(state.decode(), int(row[0]) if row and row[0] is not None else 0)
        return StoredCredential(credential_id or "", row[0], int(row[1]), int(row[2]), row[3])

    async def mint(
        self, ws: str, token: NewToken, now: int, lost: str | None, audit: str, idempotency_record: str
    ) -> int | Literal["ok", "key"]:
        """The number, from 1, of the first credential that is not there, `key` for an API key that is not.

        lost: a token to end.
        """
        args = (token.id, token.hash, token.until, "" if token.uses is None else token.uses, token.key or "")
        credentials = " ".join(token.credentials or ())
        kept = token.until - now + TOKENS_STAY_MS
        rest = (credentials, kept, lost or "", idempotency_record, audit)
        state = await self._store.run("vault_mint", ws, ws, *args, *rest)
        if isinstance(state, int):
            return state
        _check(state)
        return "key" if state == b"key" else "ok"

    async def note(self, ws: str, credential_id: str | None, entry: str) -> None:
        """Records what was tried, and what no script records."""
        await self._store.run("vault_note", ws, ws, credential_id or "", entry)

    async def note_use(self, ws: str, credential_id: str, user: str, entry: str) -> None:
        """Records that it is used by that user; once an hour."""
        await self._store.run("vault_use", ws, ws, credential_id, user, entry)

    async def begin_refresh(self, ws: str, credential_id: str, owner: str) -> bool:
        """Whether it is this one's turn, for 30 s, to ask for the next access token."""
        name = keys.key("refreshing", ws, id=credential_id)
        return await self._store.call("SET", name, owner, "NX", "PX", REFRESH_MS) is not None

    async def end_refresh(self, ws: str, credential_id: str, owner: str) -> None:
        await self._store.run("vault_refreshed", ws, ws, credential_id, owner)

    async def _read(self, ws: str, credential_id: str, *fields: str) -> list[Any]:
        row: list[Any] = await self._store.call(
            "HMGET", keys.key("credential", ws, id=credential_id), *fields
        )
        return row


def _flat(places: Sequence[Place]) -> list[Argument]:
    return [part for place in places for part in place]


def _users(found: Sequence[bytes]) -> Users:
    return sorted(user.decode() for user in found)


def _changed(state: Any) -> Changed | Users:
    if isinstance(state, list):
        return _users(state)
    _check(state)
    return "moved" if state == b"moved" else "ok"


def _check(state: bytes) -> None:
    if state == b"superseded":
        raise superseded()
    if state == b"taken":
        raise Conflict("Another credential has this name", {"field": "name", "reason": "taken"})
