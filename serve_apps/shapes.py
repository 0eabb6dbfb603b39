"""What the API answers, for its OpenAPI document: not run on requests, held true by tests of the answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.executions.order import Phase, Status

AGENT = "agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
EXECUTION = "exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
MOMENT = "2024-01-15T10:00:00.000Z"

Time = Annotated[
    str, Field(json_schema_extra={"format": "date-time", "examples": [MOMENT]}, description="RFC 3339, UTC.")
]
Usd = Annotated[float | None, Field(description="USD; null when the price is unknown.", examples=[0.05])]
AgentStatus = Literal["active", "inactive", "error"]


def _shape(**example: Any) -> ConfigDict:
    return ConfigDict(extra="allow", json_schema_extra={"examples": [example]} if example else None)


class Pagination(BaseModel):
    model_config = _shape(page=1, limit=20, total=45, pages=3)

    page: int
    limit: int
    total: int
    pages: int


class PageShape(BaseModel):
    pagination: Pagination
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


class ErrorBody(BaseModel):
    model_config = _shape()

    code: str = Field(examples=["VALIDATION_ERROR"])
    message: str = Field(examples=["Invalid agent configuration"])
    details: dict[str, Any] = Field(
        examples=[{"field": "flow.nodes[0].config.model", "reason": "Model 'gpt-5' is not supported"}]
    )
    request_id: str | None = Field(None, examples=["req_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    retryable: bool
    docs_url: str = Field(examples=["/docs/errors#VALIDATION_ERROR"])


class ErrorAnswer(BaseModel):
    error: ErrorBody


class AgentItem(BaseModel):
    model_config = _shape()

    id: str = Field(examples=[AGENT])
    name: str = Field(examples=["Code Review Assistant"])
    description: str
    status: AgentStatus
    created_at: Time
    updated_at: Time
    execution_count: int = Field(examples=[1247])
    success_rate: float | None = Field(
        description="completed of all that ended by themselves", examples=[0.985]
    )
    version: str = Field(examples=["1.2.0"])
    tags: list[str]


class AgentMetadata(BaseModel):
    version: str = Field(examples=["1.2.0"])
    tags: list[str]
    author: str = Field(examples=["user_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])


class Agent(AgentItem):
    flow: dict[str, Any] = Field(description="Nodes and edges, see `GET /node-types`.")
    metadata: AgentMetadata


class AgentPage(PageShape):
    agents: list[AgentItem]


class AgentVersion(BaseModel):
    model_config = _shape()

    id: str = Field(examples=[AGENT])
    name: str
    description: str
    flow: dict[str, Any]
    metadata: AgentMetadata
    created_at: Time


class VersionItem(BaseModel):
    version: str = Field(examples=["1.2.0"])
    created_at: Time
    author: str


class AgentVersionPage(BaseModel):
    versions: list[VersionItem]
    pagination: Pagination


class Defect(BaseModel):
    field: str = Field(examples=["flow.nodes[0].config.model"])
    reason: str = Field(examples=["Model 'gpt-5' is not supported"])


class Verdict(BaseModel):
    valid: bool
    errors: list[Defect]


class Links(BaseModel):
    self: str = Field(examples=[f"/v1/executions/{EXECUTION}"])
    stream: str
    events: str
    cancel: str


class StartedExecution(BaseModel):
    model_config = ConfigDict(extra="forbid")

    execution_id: str = Field(examples=[EXECUTION])
    status: Literal["running"]
    created_at: Time
    links: Links


class Result(BaseModel):
    output: Any = Field(examples=["Code review complete..."])
    tokens_used: int = Field(examples=[1523])
    cost: Usd


class PlacedOn(BaseModel):
    node: str | None
    cpu_seconds: float
    gpu_seconds: float


class NodeShape(BaseModel):
    model_config = _shape()

    id: str = Field(examples=["llm1"])
    status: Literal["running", "completed", "failed", "skipped", "cancelled", "timed_out"]
    attempt: int
    started_at: Time | None
    duration_ms: int | None
    tokens: int
    cost: Usd
    placed_on: PlacedOn
    output: Any = Field(None, description="up to 64 KB; a larger one is behind `output_link`")
    output_link: str | None = None


class LogLine(BaseModel):
    model_config = _shape(timestamp=MOMENT, level="info", message="Starting execution", node_id="entry")

    timestamp: Time
    level: str
    message: str
    node_id: str | None = None


class NodeDetail(NodeShape):
    logs: list[LogLine]


class ExecutionItem(BaseModel):
    model_config = _shape()

    id: str = Field(examples=[EXECUTION])
    agent_id: str | None = Field(description="null for an inline flow", examples=[AGENT])
    status: Status
    phase: Phase | None = Field(None, description="while it runs")
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    duration_ms: int | None = Field(examples=[45000])
    labels: dict[str, str]


class ExecutionSummary(ExecutionItem):
    tokens_used: int | None
    cost: Usd


class ExecutionPage(PageShape):
    executions: list[ExecutionSummary]


class Usage(BaseModel):
    input: int
    output: int
    cached: int


class Execution(ExecutionItem):
    agent_version: str | None
    queue_position: int | None = Field(None, description="1 is next in its workspace; while queued")
    result: Result | None = Field(description="null while it runs")
    tokens: dict[str, Usage] = Field(description="by model")
    error: ErrorBody | None = Field(None, description="why it did not complete; `details.node_id` says where")
    retry_of: str | None = None
    input: Any
    nodes: list[NodeShape]
    logs: list[LogLine]


class CancelAnswer(BaseModel):
    model_config = _shape(id=EXECUTION, status="running", phase="cancelling")

    id: str
    status: Status
    phase: Phase | None = None


class StreamTicket(BaseModel):
    model_config = _shape(ticket="…", expires_at=MOMENT, path=f"/v1/executions/{EXECUTION}/stream?ticket=…")

    ticket: str = Field(description="shown once")
    expires_at: Time
    path: str


class ApiKeyShape(BaseModel):
    model_config = _shape()

    id: str = Field(examples=["key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    name: str = Field(examples=["CI"])
    prefix: str = Field(examples=["cxk_dev_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    workspace_id: str
    created_by: str
    scopes: list[str] = Field(examples=[["agents:read", "executions:write"]])
    agents: list[str] | None = Field(description="the only agents it reaches; null: all")
    collections: list[str] | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


class NewApiKey(ApiKeyShape):
    key: str = Field(description="shown once", examples=["cxk_dev_01JZ8XJ4T2QK5V9W3M7N6P1R8S_…"])


class ApiKeyPage(PageShape):
    api_keys: list[ApiKeyShape]


class WorkspaceShape(BaseModel):
    model_config = _shape(id="ws_01JZ8XJ4T2QK5V9W3M7N6P1R8S", name="Default", plan="enterprise")

    id: str
    name: str
    plan: str


class Me(BaseModel):
    user: dict[str, Any] = Field(examples=[{"id": "user_01JZ8XJ4T2QK5V9W3M7N6P1R8S", "name": "Owner"}])
    workspace: WorkspaceShape
    key: dict[str, Any] = Field(examples=[{"id": "key_01JZ8XJ4T2QK5V9W3M7N6P1R8S", "scopes": ["admin"]}])


class WorkspacePage(PageShape):
    workspaces: list[WorkspaceShape]


class NodeTypeShape(BaseModel):
    name: str = Field(examples=["template"])
    title: str
    config_schema: dict[str, Any] = Field(alias="schema", description="JSON Schema of `config`")
    example: dict[str, Any]


class NodeTypes(BaseModel):
    node_types: list[NodeTypeShape]


class ModelShape(BaseModel):
    model_config = _shape()

    id: str = Field(examples=["gpt-4"])
    provider: str = Field(examples=["openai"])
    kind: Literal["chat", "embedding", "rerank"]
    ready: bool
    missing: str | None = Field(None, description="what to store before it can be used")
    context_length: int | None = None
    dimensions: int | None = None
    price: dict[str, float] | None = Field(None, description="USD per million tokens")


class ModelsAnswer(BaseModel):
    models: list[ModelShape]


class Health(BaseModel):
    status: Literal["ok"]
