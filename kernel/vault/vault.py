"""The vault of a workspace: credentials made, described, rotated, deleted and, with a vault token, read in the clear.

Whatever is done or tried here is in the audit log, refusals included, and what changes something is written together
with the change. No value leaves before the row that tells of it is there.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kernel.access.act import Act
from kernel.clock import Clock
from kernel.errors import Conflict, NotFound
from kernel.ids import is_id, new_id
from kernel.paging import Page, PageQuery
from kernel.sealing import Damaged, Envelope
from kernel.storage.vault import Listed, Place, Refusal, StoredCredential, Users, VaultStore
from kernel.vault.record import CredentialCreate, CredentialPatch, Item, Rotation, shown
from kernel.vault.tokens import VaultTokens, refuse
from kernel.vault.trail import VaultTrail, known
from kernel.vault.values import CheckUrl, checked


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters of a list combine with AND. search: a part of the name; it and tag in any case."""

    type: str | None = None
    tag: str | None = None
    environment: str | None = None
    search: str | None = None

    @property
    def part(self) -> str:
        return unicodedata.normalize("NFC", self.search or "")

    @property
    def places(self) -> Sequence[Place]:
        tag = unicodedata.normalize("NFC", self.tag).lower() if self.tag else None
        named = (("type", self.type), ("tag", tag), ("environment", self.environment))
        return [(field, value) for field, value in named if value is not None]


