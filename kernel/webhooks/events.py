"""The body of an event, made once: every receiver gets the same bytes, each time."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from kernel.storage.outbox import Row
from kernel.webhooks.record import payload

MAX_OUTPUT = 16_384
"""Bytes of an execution's output as JSON; a larger one is left out, with a link to it. Of a larger error its beginning
is told."""

Describe = Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
"""Workspace and execution to the execution as `GET /executions/{id}` shows it; None when it is deleted."""


class Bodies:
    def __init__(self, describe: Describe):
        self._describe = describe

    async def of(self, row: Row) -> bytes:
        """Raises Unavailable when an execution cannot be read now."""
        if row.execution_id is None:
            return payload(row.event, row.at, orjson.loads(row.data or b"{}"))
        known = await self._describe(row.workspace_id, row.execution_id)
        return payload(row.event, row.at, _execution(row.event, row.execution_id, known or {}))

    def bare(self, row: Row) -> bytes:
        """What can be said without asking anybody."""
        known = {} if row.execution_id is None else _execution(row.event, row.execution_id, {})
        return payload(row.event, row.at, known)


def _execution(event: str, execution_id: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The status is the one that the event tells of, though the execution may have gone on since."""
    said = event.partition(".")[2]
    status = "running" if said == "started" else said
    data = {"execution_id": execution_id, "agent_id": known.get("agent_id"), "status": status}
    if known.get("labels"):
        data["labels"] = known["labels"]
    if status == "completed" and known.get("result"):
        data["result"] = _result(execution_id, known["result"])
    if status == "failed" and known.get("error"):
        data["error"] = _error(known["error"])
    return data


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(error)) <= MAX_OUTPUT:
        return dict(error)
    return {**error, "message": error["message"][:1000], "details": {}}


def _result(execution_id: str, result: Mapping[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(result["output"])) <= MAX_OUTPUT:
        return dict(result)
    return {**result, "output": None, "output_link": f"/v1/executions/{execution_id}"}
