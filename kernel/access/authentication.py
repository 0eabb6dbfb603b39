"""From a bearer token to who is asking, without asking the store each time.

What the store said of a key id counts for less than a second, unknown ids too, so a key that is revoked is
refused within that time whatever happens; word of the change, when it arrives, makes it at once. After that time
one question, for all keys together, tells whether anything has changed: each shard counts its changes. The cache
is by key id and not by token: guesses at one key's secret cost the store nothing.
"""

import asyncio
import hmac
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from kernel.access.principal import Principal
from kernel.access.record import ApiKey
from kernel.access.roles import Role, effective, least
from kernel.access.secret import HASH_BYTES, key_id_of, keyed_hash
from kernel.clock import Clock
from kernel.errors import AuthenticationError, Unavailable
from kernel.storage.access import AccessStore, FoundKey
from kernel.storage.keys import SHARDS, shard_of

FRESH_MS = 800
"""Leaves a request that was let in on the last moment time to be answered within the promised second."""
CACHED = 10_000
NOTE_USE_MS = 60_000
_NOBODY = bytes(HASH_BYTES)


@dataclass(slots=True)
class Seen:
    """What the store said of a key id at a moment; without a principal the key opens nothing.

    Every token is compared, also with no key's hash: unknown, wrong and expired ones take the same way.
    """

    at_ms: int
    number: int
    hash: bytes = _NOBODY
    principal: Principal | None = None
    expires_at: int | None = None
    used_ms: int = 0

    def opens(self, digest: bytes, now_ms: int) -> bool:
        return hmac.compare_digest(self.hash, digest) and self.holds(now_ms)

    def may_be_of(self, workspace_id: str) -> bool:
        return self.principal is None or self.principal.workspace_id == workspace_id

    def holds(self, now_ms: int) -> bool:
        return self.principal is not None and (self.expires_at is None or now_ms < self.expires_at)


@dataclass(slots=True)
class Turn:
    """How often a shard had changed, as it has been read from the question `since` to the moment `until_ms`."""

    count: bytes | None = None
    since: int = 0
    until_ms: int = 0