class Vault:
    """Every method raises AuthorizationError for a limited key and NotFound for what another workspace has."""

    def __init__(
        self,
        store: VaultStore,
        envelope: Envelope,
        trail: VaultTrail,
        tokens: VaultTokens,
        clock: Clock,
        check_url: CheckUrl,
    ):
        self.trail, self.tokens = trail, tokens
        self._store, self._envelope, self._clock, self._check_url = store, envelope, clock, check_url

    async def create(self, act: Act, order: CredentialCreate) -> Listed:
        """Raises ValidationError, PayloadTooLarge, Conflict (name, too many), Unavailable."""
        await self.trail.allow(act, "credential.create", "")
        ws, now = act.who.workspace_id, self._clock.now_ms()
        material = checked(order.type, order.value, self._check_url)
        credential_id = act.before or new_id("cred")
        item = Item(
            **order.model_dump(exclude={"value"}),
            hint=material.hint,
            expires_at=material.expires_at,
            created_by=act.who.user_id,
            created_at=now,
            updated_at=now,
        )
        sealed = await self._envelope.seal(material.encode(), ws, credential_id, "1")
        told = order.model_dump(exclude={"value"}, exclude_defaults=True)
        audit = self.trail.entry(act, "credential.create", credential_id, told)
        await self._store.create(ws, credential_id, item.draft(), sealed, audit, act.record)
        return await self._read(ws, credential_id)

    async def list(self, act: Act, wanted: Wanted, query: PageQuery) -> Page[dict[str, Any]]:
        await self.trail.allow(act, "credential.list", "")
        total, rows = await self._store.page(act.who.workspace_id, wanted.part, wanted.places, query)
        items = [self.shown(row) for row in rows[: query.limit]]
        return Page(items, total, items[-1]["id"] if items else None, len(rows) > query.limit)

    async def get(self, act: Act, credential_id: str) -> Listed:
        """Without its value."""
        await self.trail.allow(act, "credential.list", credential_id)
        return await self._read(act.who.workspace_id, credential_id)

    async def used_by(self, act: Act, credential_id: str) -> Sequence[dict[str, str]]:
        """`[{type, id}]`."""
        return _told(await self._store.users(act.who.workspace_id, credential_id))

    async def patch(
        self, act: Act, credential_id: str, patch: CredentialPatch, if_match: str | None
    ) -> Listed:
        """Raises Conflict: the name is taken, agents go by it, or `if_match` is not its ETag."""
        await self.trail.allow(act, "credential.update", credential_id)
        changes = patch.model_dump(exclude_unset=True)
        while True:
            was = await self._held(act, credential_id, if_match)
            before = Item.of(was)
            after = before.model_copy(update=changes)
            if after == before:
                return was
            after = after.model_copy(update={"updated_at": self._clock.now_ms()})
            audit = self.trail.entry(act, "credential.update", credential_id, changes)
            ws = act.who.workspace_id
            state = await self._store.update(ws, was, before.draft(), after.draft(), audit)
            if isinstance(state, list):
                raise _in_use("Agents go by the credential's name: it cannot be renamed", state)
            if state == "ok":
                return await self._read(ws, credential_id)

    async def rotate(self, act: Act, credential_id: str, order: Rotation) -> Listed:
        """Another value, sealed as the next version; the one before is gone. Raises as `create`."""
        await self.trail.allow(act, "credential.rotate", credential_id)
        ws = act.who.workspace_id
        while True:
            was, now = await self._read(ws, credential_id), self._clock.now_ms()
            if act.before is not None:
                return was
            material = checked(Item.of(was).type, order.value, self._check_url)
            facts = {"hint": material.hint, "expires_at": material.expires_at}
            item = Item.of(was).model_copy(update=facts | {"updated_at": now, "rotated_at": now})
            version = was.version + 1
            sealed = await self._envelope.seal(material.encode(), ws, credential_id, str(version))
            audit = self.trail.entry(act, "credential.rotate", credential_id, {"version": version})
            new = (item.encode(), sealed, audit, act.record)
            if await self._store.put_version(ws, was, *new):
                return await self._read(ws, credential_id)

    async def delete(
        self, act: Act, credential_id: str, if_match: str | None, *, force: bool = False
    ) -> None:
        """Raises Conflict naming its users; forced, the agents among them are in error from now on."""
        await self.trail.allow(act, "credential.delete", credential_id)
        ws = act.who.workspace_id
        while True:
            was = await self._held(act, credential_id, if_match)
            item = Item.of(was)
            audit = self.trail.entry(
                act, "credential.delete", credential_id, {"name": item.name, "force": force}
            )
            state = await self._store.delete(ws, was, item.draft(), force, audit)
            if isinstance(state, list):
                raise _in_use("The credential is in use", state)
            if state == "ok":
                return

    async def reveal(self, act: Act, credential_id: str, tokens: Sequence[str]) -> dict[str, Any]:
        """The credential with its value. tokens: the headers X-Vault-Token that were sent.

        Raises AuthenticationError without one, AuthorizationError for one that does not open it, RateLimitError while
        the key is locked out, InternalError for a value that does not open.
        """
        await self.trail.allow(act, "credential.read", credential_id)
        attempt = await self.tokens.attempt(act, credential_id, tokens)
        found = await self._store.reveal(
            act.who.workspace_id, known(credential_id), attempt, self._clock.now_ms()
        )
        if isinstance(found, Refusal):
            refuse(found)
        return self.shown(found) | {"value": await self._opened(act, found)}

    def shown(self, stored: Listed) -> dict[str, Any]:
        """As the API answers it."""
        return shown(stored, self._clock.now_ms())

    async def _opened(self, act: Act, found: StoredCredential) -> Any:
        try:
            ws = act.who.workspace_id
            return orjson.loads(await self._envelope.open(found.sealed, ws, found.id, str(found.version)))
        except Damaged:
            await self.trail.note(act, "credential.read", found.id, {"reason": "damaged"})
            raise

    async def _read(self, ws: str, credential_id: str) -> Listed:
        stored = await self._store.listed(ws, credential_id) if is_id("cred", credential_id) else None
        if stored is None:
            raise NotFound("Credential not found")
        return stored

    async def _held(self, act: Act, credential_id: str, if_match: str | None) -> Listed:
        stored = await self._read(act.who.workspace_id, credential_id)
        if if_match is not None and stored.revision not in map(_revision, if_match.split(",")):
            raise Conflict("The credential has changed since it was read", {"reason": "stale_etag"})
        return stored


def _revision(tag: str) -> int | None:
    """What an ETag says of the state that may be changed; what follows a dot tells of who uses it."""
    number = tag.strip().removeprefix("W/").strip('"').partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 16 else None


def _told(users: Users) -> list[dict[str, str]]:
    return [{"type": kind, "id": name} for kind, _, name in (user.partition(" ") for user in users)]


def _in_use(message: str, users: Users) -> Conflict:
    return Conflict(message, {"reason": "in_use", "used_by": _told(users)})
