"""Executions: order, look, wait, cancel, retry, delete."""

from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema
from starlette.responses import Response

from kernel.agents.flow import MAX_CONFIG_BYTES, Flow
from kernel.clock import epoch_ms, rfc3339
from kernel.executions.executions import MAX_INPUT
from kernel.executions.order import ExecutionFilter, Order, Started, Status
from serve_apps import answers
from serve_apps.deps import AgentId, Caller, ExecutionId, Paging, Whole, needs, paged
from serve_apps.openapi import gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import AGENT, CancelAnswer, Execution, ExecutionPage, NodeDetail, StartedExecution

router = APIRouter(prefix="/v1", route_class=Route, tags=["executions"])

Reader = Annotated[Caller, needs("executions:read")]
Writer = Annotated[Caller, needs("executions:write")]
Wait = Annotated[
    int,
    Field(ge=0, le=60),
    Whole,
    Query(description="Seconds to wait for the end; answers 200 with it if it comes in time."),
]
Moment = Annotated[
    int,
    BeforeValidator(lambda text: max(0, epoch_ms(text))),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2024-01-15T10:00:00Z"]}),
]

STARTS = gives(202, StartedExecution, "Accepted; it runs whether anyone waits or not.")
ENDS = gives(200, Execution, "It ended while we waited.")
ROOM = 65_536
"""Bytes of a body for all that is not input or config."""
INPUT: JsonValue = {"code_snippet": "function add(a, b) { return a + b }", "language": "javascript"}


class ExecuteOrder(Order):
    """What to run an agent with."""

    max_body: ClassVar = MAX_INPUT + ROOM

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input": INPUT, "options": {"timeout": 30_000, "max_tokens": 2_000}}]
        }
    )


class InlineOrder(Order):
    """A flow that is not stored, and what to run it with."""

    max_body: ClassVar = MAX_INPUT + MAX_CONFIG_BYTES + ROOM

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "flow": {
                        "nodes": [
                            {"id": "hello", "type": "template", "config": {"template": "Hi {{ input.name }}"}}
                        ]
                    },
                    "input": {"name": "Ada"},
                }
            ]
        }
    )

    flow: Flow


@router.post(
    "/agents/{agent_id}/execute", status_code=202, summary="Execute an agent", responses=STARTS | ENDS
)
async def execute(caller: Writer, agent_id: AgentId, order: ExecuteOrder, wait: Wait = 0) -> Response:
    """Starts an execution of the agent's current version, or of `options.version`."""
    caller.who.require_agent(agent_id)
    started = await _earlier(caller) or await caller.kernel.executions.start(
        caller.who, agent_id, order, wait=wait > 0, idempotency_record=caller.record
    )
    return await _started(caller, started, wait)


@router.post("/executions", status_code=202, summary="Execute an inline flow", responses=STARTS | ENDS)
async def execute_inline(
    caller: Annotated[Caller, needs("executions:write", "agents:write")], order: InlineOrder, wait: Wait = 0
) -> Response:
    """Runs a flow without storing it as an agent. It is checked like a stored one."""
    caller.who.require_all_agents()
    started = await _earlier(caller) or await caller.kernel.executions.start_inline(
        caller.who, order.flow, order, wait=wait > 0, idempotency_record=caller.record
    )
    return await _started(caller, started, wait)


@router.get(
    "/executions/{execution_id}",
    summary="Get an execution",
    responses=gives(200, Execution, "The execution."),
)
async def get(caller: Reader, execution_id: ExecutionId) -> Response:
    """Its state, result, nodes and logs."""
    return answers.read(caller, await reach(caller, execution_id))


@router.get(
    "/executions", summary="List executions", responses=gives(200, ExecutionPage, "A page, newest first.")
)
async def index(
    caller: Reader,
    paging: Annotated[Paging, paged],
    agent_id: Annotated[
        str | None, Query(max_length=64, description="Only of this agent.", examples=[AGENT])
    ] = None,
    status: Annotated[Status | None, Query(description="Only in this state.")] = None,
    label: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=r"^[^=\x00]+=[^\x00]*$",
            description="`name=value`",
            examples=["team=core"],
        ),
    ] = None,
    started_after: Annotated[Moment | None, Query(description="Created at or after.")] = None,
    started_before: Annotated[Moment | None, Query(description="Created before.")] = None,
) -> Response:
    """Newest first; filters combine with AND."""
    if agent_id is not None:
        caller.who.require_agent(agent_id)
    else:
        caller.who.require_all_agents()
    wanted = ExecutionFilter(agent_id, status, label, started_after, started_before)
    query = paging.of("exec")
    return answers.listed(
        caller, "executions", await caller.kernel.executions.list(caller.workspace_id, wanted, query), query
    )


