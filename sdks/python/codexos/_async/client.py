from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx2

from codexos._async.agents import AsyncAgents
from codexos._async.api_keys import AsyncApiKeys
from codexos._async.executions import AsyncExecutions
from codexos._async.models import AsyncModels
from codexos._async.rag import AsyncRag
from codexos._async.transport import AsyncTransport
from codexos._async.usage import AsyncUsage
from codexos._async.workspaces import AsyncWorkspaces
from codexos._call import Call, given, value_of
from codexos._connection import connection
from codexos._limits import RateLimits
from codexos._options import RETRIES, TIMEOUT_S, Options
from codexos.types.access import Me


class AsyncClient:
    """A client of one CodexOS API, with the rights of one key.

    api_key, base_url: by default `CODEXOS_API_KEY` and `CODEXOS_BASE_URL`, else those of the platform that runs from
    this folder, or from `CODEXOS_HOME`. timeout: seconds that the server may be silent. max_retries: tries after the
    first, for what may pass: a lost connection, 408, 409 that says so, 429, 5xx. headers: sent with every call.
    http_client: your own, for a proxy or certificates.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = RETRIES,
        headers: Mapping[str, str] | None = None,
        http_client: httpx2.AsyncClient | None = None,
    ):
        options = Options(timeout, max_retries, dict(headers or {}))
        self._use(AsyncTransport(connection(base_url, api_key), options, http_client))

    def _use(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.agents = AsyncAgents(transport)
        self.executions = AsyncExecutions(transport)
        self.rag = AsyncRag(transport)
        self.usage = AsyncUsage(transport)
        self.api_keys = AsyncApiKeys(transport)
        self.workspaces = AsyncWorkspaces(transport)
        self.models = AsyncModels(transport)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    @property
    def limits(self) -> RateLimits | None:
        """Where the key's workspace stood with its plan's limits at the last answer; None before the first."""
        return self._transport.limits

    def with_options(
        self,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """The same client with other options; it shares the connections of this one."""
        added = None if headers is None else {**self._transport.options.headers, **headers}
        other = type(self).__new__(type(self))
        other._use(self._transport.but(**given(timeout=timeout, max_retries=max_retries, headers=added)))
        return other

    async def me(self) -> Me:
        """User, workspace and scopes behind the key."""
        response = await self._transport.send(Call("GET", "/me"))
        return Me.read(value_of(response))

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """The answer of any route, such as `GET /agents`, as it came: status, headers, body.

        Retries and errors are those of all other calls.
        """
        call = Call(method.upper(), path, query or {}, json, headers=headers or {})
        return await self._transport.send(call)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
