"""API keys as their owners handle them. No key hands out or changes more than it has itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kernel.access.audit import LOCAL, Origin, Trail
from kernel.access.hold import Hold, any_state
from kernel.access.membership import Membership
from kernel.access.principal import Principal
from kernel.access.record import ApiKey, KeyCreate, KeyPatch, KeyRotation
from kernel.access.secret import keyed_hash, new_token
from kernel.clock import Clock, rfc3339
from kernel.errors import AuthorizationError, Conflict, NotFound, ValidationError
from kernel.ids import is_id
from kernel.paging import Page, PageQuery
from kernel.storage.access import AccessStore, NewKey, StoredKey, id_in
from kernel.storage.keys import shard_of

MAX_KEYS = 1000
"""Of a workspace."""
_UNKNOWN = "API key not found"
Found = tuple[StoredKey, ApiKey]


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """`token` is the key itself: to be shown once and kept nowhere. `replaces`: the key it follows, and its end."""

    key: ApiKey
    token: str
    replaces: Mapping[str, str] | None = None

    def shown(self) -> dict[str, Any]:
        shown = self.key.shown() | {"key": self.token}
        return shown if self.replaces is None else shown | {"replaces": self.replaces}


class ApiKeys:
    def __init__(
        self,
        store: AccessStore,
        membership: Membership,
        trail: Trail,
        clock: Clock,
        pepper: bytes,
        changed: Callable[[str], None],
    ):
        self._store, self._membership, self._trail = store, membership, trail
        self._clock, self._pepper, self._changed = clock, pepper, changed

    async def create(
        self,
        who: Principal,
        order: KeyCreate,
        origin: Origin = LOCAL,
        *,
        lost: str | None = None,
        idempotency_record: str = "",
    ) -> IssuedKey:
        """Raises AuthorizationError naming what `who` lacks, NotFound for a workspace not theirs, Conflict.

        lost: the key that an earlier try had made; nobody knows its secret, so it is revoked.
        """
        workspace = who.workspace_id if order.workspace_id is None else order.workspace_id
        user = who.user_id if order.user_id is None else order.user_id
        async with self._trail.watching(who, origin, "key.create"):
            await self._check_for_whom(who, workspace, user)
            key = self._drawn_up(who, workspace, user, order, await self._makers(who, user))
            _check_grant(who, key)
        self._check_expiry(key.expires_at)
        if lost is not None:
            audit = self._trail.text(who, origin, "key.revoke", lost, {"reason": "its answer was lost"})
            if await self._store.remove_key(key.workspace_id, lost, audit):
                self._changed(lost)
        audit = self._trail.text(who, origin, "key.create", key.id, _facts(key))
        return await self.store(key, audit, idempotency_record)

    async def store(self, key: ApiKey, audit: str, idempotency_record: str = "") -> IssuedKey:
        """Raises Conflict for a workspace that is full of keys."""
        issued, new = self.draft(key)
        if not await self._store.add_key(key.workspace_id, new, MAX_KEYS, audit, idempotency_record):
            raise _full()
        return issued

    def draft(self, key: ApiKey) -> tuple[IssuedKey, NewKey]:
        """A token for the key, and what is stored of it."""
        token = new_token(key.environment, key.id)
        stored = NewKey(key.id, keyed_hash(self._pepper, token), key.model_dump_json())
        return IssuedKey(key, token), stored

    async def get(self, who: Principal, key_id: str) -> dict[str, Any]:
        """Raises NotFound, AuthorizationError: a limited key sees itself alone."""
        if key_id != who.key_id:
            who.require_unlimited()
        stored, key = await self._read(who, key_id)
        return key.shown(stored.used_ms)

    async def list(self, who: Principal, query: PageQuery) -> Page[dict[str, Any]]:
        """Raises AuthorizationError for a limited key."""
        who.require_unlimited()
        total, rows = await self._store.list_keys(who.workspace_id, query)
        items = [_parsed(row).shown(row.used_ms) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def update(
        self,
        who: Principal,
        key_id: str,
        patch: KeyPatch,
        origin: Origin = LOCAL,
        hold: Hold = any_state,
    ) -> dict[str, Any]:
        """`hold` is asked about the very state that is changed."""
        details = patch.model_dump(mode="json", exclude_unset=True)
        while True:
            stored, key = await self._read(who, key_id)
            hold(key.shown(stored.used_ms))
            changed = key.model_copy(update=_changes(patch))
            async with self._trail.watching(who, origin, "key.update", key_id):
                await self._check_power(who, key)
                _check_grant(who, changed)
            if "expires_at" in patch.model_fields_set:
                self._check_expiry(changed.expires_at)
            if changed == key:
                return key.shown(stored.used_ms)
            record = changed.model_dump_json()
            audit = self._trail.text(who, origin, "key.update", key_id, details)
            if await self._store.change_key(who.workspace_id, key_id, stored.record, record, audit):
                self._changed(key_id)
                return changed.shown(stored.used_ms)

    async def revoke(
        self, who: Principal, key_id: str, origin: Origin = LOCAL, hold: Hold = any_state
    ) -> None:
        """Here it is refused from now on, on every other replica within a second.

        Raises AuthorizationError for a key that may do more than `who`; any key may end itself.
        """
        while True:
            stored, key = await self._read(who, key_id)
            hold(key.shown(stored.used_ms))
            if key_id != who.key_id:
                async with self._trail.watching(who, origin, "key.revoke", key_id):
                    await self._check_power(who, key)
            audit = self._trail.text(who, origin, "key.revoke", key_id)
            if await self._store.remove_key(who.workspace_id, key_id, audit, stored.record):
                self._changed(key_id)
                return

    async def rotate(
        self,
        who: Principal,
        key_id: str,
        order: KeyRotation,
        origin: Origin = LOCAL,
        *,
        lost: str | None = None,
        idempotency_record: str = "",
    ) -> IssuedKey:
        """A successor with all that the key has but its secret; the key itself works on for `overlap_ms`.

        lost: the successor that an earlier try had made, with a secret nobody knows: this one takes its place,
        whatever became of the key meanwhile. Raises NotFound, AuthorizationError, Conflict for a key that has
        expired or was rotated, and for a workspace that is full of keys.
        """
        while True:
            old, earlier = await self._find(who, key_id), await self._find(who, lost or "")
            if (source := earlier or old) is None:
                raise NotFound(_UNKNOWN)
            async with self._trail.watching(who, origin, "key.rotate", key_id):
                await self._check_power(who, source[1])
            now = self._clock.now_ms()
            if earlier is None:
                _check_rotates(source[1], now)
            makers = await self._makers(who, source[1].user_id)
            issued, new = self.draft(_successor(who, source[1], now, makers))
            end, left = _end(old, now, order.overlap_ms, new.id)
            details = {"successor": new.id, "expires_at": rfc3339(end)}
            audit = self._trail.text(who, origin, "key.rotate", key_id, details)
            was = (key_id, old[0].record if old else b"", left)
            gone = lost if lost and earlier else ""
            said = await self._store.rotate_key(
                who.workspace_id, was, new, gone, MAX_KEYS, audit, idempotency_record
            )
            if said == "full":
                raise _full()
            if said == "ok":
                self._changed(key_id)
                self._changed(gone)
                return IssuedKey(issued.key, issued.token, {"id": key_id, "expires_at": rfc3339(end)})

    async def _read(self, who: Principal, key_id: str) -> Found:
        if (found := await self._find(who, key_id)) is None:
            raise NotFound(_UNKNOWN)
        return found

    async def _find(self, who: Principal, key_id: str) -> Found | None:
        stored = await self._store.read_key(who.workspace_id, key_id) if is_id("key", key_id) else None
        return None if stored is None else (stored, _parsed(stored))

    async def _makers(self, who: Principal, user: str) -> frozenset[str]:
        """Whose roles bound a key that `who` makes for a user, beside the user's own.

        The operator may leave a workspace that was made for others, and what was made for them there stays.
        """
        makers = who.makers
        if user != who.user_id and not await self._membership.is_operator(who):
            makers |= {who.user_id}
        return makers

    def _drawn_up(
        self, who: Principal, workspace: str, user: str, order: KeyCreate, makers: frozenset[str]
    ) -> ApiKey:
        return ApiKey(
            id=id_in(shard_of(workspace), "key"),
            workspace_id=workspace,
            user_id=user,
            created_by=who.user_id,
            delegated=who.delegated or user != who.user_id,
            makers=sorted(makers),
            environment=who.environment,
            created_at=self._clock.now_ms(),
            **order.model_dump(exclude={"workspace_id", "user_id"}),
        )

    async def _check_for_whom(self, who: Principal, workspace: str, user: str) -> None:
        """Only owners and admins make keys in other workspaces and for other members; only owners for an owner."""
        if workspace == who.workspace_id and user == who.user_id:
            return
        own = await self._membership.role(who, workspace)
        own.require_manager()
        if user != who.user_id:
            other = await self._membership.of(workspace, user) if is_id("user", user) else None
            if other is None:
                raise ValidationError.at("user_id", "must be a member of the workspace")
            own.require_over(other)

    async def _check_power(self, who: Principal, key: ApiKey) -> None:
        """Raises AuthorizationError for a key that may do more than `who`, or acts for an owner when `who` does not."""
        _check_grant(who, key)
        if key.user_id != who.user_id:
            who.role.require_over(await self._membership.of(who.workspace_id, key.user_id))

    def _check_expiry(self, expires_at: int | None) -> None:
        if expires_at is not None and expires_at <= self._clock.now_ms():
            raise ValidationError.at("expires_at", "must be in the future")


def _full() -> Conflict:
    return Conflict(f"A workspace has at most {MAX_KEYS} API keys", {"reason": "api_keys"})


def _parsed(stored: StoredKey) -> ApiKey:
    return ApiKey.model_validate_json(stored.record)


def _facts(key: ApiKey) -> dict[str, Any]:
    """What the audit log tells of a new key."""
    told = {"name", "scopes", "user_id", "expires_at", "agents", "collections"}
    return key.model_dump(mode="json", include=told, exclude_none=True)


def _changes(patch: KeyPatch) -> dict[str, Any]:
    """A key that is given another end is no longer one that was rotated."""
    changes = {name: getattr(patch, name) for name in patch.model_fields_set}
    return changes | {"replaced_by": None} if "expires_at" in changes else changes


def _successor(who: Principal, key: ApiKey, now_ms: int, makers: frozenset[str]) -> ApiKey:
    """Whoever rotates another's key, or with another's, holds a key that somebody else made."""
    delegated = key.delegated or who.delegated or who.user_id != key.user_id
    changes = {"created_at": now_ms, "created_by": who.user_id, "delegated": delegated, "replaced_by": None}
    name = id_in(shard_of(key.workspace_id), "key")
    return key.model_copy(update={"id": name, "makers": sorted(makers), **changes})


def _end(old: Found | None, now_ms: int, overlap_ms: int, successor: str) -> tuple[int, str]:
    """When a rotated key ends, and its record until then; the record is empty when that is now."""
    end = now_ms + overlap_ms
    if old is None or overlap_ms == 0:
        return now_ms, ""
    end = min(end, old[1].expires_at or end)
    return end, old[1].model_copy(update={"expires_at": end, "replaced_by": successor}).model_dump_json()


def _check_rotates(key: ApiKey, now_ms: int) -> None:
    if key.expires_at is not None and key.expires_at <= now_ms:
        raise Conflict("The key has expired", {"reason": "expired"})
    if key.replaced_by is not None:
        raise Conflict("The key was rotated already", {"reason": "rotated", "replaced_by": key.replaced_by})


def _check_grant(who: Principal, key: ApiKey) -> None:
    for scope in key.scopes:
        who.require(scope)
    _check_limit("agents", who.agents, key.agents)
    _check_limit("collections", who.collections, key.collections)


def _check_limit(what: str, own: frozenset[str] | None, given: Iterable[str] | None) -> None:
    if own is not None and (given is None or not own.issuperset(given)):
        raise AuthorizationError(
            f"This key is limited to some {what} and can give no others", {"limit": what}
        )
