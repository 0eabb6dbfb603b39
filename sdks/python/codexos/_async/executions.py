from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from codexos._async.paging import AsyncPages, listed
from codexos._async.streams import AsyncEventStream
from codexos._async.transport import AsyncTransport
from codexos._call import Call, given, path, value_of
from codexos._listing import Listing
from codexos.types.events import Event, event_of
from codexos.types.executions import ExecuteOptions, Execution, ExecutionItem, ExecutionStatus, Node

LONGEST_WAIT_S = 60


class AsyncExecutions:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    async def create(
        self,
        *,
        flow: Mapping[str, Any],
        input: Any = None,
        options: ExecuteOptions | None = None,
        wait: float = 0,
        idempotency_key: str | None = None,
    ) -> Execution:
        """Runs a flow without storing it as an agent. For the rest see `agents.execute`."""
        body = {"flow": flow} | given(input=input, options=options)
        return await start(self._transport, "/executions", body, wait, idempotency_key)

    async def get(self, execution_id: str) -> Execution:
        response = await self._transport.send(Call("GET", path("executions", execution_id)))
        return Execution.read(value_of(response))

    def list(
        self,
        *,
        agent_id: str | None = None,
        status: ExecutionStatus | None = None,
        label: str | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        page: int | None = None,
        limit: int | None = None,
    ) -> AsyncPages[ExecutionItem]:
        """Newest first. label: `name=value`. Iterating goes on over all pages of `limit` items."""
        when = {"started_after": started_after, "started_before": started_before}
        which = {"agent_id": agent_id, "status": status, "label": label, "page": page, "limit": limit}
        call = Call("GET", "/executions", {**which, **when})
        return listed(self._transport, Listing(call, "executions", ExecutionItem.read))

    async def wait(self, execution_id: str, *, timeout: float | None = None) -> Execution:
        """The execution once it has ended. timeout: seconds. Raises WaitTimeoutError; it goes on all the same."""
        execution = await self.get(execution_id)
        if execution.has_ended:
            return execution
        async with self.stream(execution_id, timeout=timeout) as events:
            async for _ in events:
                pass
        return await self.get(execution_id)

    def stream(
        self, execution_id: str, *, after: int = 0, timeout: float | None = None
    ) -> AsyncEventStream[Event]:
        """Its events from the first, or from that after `after`, until its end; live and afterwards.

        A lost connection is opened again where it ended. timeout: seconds until WaitTimeoutError.
        """
        where = path("executions", execution_id, "events")
        return AsyncEventStream(self._transport, where, event_of, after, timeout)

    async def node(self, execution_id: str, node_id: str) -> Node:
        """One node with its whole output, however large."""
        call = Call("GET", path("executions", execution_id, "nodes", node_id))
        return Node.read(value_of(await self._transport.send(call)))

    async def cancel(self, execution_id: str) -> Execution:
        """As it is then; what runs ends within a second. Repeating it changes nothing."""
        await self._transport.send(Call("POST", path("executions", execution_id, "cancel")))
        return await self.get(execution_id)

    async def retry(self, execution_id: str, *, start: Literal["failed", "start"] = "failed") -> Execution:
        """A new execution of the same order. start: `failed` keeps the nodes that completed, `start` none."""
        where = path("executions", execution_id, "retry")
        return started(value_of(await self._transport.send(Call("POST", where, {"from": start}))))

    async def delete(self, execution_id: str) -> None:
        """Only after it has ended."""
        await self._transport.send(Call("DELETE", path("executions", execution_id)))


async def start(
    transport: AsyncTransport,
    where: str,
    body: Mapping[str, Any],
    wait: float,
    idempotency_key: str | None,
) -> Execution:
    seconds = min(LONGEST_WAIT_S, math.ceil(wait))
    query = {"wait": seconds} if seconds else {}
    call = Call("POST", where, query, body, wait_s=seconds, idempotency_key=idempotency_key)
    return started(value_of(await transport.send(call)))


def started(raw: Mapping[str, Any]) -> Execution:
    """From the answer to a start, which calls the id `execution_id`, or is the ended execution."""
    return Execution.read(raw if "id" in raw else {**raw, "id": raw["execution_id"]})
