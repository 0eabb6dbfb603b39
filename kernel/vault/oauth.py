"""OAuth 2 access tokens that are about to end are renewed before they are used, once for all processes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from kernel.clock import Clock, epoch_ms, rfc3339
from kernel.errors import ProviderError
from kernel.ids import new_id
from kernel.outbound import BlockedAddress, Egress, read_body
from kernel.sealing import Envelope
from kernel.storage.vault import StoredCredential, VaultStore
from kernel.vault.record import Item

EARLY_MS = 60_000
"""A token that ends within this is renewed."""
WAIT_S = 0.2
PATIENCE_S = 20.0
MAX_ANSWER = 64_000


@dataclass(frozen=True, slots=True)
class Renewal:
    store: VaultStore
    envelope: Envelope
    egress: Egress
    clock: Clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def fresh(self, ws: str, stored: StoredCredential, value: Any) -> Any:
        """The value, its access token renewed if need be. Raises ProviderError when it has ended and cannot be."""
        item = Item.of(stored)
        if item.type != "oauth2" or "token_url" not in value or not self._is_due(value):
            return value
        owner, waited = new_id("req"), 0.0
        while not await self.store.begin_refresh(ws, stored.id, owner):
            if waited > PATIENCE_S:
                return self._usable(value, "another process renews it and does not come to an end")
            waited += WAIT_S
            await self.sleep(WAIT_S)
        try:
            return await self._renewed(ws, stored.id, value)
        finally:
            await self.store.end_refresh(ws, stored.id, owner)

    async def _renewed(self, ws: str, credential_id: str, value: Any) -> Any:
        """Looks again first: who held the turn before has renewed it."""
        stored = await self.store.read(ws, credential_id)
        if stored is None:
            return self._usable(value, "the credential is gone")
        value = orjson.loads(await self.envelope.open(stored.sealed, ws, stored.id, str(stored.version)))
        if not self._is_due(value):
            return value
        try:
            told = await self._asked(value)
        except ProviderError as error:
            return self._usable(value, error.message)
        renewed = self._merged(value, told)
        ends = epoch_ms(renewed["expires_at"]) if "expires_at" in renewed else None
        item = Item.of(stored).model_copy(update={"expires_at": ends})
        sealed = await self.envelope.seal(orjson.dumps(renewed), ws, stored.id, str(stored.version + 1))
        await self.store.put_version(ws, stored.id, stored.version, item.encode(), sealed, "")
        return renewed

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
            renewed["expires_at"] = rfc3339(self.clock.now_ms() + int(told["expires_in"] * 1000))
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
                self.egress.client() as client,
                client.stream("POST", value["token_url"], data=form) as answer,
            ):
                body = await read_body(answer, MAX_ANSWER)
        except BlockedAddress as error:
            raise ProviderError(error.message) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ProviderError(f"the token endpoint cannot be reached: {type(error).__name__}") from None
        if answer.status_code != 200:
            raise ProviderError(f"the token endpoint answered {answer.status_code}")
        try:
            told = orjson.loads(body.data)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("access_token"), str):
            raise ProviderError("the token endpoint sent no access token")
        return told
