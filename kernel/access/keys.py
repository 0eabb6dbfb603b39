"""API keys as their owners handle them. No key hands out or changes more than it has itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kernel.access.principal import Principal
from kernel.access.record import ApiKey, KeyCreate, KeyPatch
from kernel.access.secret import keyed_hash, new_token
from kernel.clock import Clock
from kernel.errors import AuthorizationError, NotFound, ValidationError
from kernel.ids import is_id
from kernel.paging import Page, PageQuery
from kernel.storage.access import AccessStore, NewKey, StoredKey, id_in
from kernel.storage.keys import shard_of

_UNKNOWN = "API key not found"

Hold = Callable[[dict[str, Any]], None]
"""Raises Conflict when a key, as it is shown, is not what the caller means to change."""


def _any(shown: dict[str, Any]) -> None:
    """Whatever it is."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """`token` is the key itself: to be shown once and kept nowhere."""

    key: ApiKey
    token: str

    def shown(self) -> dict[str, Any]:
        return self.key.shown() | {"key": self.token}


class ApiKeys:
    def __init__(self, store: AccessStore, clock: Clock, pepper: bytes, changed: Callable[[str], None]):
        self._store, self._clock, self._pepper, self._changed = store, clock, pepper, changed

    async def create(
        self, who: Principal, order: KeyCreate, *, lost: str | None = None, idempotency_record: str = ""
    ) -> IssuedKey:
        """Raises AuthorizationError naming what `who` lacks, NotFound for a workspace not theirs.

        lost: the key that an earlier try had made; nobody knows its secret, so it is revoked.
        """
        workspace = order.workspace_id or who.workspace_id
        if workspace != who.workspace_id:
            await self._check_membership(who, workspace)
        key = ApiKey(
            id=id_in(shard_of(workspace), "key"),
            workspace_id=workspace,
            user_id=who.user_id,
            environment=who.environment,
            created_at=self._clock.now_ms(),
            **order.model_dump(exclude={"workspace_id"}),
        )
        self._check_grant(who, key)
        self._check_expiry(key.expires_at)
        if lost is not None and await self._store.remove_key(workspace, lost):
            self._changed(lost)
        return await self.store(key, idempotency_record)

    async def store(self, key: ApiKey, idempotency_record: str = "") -> IssuedKey:
        issued, new = self.draft(key)
        await self._store.add_key(key.workspace_id, new, idempotency_record)
        return issued

    def draft(self, key: ApiKey) -> tuple[IssuedKey, NewKey]:
        """A token for the key, and what is stored of it."""
        token = new_token(key.environment, key.id)
        stored = NewKey(key.id, keyed_hash(self._pepper, token), key.model_dump_json())
        return IssuedKey(key, token), stored

    async def get(self, who: Principal, key_id: str) -> dict[str, Any]:
        stored, key = await self._read(who, key_id)
        return key.shown(stored.used_ms)

    async def list(self, who: Principal, query: PageQuery) -> Page[dict[str, Any]]:
        total, rows = await self._store.list_keys(who.workspace_id, query)
        items = [ApiKey.model_validate_json(record).shown(used) for record, used in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def update(self, who: Principal, key_id: str, patch: KeyPatch, hold: Hold = _any) -> dict[str, Any]:
        """`hold` is asked about the very state that is changed."""
        while True:
            stored, key = await self._read(who, key_id)
            hold(key.shown(stored.used_ms))
            changed = key.model_copy(update={name: getattr(patch, name) for name in patch.model_fields_set})
            self._check_grant(who, key)
            self._check_grant(who, changed)
            if "expires_at" in patch.model_fields_set:
                self._check_expiry(changed.expires_at)
            if await self._store.change_key(key_id, stored.record, changed.model_dump_json()):
                self._changed(key_id)
                return changed.shown(stored.used_ms)

    async def revoke(self, who: Principal, key_id: str, hold: Hold = _any) -> None:
        """Here it is refused from now on, on every other replica within a second.

        Raises AuthorizationError for a key that may do more than `who`; any key may end itself.
        """
        while True:
            stored, key = await self._read(who, key_id)
            hold(key.shown(stored.used_ms))
            if key_id != who.key_id:
                self._check_grant(who, key)
            if await self._store.remove_key(who.workspace_id, key_id, stored.record):
                self._changed(key_id)
                return

    async def _read(self, who: Principal, key_id: str) -> tuple[StoredKey, ApiKey]:
        stored = await self._store.find_key(key_id) if is_id("key", key_id) else None
        key = ApiKey.model_validate_json(stored.record) if stored is not None else None
        if stored is None or key is None or key.workspace_id != who.workspace_id:
            raise NotFound(_UNKNOWN)
        return stored, key

    async def _check_membership(self, who: Principal, workspace_id: str) -> None:
        if not is_id("ws", workspace_id) or await self._store.role(workspace_id, who.user_id) != "owner":
            raise NotFound("Workspace not found")
        who.require_unlimited()

    def _check_grant(self, who: Principal, key: ApiKey) -> None:
        for scope in key.scopes:
            who.require(scope)
        _check_limit("agents", who.agents, key.agents)
        _check_limit("collections", who.collections, key.collections)

    def _check_expiry(self, expires_at: int | None) -> None:
        if expires_at is not None and expires_at <= self._clock.now_ms():
            raise ValidationError.at("expires_at", "must be in the future")


def _check_limit(what: str, own: frozenset[str] | None, given: Iterable[str] | None) -> None:
    if own is not None and (given is None or not own.issuperset(given)):
        raise AuthorizationError(
            f"This key is limited to some {what} and can give no others", {"limit": what}
        )
