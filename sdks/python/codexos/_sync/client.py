from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import httpx2

from codexos._call import Call, given, value_of
from codexos._connection import connection
from codexos._limits import RateLimits
from codexos._options import RETRIES, TIMEOUT_S, Options
from codexos._sync.agents import Agents
from codexos._sync.api_keys import ApiKeys
from codexos._sync.executions import Executions
from codexos._sync.models import Models
from codexos._sync.rag import Rag
from codexos._sync.transport import Transport
from codexos._sync.usage import Usage
from codexos._sync.workspaces import Workspaces
from codexos.types.access import Me


class Client:
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
        http_client: httpx2.Client | None = None,
    ):
        options = Options(timeout, max_retries, dict(headers or {}))
        self._use(Transport(connection(base_url, api_key), options, http_client))

    def _use(self, transport: Transport) -> None:
        self._transport = transport
        self.agents = Agents(transport)
        self.executions = Executions(transport)
        self.rag = Rag(transport)
        self.usage = Usage(transport)
        self.api_keys = ApiKeys(transport)
        self.workspaces = Workspaces(transport)
        self.models = Models(transport)

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

    def me(self) -> Me:
        """User, workspace and scopes behind the key."""
        response = self._transport.send(Call("GET", "/me"))
        return Me.read(value_of(response))

    def request(
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
        return self._transport.send(call)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
