"""OAuth 2 access tokens that are about to end are renewed before they are used, once for all processes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson

from kernel.clock import Clock, epoch_ms, rfc3339
from kernel.errors import ProviderError, Unavailable
from kernel.ids import new_id
from kernel.outbound import BlockedAddress, Egress, read_body
from kernel.sealing import Envelope
from kernel.storage.vault import REFRESH_MS, StoredCredential, VaultStore
from kernel.vault.record import Item

EARLY_MS = 60_000
"""A token that ends within this is renewed."""
WAIT_S = 0.2
PATIENCE_S = 20.0
ANSWER_WITHIN_S = 20.0
"""The whole answer of a token endpoint: the turn to ask lasts longer."""
SPARE_S = 2.0
"""Before the end of a turn, nothing more is written."""
FAILED_MS = 10_000
"""So long nobody asks again after it went wrong."""
MOST_FAILED = 1_000
MAX_LIFE_S = 315_360_000
"""Ten years."""
MAX_ANSWER = 64_000

State = tuple[str, int]
"""A credential's id and version."""
Failure = tuple[int, str]
"""Until when (ms) it counts, and why."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """One for a process, where all who ask for the same token wait for one task, which goes on when they are cancelled:
    it may be told a refresh token that replaces the one before."""

    store: VaultStore
    envelope: Envelope
    egress: Egress
    clock: Clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _tasks: dict[State, asyncio.Task[Any]] = field(default_factory=dict, init=False)
    _failed: dict[State, Failure] = field(default_factory=dict, init=False)

    async def fresh(self, ws: str, stored: StoredCredential, value: Any) -> Any:
        """The value, its access token renewed if need be. Raises ProviderError when it has ended and cannot be."""
        item = Item.of(stored)
        if item.type != "oauth2" or "token_url" not in value or not self._is_due(value):
            return value
        state = stored.id, stored.version
        until, reason = self._failed.get(state, (0, ""))
        if self.clock.now_ms() < until:
            return self._usable(value, reason)
        if state not in self._tasks:
            self._tasks[state] = asyncio.create_task(self._renew(ws, state))
            self._tasks[state].add_done_callback(lambda _: self._tasks.pop(state))
        try:
            return await asyncio.shield(self._tasks[state])
        except ProviderError as error:
            return self._usable(value, error.message)

    async def aclose(self) -> None:
        """Lets those that are under way end."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _renew(self, ws: str, state: State) -> Any:
        """In its turn. Raises ProviderError, and remembers it."""
        credential_id, owner = state[0], new_id("req")
        try:
            await self._take_turn(ws, credential_id, owner)
            try:
                return await self._renewed(ws, credential_id)
            finally:
                with suppress(Unavailable):  # the turn ends by itself
                    await self.store.end_refresh(ws, credential_id, owner)
        except ProviderError as error:
            if len(self._failed) >= MOST_FAILED:
                self._failed.clear()
            self._failed[state] = self.clock.now_ms() + FAILED_MS, error.message
            raise

    async def _take_turn(self, ws: str, credential_id: str, owner: str) -> None:
        waited = 0.0
        while not await self.store.begin_refresh(ws, credential_id, owner):
            if waited > PATIENCE_S:
                raise ProviderError("another process renews it and does not come to an end")
            waited += WAIT_S
            await self.sleep(WAIT_S)

    async def _renewed(self, ws: str, credential_id: str) -> Any:
        """Looks again first: who held the turn before has renewed it."""
        ends = asyncio.get_running_loop().time() + REFRESH_MS / 1000 - SPARE_S
        stored = await self.store.read(ws, credential_id)
        if stored is None:
            raise ProviderError("the credential is gone")
        value = orjson.loads(await self.envelope.open(stored.sealed, ws, stored.id, str(stored.version)))
        if not self._is_due(value):
            return value
        renewed = self._merged(value, await self._asked(value))
        await self._keep(ws, stored, renewed, ends)
        return renewed

    async def _keep(self, ws: str, stored: StoredCredential, renewed: Any, ends: float) -> None:
        """Beside what people change meanwhile; a value that they put in its place stays. Waits for a store that is away
        while the turn lasts."""
        version, found = stored.version, stored
        while True:
            try:
                if await self._put(ws, found, renewed):
                    return
                again = await self.store.read(ws, stored.id)
                if again is None or again.version != version:
                    return
                found = again
            except Unavailable:
                if asyncio.get_running_loop().time() > ends:
                    raise
                await self.sleep(WAIT_S)

    async def _put(self, ws: str, stored: StoredCredential, renewed: Any) -> bool:
        until = epoch_ms(renewed["expires_at"]) if "expires_at" in renewed else None
        item = Item.of(stored).model_copy(update={"expires_at": until})
        sealed = await self.envelope.seal(orjson.dumps(renewed), ws, stored.id, str(stored.version + 1))
        return await self.store.put_version(ws, stored, item.encode(), sealed, "")

    def _is_due(self, value: Any) -> bool:
        if not value.get("access_token"):
            return True
        ends = value.get("expires_at")
        return ends is not None and epoch_ms(ends) - EARLY_MS <= self.clock.now_ms()

    def _usable(self, value: Any, reason: str) -> Any:
        """What there is, as long as it has not ended."""
        ends = value.get("expires_at")
        if value.get("access_token") and (ends is None or epoch_ms(ends) > self.clock.now_ms()):
            return value
        raise ProviderError(f"The access token has ended and was not renewed: {reason}", None, None, True)

    def _merged(self, value: Any, told: Any) -> Any:
        """A token endpoint may send a new refresh token, or keep the old one by sending none."""
        renewed = {name: one for name, one in value.items() if name != "expires_at"}
        renewed["access_token"] = told["access_token"]
        if isinstance(told.get("refresh_token"), str):
            renewed["refresh_token"] = told["refresh_token"]
        if isinstance(told.get("expires_in"), int | float):
            life_s = min(max(told["expires_in"], 0), MAX_LIFE_S)
            renewed["expires_at"] = rfc3339(self.clock.now_ms() + int(life_s * 1000))
        return renewed

    async def _asked(self, value: Any) -> Any:
        """What the token endpoint says. Raises ProviderError."""
        form = {name: value[name] for name in ("client_id", "client_secret", "scope") if value.get(name)}
        if value.get("refresh_token"):
            form |= {"grant_type": "refresh_token", "refresh_token": value["refresh_token"]}
        else:
            form["grant_type"] = "client_credentials"
        try:
            async with (
                asyncio.timeout(ANSWER_WITHIN_S),
                self.egress.client() as client,
                client.stream("POST", value["token_url"], data=form) as answer,
            ):
                body = await read_body(answer, MAX_ANSWER)
        except BlockedAddress as error:
            raise ProviderError(error.message) from None
        except TimeoutError:
            raise ProviderError(f"the token endpoint took longer than {ANSWER_WITHIN_S:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ProviderError(f"the token endpoint cannot be reached: {type(error).__name__}") from None
        if answer.status_code != 200:
            raise ProviderError(f"the token endpoint answered {answer.status_code}")
        try:
            told = orjson.loads(body.data)
        except orjson.JSONDecodeError:
            told = None
        token = told.get("access_token") if isinstance(told, dict) else None
        if not (isinstance(token, str) and token):
            raise ProviderError("the token endpoint sent no access token")
        return told
