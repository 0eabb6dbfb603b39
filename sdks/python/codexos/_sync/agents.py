from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from codexos._call import UNSET, Call, Unset, given, path, value_of
from codexos._listing import Listing
from codexos._sync.executions import start
from codexos._sync.paging import Page, listed
from codexos._sync.transport import Transport
from codexos.types.agents import Agent, AgentItem, AgentStatus
from codexos.types.executions import ExecuteOptions, Execution


class Agents:
    def __init__(self, transport: Transport):
        self._transport = transport

    def list(
        self,
        *,
        page: int | None = None,
        limit: int | None = None,
        status: AgentStatus | None = None,
        search: str | None = None,
        tag: str | None = None,
    ) -> Page[AgentItem]:
        """Newest first. search: words, or their beginnings, of name and description."""
        query = {"page": page, "limit": limit, "status": status, "search": search, "tag": tag}
        return listed(self._transport, Listing(Call("GET", "/agents", query), "agents", AgentItem.read))

    def create(
        self,
        *,
        name: str,
        flow: Mapping[str, Any],
        description: str | None = None,
        tags: Sequence[str] | None = None,
        input_schema: Mapping[str, Any] | None = None,
    ) -> Agent:
        """flow: `nodes` and `edges`. Raises UnprocessableEntityError with everything that is wrong in `errors`."""
        body = given(name=name, flow=flow, description=description, tags=tags, input_schema=input_schema)
        return Agent.read(value_of(self._transport.send(Call("POST", "/agents", json=body))))

    def get(self, agent_id: str) -> Agent:
        return Agent.read(value_of(self._transport.send(Call("GET", path("agents", agent_id)))))

    def update(
        self,
        agent_id: str,
        *,
        name: str | None = None,
        flow: Mapping[str, Any] | None = None,
        description: str | None = None,
        tags: Sequence[str] | None = None,
        status: Literal["active", "inactive"] | None = None,
        input_schema: Mapping[str, Any] | Unset | None = UNSET,
    ) -> Agent:
        """What is not given stays; `flow` may have only nodes or only edges. input_schema: None takes it away."""
        body = given(name=name, flow=flow, description=description, tags=tags, status=status)
        body |= {} if isinstance(input_schema, Unset) else {"input_schema": input_schema}
        call = Call("PATCH", path("agents", agent_id), json=body)
        return Agent.read(value_of(self._transport.send(call)))

    def delete(self, agent_id: str) -> None:
        """Its executions stay readable."""
        self._transport.send(Call("DELETE", path("agents", agent_id)))

    def execute(
        self,
        agent_id: str,
        input: Any = None,
        options: ExecuteOptions | None = None,
        *,
        wait: float = 0,
        idempotency_key: str | None = None,
    ) -> Execution:
        """Starts an execution: `result` is in it if it ended within `wait` seconds (at most 60), else it runs.

        `executions.wait` waits for its end, `executions.stream` follows it.
        """
        body = given(input=input, options=options)
        return start(self._transport, path("agents", agent_id, "execute"), body, wait, idempotency_key)
