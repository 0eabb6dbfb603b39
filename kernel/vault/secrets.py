"""Secrets for those who use them: by name, by id, or as the key of a model provider.

A value is opened where it is used and kept by nobody here. Access tokens (OAuth 2) are renewed on the way when they are
about to end: by one process at a time for the whole installation, while the others wait for what it gets.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from kernel.errors import NotFound
from kernel.ids import is_id
from kernel.sealing import Envelope
from kernel.storage.vault import StoredCredential, VaultStore
from kernel.vault.oauth import Renewal
from kernel.vault.record import Item

KEY_FIELDS = ("api_key", "access_token", "token", "password", "secret")
"""Of a structured value, the field that opens a provider: the first there is."""


class Secrets:
    """environment: credentials of another one serve no model provider."""

    def __init__(self, store: VaultStore, envelope: Envelope, renewal: Renewal, environment: str):
        self._store, self._envelope = store, envelope
        self._renewal, self._environment = renewal, environment

    async def names(self, ws: str) -> Mapping[str, str]:
        """The credentials of a workspace: ids by name in lower case."""
        return await self._store.names(ws)

    async def named(self, ws: str, name: str) -> Any:
        """The value of a credential by its name, in any case. Raises NotFound, Damaged, Unavailable, ProviderError."""
        credential_id = await self._store.id_of(ws, name)
        if credential_id is None:
            raise NotFound("Credential not found")
        return await self.value(ws, credential_id)

    async def value(self, ws: str, credential_id: str) -> Any:
        """Text, or an object with fields. Raises as `named`."""
        stored = await self._store.read(ws, credential_id) if is_id("cred", credential_id) else None
        if stored is None:
            raise NotFound("Credential not found")
        return await self._renewal.fresh(ws, stored, await self._opened(ws, stored))

    async def fields(self, ws: str, credential_id: str) -> Mapping[str, str]:
        """The texts of a value by field; a plain one is `value`. Raises as `named`."""
        value = await self.value(ws, credential_id)
        if isinstance(value, str):
            return {"value": value}
        fields = {name: one for name, one in value.items() if isinstance(one, str)}
        return {"token": fields["access_token"]} | fields if "access_token" in fields else fields

    async def key(self, ws: str, credential_id: str) -> str:
        """The one text of a credential that opens a provider. Raises as `named`."""
        fields = await self.fields(ws, credential_id)
        found = next((fields[name] for name in ("value", *KEY_FIELDS) if name in fields), None)
        if found is None:
            raise NotFound("The credential has no key")
        return found

    async def provider_key(self, ws: str, provider: str) -> str | None:
        """The workspace's own key of a model provider. Raises Damaged, Unavailable."""
        credential_id = await self._of_provider(ws, provider)
        return None if credential_id is None else await self.key(ws, credential_id)

    async def has_key(self, ws: str, provider: str) -> bool:
        return await self._of_provider(ws, provider) is not None

    async def _of_provider(self, ws: str, provider: str) -> str | None:
        """Named or tagged like the provider; of several the newest, its own environment before none."""
        named = await self._store.id_of(ws, provider)
        found = [named] if named else []
        found += sorted(await self._store.tagged(ws, provider), reverse=True)
        fitting: list[tuple[bool, str]] = []
        for credential_id in found:
            stored = await self._store.read(ws, credential_id)
            item = Item.of(stored) if stored else None
            if item is not None and item.environment in (self._environment, None):
                fitting.append((item.environment is None, credential_id))
        return min(fitting, key=lambda one: one[0])[1] if fitting else None

    async def _opened(self, ws: str, stored: StoredCredential) -> Any:
        return orjson.loads(await self._envelope.open(stored.sealed, ws, stored.id, str(stored.version)))
