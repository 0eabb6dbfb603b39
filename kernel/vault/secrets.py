"""Secrets for those who use them: by name, by id, or as the key of a model provider.

A value is opened where it is used and kept by nobody here. Access tokens (OAuth 2) are renewed on the way when they are
about to end: by one process at a time for the whole installation, while the others wait for what it gets.

Before a value is opened the audit log says for whom: once an hour for each credential and user of it (an agent, the
ingestion), for the executions themselves tell of every use.
"""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from kernel.access.audit import AuditEntry, Outcome
from kernel.errors import NotFound
from kernel.ids import is_id
from kernel.sealing import Damaged, Envelope
from kernel.storage.vault import StoredCredential, VaultStore
from kernel.vault.oauth import Renewal

HOUR_MS = 3_600_000
MOST_NOTED = 10_000
"""Uses remembered here; of those that are forgotten the store is asked."""
KEY_FIELDS = ("api_key", "access_token", "token", "password", "secret")
"""Of a structured value, the field that opens a provider: the first there is."""


class Secrets:
    """environment: credentials of another one serve no model provider."""

    def __init__(self, store: VaultStore, envelope: Envelope, renewal: Renewal, environment: str):
        self._store, self._envelope = store, envelope
        self._renewal, self._environment = renewal, environment
        self._noted: dict[tuple[str, str, str], int] = {}

    async def known(
        self, ws: str, names: Collection[str], ids: Collection[str]
    ) -> tuple[Mapping[str, str], Collection[str]]:
        """Of these names, in lower case, and ids those that the workspace has: ids by name, and ids."""
        return await self._store.known(ws, names, [one for one in ids if is_id("cred", one)])

    async def named(self, ws: str, name: str, user: str) -> Any:
        """The value of a credential by its name, in any case, for that user of it.

        Raises NotFound, Damaged, Unavailable, ProviderError.
        """
        credential_id = await self._store.id_of(ws, name)
        if credential_id is None:
            raise NotFound("Credential not found")
        return await self.value(ws, credential_id, user)

    async def value(self, ws: str, credential_id: str, user: str) -> Any:
        """Text, or an object with fields. Raises as `named`."""
        stored = await self._store.read(ws, credential_id) if is_id("cred", credential_id) else None
        if stored is None:
            raise NotFound("Credential not found")
        return await self._value(ws, stored, user)

    async def fields(self, ws: str, user: str, credential_id: str) -> Mapping[str, str]:
        """The texts of a value by field; a plain one is `value`. Raises as `named`."""
        return _fields(await self.value(ws, credential_id, user))

    async def key(self, ws: str, credential_id: str, user: str) -> str:
        """The one text of a credential that opens a provider. Raises as `named`."""
        return _key(await self.value(ws, credential_id, user))

    async def provider_key(self, ws: str, provider: str, user: str) -> str | None:
        """The workspace's own key of a model provider. Raises as `key`."""
        stored = await self._store.of_provider(ws, provider, self._environment)
        return None if stored is None else _key(await self._value(ws, stored, user))

    async def has_key(self, ws: str, provider: str) -> bool:
        return await self._store.of_provider(ws, provider, self._environment) is not None

    async def aclose(self) -> None:
        """Lets renewals that are under way end."""
        await self._renewal.aclose()

    async def _value(self, ws: str, stored: StoredCredential, user: str) -> Any:
        await self._note(ws, stored.id, user)
        try:
            text = await self._envelope.open(stored.sealed, ws, stored.id, str(stored.version))
        except Damaged:
            await self._store.note(
                ws, stored.id, self._entry(stored.id, {"by": user, "reason": "damaged"}, "refused")
            )
            raise
        return await self._renewal.fresh(ws, stored, orjson.loads(text))

    async def _note(self, ws: str, credential_id: str, user: str) -> None:
        use, hour = (ws, credential_id, user), self._renewal.clock.now_ms() // HOUR_MS
        if self._noted.get(use) == hour:
            return
        await self._store.note_use(ws, credential_id, user, self._entry(credential_id, {"by": user}, "ok"))
        if len(self._noted) >= MOST_NOTED:
            self._noted.clear()
        self._noted[use] = hour

    def _entry(self, credential_id: str, details: dict[str, Any], outcome: Outcome) -> str:
        """What the platform does by itself has no key and no address."""
        return AuditEntry(
            at=self._renewal.clock.now_ms(),
            user_id=None,
            key_id=None,
            action="credential.use",
            target=credential_id,
            outcome=outcome,
            request_id="",
            address="",
            details=details,
        ).text()


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