@router.post(
    "/executions/{execution_id}/cancel",
    summary="Cancel an execution",
    responses=gives(200, CancelAnswer, "It is cancelled.")
    | gives(202, CancelAnswer, "It is being cancelled."),
)
async def cancel(caller: Writer, execution_id: ExecutionId) -> Response:
    """Stops it, the model call in flight included. Repeating it changes nothing."""
    await _check_reach(caller, execution_id)
    state = await caller.kernel.executions.cancel(caller.workspace_id, execution_id)
    if state["status"] == "running":
        return answers.accepted(state, f"/v1/executions/{execution_id}")
    return answers.done(state)


@router.post(
    "/executions/{execution_id}/retry", status_code=202, summary="Retry an execution", responses=STARTS
)
async def retry(
    caller: Writer,
    execution_id: ExecutionId,
    start: Annotated[
        Literal["failed", "start"],
        Query(alias="from", description="`failed` keeps the nodes that completed, `start` runs all again."),
    ] = "failed",
) -> Response:
    """A new execution of the same order."""
    await _check_reach(caller, execution_id)
    started = await _earlier(caller) or await caller.kernel.executions.retry(
        caller.who, execution_id, start, idempotency_record=caller.record
    )
    return await _started(caller, started, 0)


@router.get(
    "/executions/{execution_id}/nodes/{node_id}",
    summary="Get a node of an execution",
    responses=gives(200, NodeDetail, "The node, with its whole output."),
)
async def node(
    caller: Reader,
    execution_id: ExecutionId,
    node_id: Annotated[str, Path(description="As in the flow.", examples=["llm1"])],
) -> Response:
    """One node with its whole output, however large, and its logs."""
    await _check_reach(caller, execution_id)
    return answers.read(
        caller, await caller.kernel.executions.node(caller.workspace_id, execution_id, node_id)
    )


@router.delete(
    "/executions/{execution_id}",
    status_code=204,
    summary="Delete an execution",
    responses=gives_nothing(204, "Deleted, with its events."),
)
async def delete(caller: Writer, execution_id: ExecutionId) -> Response:
    """Only after it has ended."""
    await _check_reach(caller, execution_id)
    if answers.if_match(caller) is not None:
        answers.hold_match(caller, answers.etag_of(answers.encode(await reach(caller, execution_id))))
    await caller.kernel.executions.delete(caller.workspace_id, execution_id)
    return answers.no_content()


async def reach(caller: Caller, execution_id: str) -> dict[str, Any]:
    """The execution. Raises NotFound when there is none, or none for this key."""
    execution = await caller.kernel.executions.get(caller.workspace_id, execution_id)
    if caller.who.agents is not None:
        caller.who.require_agent(execution["agent_id"] or "")
    return execution


async def _check_reach(caller: Caller, execution_id: str) -> None:
    if caller.who.agents is not None:
        await reach(caller, execution_id)


async def _earlier(caller: Caller) -> Started | None:
    """What an earlier try of this same request started before it was lost."""
    if (execution_id := caller.created_before) is None:
        return None
    execution = await caller.kernel.executions.get(caller.workspace_id, execution_id)
    return Started(execution_id, epoch_ms(execution["created_at"]))


async def _started(caller: Caller, started: Started, wait: int) -> Response:
    name = started.execution_id
    if wait and (ended := await caller.kernel.executions.wait(caller.workspace_id, name, wait)):
        return answers.done(ended)
    path = f"/v1/executions/{name}"
    links = {"self": path, "stream": f"{path}/stream", "events": f"{path}/events", "cancel": f"{path}/cancel"}
    created = rfc3339(started.created_at)
    return answers.accepted(
        {"execution_id": name, "status": "running", "created_at": created, "links": links}, path
    )