class Turns:
    """What the shards' counts of changes say of what was seen. Questions are numbered in their order: a count
    vouches for what was asked after the count was known."""

    def __init__(self, store: AccessStore, clock: Clock):
        self._store, self._clock = store, clock
        self._turns = [Turn() for _ in range(SHARDS)]
        self._numbers = count(1)
        self._looking: asyncio.Task[None] | None = None

    def fresh(self, key_id: str, seen: Seen) -> bool:
        turn = self._turns[shard_of(key_id)]
        at_ms = max(seen.at_ms, turn.until_ms) if turn.since and seen.number > turn.since else seen.at_ms
        return 0 <= self._clock.now_ms() - at_ms < FRESH_MS

    def number(self) -> int:
        return next(self._numbers)

    async def look(self) -> None:
        """Those who want to know at the same time share one call. Raises Unavailable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(_heed)
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        now = self._clock.now_ms()
        counts = await self._store.turns()
        number = self.number()
        for turn, changes in zip(self._turns, counts, strict=True):
            if turn.count != changes or not turn.since:
                turn.count, turn.since = changes, number
            turn.until_ms = now


class Authentication:
    def __init__(self, store: AccessStore, clock: Clock, pepper: bytes):
        self._store, self._clock, self._pepper = store, clock, pepper
        self._turns = Turns(store, clock)
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Seen]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def authenticate(self, token: str) -> Principal:
        """Raises AuthenticationError, the same for every reason; Unavailable when the store is away."""
        key_id = key_id_of(token)
        digest = keyed_hash(self._pepper, token)
        seen = await self._known(key_id)
        now = self._clock.now_ms()
        if not seen.opens(digest, now) or seen.principal is None:
            raise AuthenticationError()
        if now - seen.used_ms >= NOTE_USE_MS:
            self._note_use(key_id, seen, now)
        return seen.principal

    async def principal(self, key_id: str) -> Principal:
        """Of a key that has proved itself before. Raises AuthenticationError once it opens nothing."""
        seen = await self._known(key_id)
        if not seen.holds(self._clock.now_ms()) or seen.principal is None:
            raise AuthenticationError()
        return seen.principal

    def forget(self, changed_id: str) -> None:
        """Drops what was known of a key, or of a workspace's keys when it or its members changed.

        Answers on their way do not count. A key falls in its workspace's shard, which is all there is to go by for
        those that open nothing and those that are asked for.
        """
        self._asking.pop(changed_id, None)
        self._seen.pop(changed_id, None)
        if changed_id.startswith("ws_"):
            shard = shard_of(changed_id)
            for key_id in [key_id for key_id in self._asking if shard_of(key_id) == shard]:
                del self._asking[key_id]
            for key_id in [*self._seen]:
                if shard_of(key_id) == shard and self._seen[key_id].may_be_of(changed_id):
                    del self._seen[key_id]

    def forget_all(self) -> None:
        self._asking.clear()
        self._seen.clear()

    async def close(self) -> None:
        await asyncio.gather(*self._notes, *self._asking.values(), return_exceptions=True)

    async def _known(self, key_id: str) -> Seen:
        if (seen := self._fresh(key_id)) is not None:
            return seen
        if key_id in self._seen:
            await self._turns.look()
        return self._fresh(key_id) or await self._ask(key_id)

    def _fresh(self, key_id: str) -> Seen | None:
        seen = self._seen.get(key_id)
        return seen if seen is not None and self._turns.fresh(key_id, seen) else None

    async def _ask(self, key_id: str) -> Seen:
        """Those who ask for one key at the same time share one call."""
        task = self._asking.get(key_id)
        if task is None:
            task = self._asking[key_id] = asyncio.create_task(self._look_up(key_id))
            task.add_done_callback(_heed)
        return await asyncio.shield(task)

    async def _look_up(self, key_id: str) -> Seen:
        this, now, number = asyncio.current_task(), self._clock.now_ms(), self._turns.number()
        try:
            seen = _seen(await self._store.find_key(key_id), now, number)
            if self._asking.get(key_id) is this:
                self._keep(key_id, seen)
            return seen
        finally:
            if self._asking.get(key_id) is this:
                del self._asking[key_id]

    def _keep(self, key_id: str, seen: Seen) -> None:
        self._seen[key_id] = seen
        self._seen.move_to_end(key_id)
        if len(self._seen) > CACHED:
            self._seen.popitem(last=False)

    def _note_use(self, key_id: str, seen: Seen, now: int) -> None:
        seen.used_ms = now
        task = asyncio.create_task(self._write_use(key_id, now))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str, now: int) -> None:
        with suppress(Unavailable):
            await self._store.note_use(key_id, now)


def _heed(task: "asyncio.Task[Any]") -> None:
    """Takes note of an error that no one waits for any more."""
    if not task.cancelled():
        task.exception()


def _seen(found: FoundKey | None, now_ms: int, number: int) -> Seen:
    if found is None or not found.active or None in found.roles:
        return Seen(now_ms, number)
    key = ApiKey.model_validate_json(found.record)
    who = principal_of(key, found, least(Role(role) for role in found.roles if role))
    return Seen(now_ms, number, found.hash, who, key.expires_at, found.used_ms)


def principal_of(key: ApiKey, found: FoundKey, role: Role) -> Principal:
    return Principal(
        workspace_id=key.workspace_id,
        user_id=key.user_id,
        key_id=key.id,
        environment=key.environment,
        plan=found.plan,
        overrides=found.limits,
        role=role,
        scopes=frozenset(map(str, effective(key.scopes, role))),
        agents=None if key.agents is None else frozenset(key.agents),
        collections=None if key.collections is None else frozenset(key.collections),
        delegated=key.delegated,
        makers=frozenset(key.makers),
    )
