"""Agents: made, found, changed, taken back, deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

from kernel.agents.record import AgentCreate, AgentPatch, AgentRecord
from kernel.agents.search import AgentFilter
from kernel.errors import MAX_PROBLEMS
from kernel.paging import PageQuery
from serve_apps import answers
from serve_apps.deps import AgentId, Caller, Paging, needs, numbered, paged
from serve_apps.openapi import gives, gives_nothing
from serve_apps.routing import Route
from serve_apps.shapes import Agent, AgentPage, AgentStatus, AgentVersion, AgentVersionPage, Verdict

router = APIRouter(prefix="/v1", route_class=Route, tags=["agents"])

Reader = Annotated[Caller, needs("agents:read")]
Writer = Annotated[Caller, needs("agents:write")]

EXAMPLE: JsonValue = {
    "name": "Code Review Assistant",
    "description": "Reviews code for bugs and best practices",
    "flow": {
        "nodes": [
            {
                "id": "llm1",
                "type": "llm",
                "config": {"model": "smollm2-135m-instruct", "prompt": "Review this code..."},
            }
        ],
        "edges": [{"source": "entry", "target": "llm1"}],
    },
    "tags": ["development", "code-review"],
}


class NewAgent(AgentCreate):
    """An agent to be made. `input_schema` is a JSON Schema that each `input` is checked against."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class AgentChanges(AgentPatch):
    """An absent field stays; `tags` replaces; `flow` may carry only `nodes` or only `edges`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Updated Name"}]})


class Rollback(BaseModel):
    """Which version to go back to."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"version": "1.0.0"}]}
    )

    version: str = Field(max_length=32)


@router.get("/agents/{agent_id}", summary="Get an agent", responses=gives(200, Agent, "The agent."))
async def get(caller: Reader, agent_id: AgentId) -> Response:
    """With its flow."""
    caller.who.require_agent(agent_id)
    record = await caller.kernel.agents.get(caller.workspace_id, agent_id)
    return answers.read(caller, record.shown(), record.etag)


@router.get("/agents", summary="List agents", responses=gives(200, AgentPage, "A page, newest first."))
async def index(
    caller: Reader,
    paging: Annotated[Paging, paged],
    status: Annotated[AgentStatus | None, Query(description="Only in this state.")] = None,
    search: Annotated[
        str | None,
        Query(
            max_length=256,
            description="Words, or beginnings of words, of name and description.",
            examples=["code rev"],
        ),
    ] = None,
    tag: Annotated[
        str | None,
        Query(min_length=1, max_length=64, description="Only with this tag.", examples=["development"]),
    ] = None,
) -> Response:
    """Newest first; filters combine with AND."""
    query = paging.of("agent")
    wanted = AgentFilter.of(status, search, tag, caller.who.agents)
    return answers.listed(
        caller, "agents", await caller.kernel.agents.list(caller.workspace_id, wanted, query), query
    )


@router.post("/agents", status_code=201, summary="Create an agent", responses=gives(201, Agent, "The agent."))
async def create(caller: Writer, order: NewAgent) -> Response:
    """Everything wrong with the flow is told at once, each with its path.

    A flow that uses secrets takes the scope `vault:read`, too: who says where one is sent can read it.
    """
    caller.who.require_all_agents()
    record = await caller.kernel.agents.create(
        caller.workspace_id,
        caller.who.user_id,
        order,
        agent_id=caller.created_before,
        idempotency_record=caller.record,
        use_secrets=caller.who.require_secrets,
    )
    return answers.created(record.shown(), f"/v1/agents/{record.id}", record.etag)


@router.post(
    "/agents/validate", summary="Validate an agent", responses=gives(200, Verdict, "What is wrong with it.")
)
async def validate(
    caller: Reader,
    body: Annotated[dict[str, Any], Body(description="As for `POST /agents`.", examples=[EXAMPLE])],
) -> Response:
    """Checks a body for `POST /agents`; nothing is stored. Tells the first 50 errors."""
    problems = await caller.kernel.agents.validate(caller.workspace_id, body, caller.who.require_secrets)
    found = [{"field": one.field, "reason": one.reason} for one in problems[:MAX_PROBLEMS]]
    return answers.done({"valid": not found, "errors": found})


@router.patch("/agents/{agent_id}", summary="Update an agent", responses=gives(200, Agent, "The agent."))
async def patch(caller: Writer, agent_id: AgentId, changes: AgentChanges) -> Response:
    """Makes a new version; executions under way keep theirs."""
    caller.who.require_agent(agent_id)
    record = await caller.kernel.agents.patch(
        *(caller.workspace_id, agent_id, changes, caller.who.user_id, answers.if_match(caller)),
        use_secrets=caller.who.require_secrets,
    )
    return _changed(record)


@router.delete(
    "/agents/{agent_id}",
    status_code=204,
    summary="Delete an agent",
    responses=gives_nothing(204, "Deleted. Its executions stay readable, those under way finish."),
)
async def delete(caller: Writer, agent_id: AgentId) -> Response:
    """It cannot be executed any more."""
    caller.who.require_agent(agent_id)
    await caller.kernel.agents.delete(caller.workspace_id, agent_id, answers.if_match(caller))
    return answers.no_content()


@router.get(
    "/agents/{agent_id}/versions",
    summary="List an agent's versions",
    responses=gives(200, AgentVersionPage, "A page, newest first."),
)
async def versions(caller: Reader, agent_id: AgentId, query: Annotated[PageQuery, numbered]) -> Response:
    """A version never changes. Pages go by number alone."""
    caller.who.require_agent(agent_id)
    page = await caller.kernel.agents.versions(caller.workspace_id, agent_id, query)
    return answers.read(caller, {"versions": page.items, "pagination": page.pagination(query)})


@router.get(
    "/agents/{agent_id}/versions/{version}",
    summary="Get a version of an agent",
    responses=gives(200, AgentVersion, "The agent as it was."),
)
async def version(
    caller: Reader,
    agent_id: AgentId,
    version: Annotated[str, Path(description="Such as 1.2.0.", examples=["1.2.0"])],
) -> Response:
    """Its flow, name and tags at that version."""
    caller.who.require_agent(agent_id)
    return answers.read(caller, await caller.kernel.agents.version(caller.workspace_id, agent_id, version))


@router.post(
    "/agents/{agent_id}/rollback", summary="Roll an agent back", responses=gives(200, Agent, "The agent.")
)
async def rollback(caller: Writer, agent_id: AgentId, order: Rollback) -> Response:
    """A new version with the flow and input schema of an earlier one."""
    caller.who.require_agent(agent_id)
    record = await caller.kernel.agents.rollback(
        *(caller.workspace_id, agent_id, order.version, caller.who.user_id, answers.if_match(caller)),
        use_secrets=caller.who.require_secrets,
    )
    return _changed(record)


def _changed(record: AgentRecord) -> Response:
    return answers.done(record.shown(), record.etag)
