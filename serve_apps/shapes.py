"""What the API answers, for its OpenAPI document: not run on requests, held true by tests of the answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.executions.order import Phase, Status

AGENT = "agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
EXECUTION = "exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
KEY = "key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
USER = "user_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
WORKSPACE = "ws_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
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

    id: str = Field(examples=[KEY])
    name: str = Field(examples=["CI"])
    prefix: str = Field(examples=["cxk_dev_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    workspace_id: str = Field(examples=[WORKSPACE])
    user_id: str = Field(description="for whom it acts", examples=[USER])
    created_by: str = Field(examples=[USER])
    scopes: list[str] = Field(examples=[["agents:read", "executions:write"]])
    agents: list[str] | None = Field(description="the only agents it reaches; null: all")
    collections: list[str] | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None
    replaced_by: str | None = Field(description="the successor of a key that was rotated")


class NewApiKey(ApiKeyShape):
    key: str = Field(description="shown once", examples=["cxk_dev_01JZ8XJ4T2QK5V9W3M7N6P1R8S_…"])


class Replaced(BaseModel):
    id: str = Field(examples=[KEY])
    expires_at: Time


class RotatedApiKey(NewApiKey):
    replaces: Replaced = Field(description="the old key and when it ends")


class ApiKeyPage(PageShape):
    api_keys: list[ApiKeyShape]


class LimitsShape(BaseModel):
    model_config = _shape(
        requests_per_hour=10_000, burst=500, concurrent=50, tokens_per_day=None, ingest_mb_per_day=None
    )

    requests_per_hour: int | None = Field(description="null: unlimited")
    burst: int | None
    concurrent: int | None
    tokens_per_day: int | None
    ingest_mb_per_day: int | None


RoleName = Literal["owner", "admin", "developer", "viewer"]


class WorkspaceShape(BaseModel):
    model_config = _shape()

    id: str = Field(examples=[WORKSPACE])
    name: str = Field(examples=["Default"])
    plan: str = Field(examples=["pro"])
    limits: LimitsShape = Field(description="the plan's, the workspace's own in their place")
    status: Literal["active", "disabled"]
    created_at: Time
    role: RoleName | None = Field(description="the caller's; null for the operator, who is no member")


class WorkspacePage(PageShape):
    workspaces: list[WorkspaceShape]


class MyUser(BaseModel):
    id: str = Field(examples=[USER])
    name: str = Field(examples=["Owner"])
    role: RoleName = Field(description="in this workspace")


class MyWorkspace(BaseModel):
    id: str = Field(examples=[WORKSPACE])
    name: str = Field(examples=["Default"])
    plan: str = Field(examples=["enterprise"])


class MyKey(BaseModel):
    id: str = Field(examples=[KEY])
    scopes: list[str] = Field(
        description="those that count: the key's, as far as the role allows them", examples=[["admin"]]
    )


class Me(BaseModel):
    user: MyUser
    workspace: MyWorkspace
    key: MyKey


class MemberShape(BaseModel):
    model_config = _shape()

    user_id: str = Field(examples=[USER])
    name: str = Field(examples=["Ada"])
    email: str | None = Field(examples=["ada@example.com"])
    role: RoleName


class MemberPage(PageShape):
    members: list[MemberShape]


class AuditItem(BaseModel):
    model_config = _shape()

    id: str = Field(examples=["evt_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    created_at: Time
    user_id: str | None = Field(examples=[USER])
    key_id: str | None = Field(examples=[KEY])
    action: str = Field(examples=["key.create"])
    target: str = Field(description="the id of what was acted on", examples=[KEY])
    outcome: Literal["ok", "refused"]
    request_id: str = Field(examples=["req_01JZ8XJ4T2QK5V9W3M7N6P1R8S"])
    address: str = Field(examples=["192.0.2.7"])
    details: dict[str, Any] = Field(examples=[{"name": "CI"}])


class AuditPage(PageShape):
    entries: list[AuditItem]


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


class Span(BaseModel):
    start: Time
    end: Time


class UsageCounts(BaseModel):
    executions: int | None = Field(description="that ended", examples=[15234])
    tokens: int | None = Field(description="input and output", examples=[1523456])
    storage_mb: float | None = Field(description="on average, in 10^6 bytes", examples=[892])
    api_calls: int | None = Field(examples=[45678])
    cpu_seconds: float | None = Field(examples=[5321.25])
    gpu_seconds: float | None = Field(examples=[0])
    ingested_mb: float | None = Field(examples=[0])
    unpriced_executions: int | None = Field(description="whose cost is not known", examples=[0])
    late_executions: int | None = Field(
        description="that ended in an earlier hour, which was closed already", examples=[0]
    )
    embedding_tokens: int | None = Field(
        description="that models of providers embedded for documents and for searches over the API; beside `tokens`, "
        "which are of executions",
        examples=[48210],
    )
    unpriced_embeddings: int | None = Field(
        description="calls for them whose cost is not known", examples=[0]
    )


class UsageBreakdown(BaseModel):
    compute: Usd = Field(
        description="models, embeddings and machines; null when no cost is known", examples=[123.45]
    )
    storage: float = Field(examples=[12.34])
    api: float = Field(examples=[98.77])


class UsageCosts(BaseModel):
    total: Usd = Field(examples=[234.56])
    breakdown: UsageBreakdown


class UsagePart(Span):
    usage: UsageCounts
    costs: UsageCosts


class UsageGroup(BaseModel):
    value: str | None = Field(
        description="null: what belongs to none; `(other)`: to others than the first 1,000", examples=[AGENT]
    )
    usage: UsageCounts = Field(description="null: not counted by this")
    costs: UsageCosts


class UsageStats(BaseModel):
    model_config = _shape()

    period: Span
    usage: UsageCounts
    costs: UsageCosts
    granularity: Literal["hour", "day", "week", "month"]
    series: list[UsagePart]
    group_by: Literal["agent", "key", "model", "label", "collection"] | None = Field(
        None, description="as asked"
    )
    groups: list[UsageGroup] | None = Field(None, description="dearest first; with `group_by`")


class BudgetAlert(BaseModel):
    threshold: float = Field(examples=[0.8])
    reached_at: Time | None = Field(description="null: not in this period")


class BudgetShape(BaseModel):
    model_config = _shape()

    scope: Literal["workspace", "agent", "key"]
    id: str | None = Field(description="the agent's or key's; null for the workspace", examples=[AGENT])
    period: Literal["day", "month"] = Field(description="in UTC")
    amount: float = Field(description="USD", examples=[200.0])
    alerts: list[BudgetAlert]
    hard_stop: bool = Field(description="whether executions are refused once it is spent")
    spent: float = Field(description="USD in this period", examples=[42.5])
    remaining: float = Field(description="USD, at least 0", examples=[157.5])
    resets_at: Time


class BudgetList(BaseModel):
    budgets: list[BudgetShape]
