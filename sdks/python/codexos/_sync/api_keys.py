from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from codexos._call import UNSET, Call, Unset, given, path, value_of, written
from codexos._listing import Listing
from codexos._sync.paging import Page, listed
from codexos._sync.transport import Transport
from codexos.types.access import ApiKey, NewApiKey


class ApiKeys:
    def __init__(self, transport: Transport):
        self._transport = transport

    def list(self, *, page: int | None = None, limit: int | None = None) -> Page[ApiKey]:
        call = Call("GET", "/api-keys", {"page": page, "limit": limit})
        return listed(self._transport, Listing(call, "api_keys", ApiKey.read))

    def create(
        self,
        *,
        name: str,
        scopes: Sequence[str],
        workspace_id: str | None = None,
        expires_at: datetime | None = None,
        agents: Sequence[str] | None = None,
        collections: Sequence[str] | None = None,
    ) -> NewApiKey:
        """Its `key` is told this once. agents, collections: the only ones it shall reach."""
        body = given(
            name=name, scopes=scopes, workspace_id=workspace_id, agents=agents, collections=collections
        )
        body |= given(expires_at=expires_at and written(expires_at))
        return NewApiKey.read(value_of(self._transport.send(Call("POST", "/api-keys", json=body))))

    def get(self, key_id: str) -> ApiKey:
        return ApiKey.read(value_of(self._transport.send(Call("GET", path("api-keys", key_id)))))

    def update(
        self,
        key_id: str,
        *,
        name: str | None = None,
        scopes: Sequence[str] | None = None,
        expires_at: datetime | Unset | None = UNSET,
        agents: Sequence[str] | Unset | None = UNSET,
        collections: Sequence[str] | Unset | None = UNSET,
    ) -> ApiKey:
        """What is not given stays; None takes an expiry or a restriction away."""
        when = written(expires_at) if isinstance(expires_at, datetime) else expires_at
        nullable = {"expires_at": when, "agents": agents, "collections": collections}
        body = given(name=name, scopes=scopes)
        body |= {field: value for field, value in nullable.items() if value is not UNSET}
        call = Call("PATCH", path("api-keys", key_id), json=body)
        return ApiKey.read(value_of(self._transport.send(call)))

    def revoke(self, key_id: str) -> None:
        """It is refused everywhere within a second."""
        self._transport.send(Call("DELETE", path("api-keys", key_id)))
