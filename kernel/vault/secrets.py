"""Secrets for those who use them: by name, by id, or as the key of a model provider.

A value is opened where it is used and kept by nobody here. Access tokens (OAuth 2) are renewed on the way when they are
about to end: by one process at a time for the whole installation, while the others wait for what it gets.
"""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from kernel.errors import NotFound
from kernel.ids import is_id
from kernel.sealing import Envelope
from kernel.storage.vault import StoredCredential, VaultStore
from kernel.vault.oauth import Renewal

KEY_FIELDS = ("api_key", "access_token", "token", "password", "secret")
"""Of a structured value, the field that opens a provider: the first there is."""


class Secrets:
    """environment: credentials of another one serve no model provider."""

    def __init__(self, store: VaultStore, envelope: Envelope, renewal: Renewal, environment: str):
        self._store, self._envelope = store, envelope
        self._renewal, self._environment = renewal, environment

    async def known(
        self, ws: str, names: Collection[str], ids: Collection[str]
    ) -> tuple[Mapping[str, str], Collection[str]]:
        """Of these names, in lower case, and ids those that the workspace has: ids by name, and ids."""
        return await self._store.known(ws, names, [one for one in ids if is_id("cred", one)])

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
        return await self._value(ws, stored)

    async def fields(self, ws: str, credential_id: str) -> Mapping[str, str]:
        """The texts of a value by field; a plain one is `value`. Raises as `named`."""
        return _fields(await self.value(ws, credential_id))

    async def key(self, ws: str, credential_id: str) -> str:
        """The one text of a credential that opens a provider. Raises as `named`."""
        return _key(await self.value(ws, credential_id))

    async def provider_key(self, ws: str, provider: str) -> str | None:
        """The workspace's own key of a model provider. Raises as `key`."""
        stored = await self._store.of_provider(ws, provider, self._environment)
        return None if stored is None else _key(await self._value(ws, stored))

    async def has_key(self, ws: str, provider: str) -> bool:
        return await self._store.of_provider(ws, provider, self._environment) is not None

    async def aclose(self) -> None:
        """Lets renewals that are under way end."""
        await self._renewal.aclose()

    async def _value(self, ws: str, stored: StoredCredential) -> Any:
        value = orjson.loads(await self._envelope.open(stored.sealed, ws, stored.id, str(stored.version)))
        return await self._renewal.fresh(ws, stored, value)


def _fields(value: Any) -> Mapping[str, str]:
    if isinstance(value, str):
        return {"value": value}
    fields = {name: one for name, one in value.items() if isinstance(one, str)}
    return {"token": fields["access_token"]} | fields if "access_token" in fields else fields


def _key(value: Any) -> str:
    fields = _fields(value)
    found = next((fields[name] for name in ("value", *KEY_FIELDS) if name in fields), None)
    if found is None:
        raise NotFound("The credential has no key")
    return found
