from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from codexos.types._model import Model

ExecutionStatus = Literal["running", "completed", "failed", "cancelled", "timed_out"]
Phase = Literal["queued", "executing", "waiting_input", "cancelling"]


class ExecuteOptions(TypedDict, total=False):
    """timeout: ms that it may run. max_tokens: output tokens of all nodes together. max_cost: USD."""

    timeout: int
    max_tokens: int
    max_cost: float
    priority: Literal["low", "normal", "high"]
    version: str
    labels: dict[str, str]
    webhook_url: str


@dataclass(frozen=True, kw_only=True)
class ErrorInfo(Model):
    """Why something did not complete; `details["node_id"]` says where."""

    code: str
    message: str
    details: dict[str, Any]
    retryable: bool = False


@dataclass(frozen=True, kw_only=True)
class Result(Model):
    """cost: USD, None when a price is unknown."""

    output: Any
    tokens_used: int
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Tokens(Model):
    input: int
    output: int
    cached: int


@dataclass(frozen=True, kw_only=True)
class PlacedOn(Model):
    node: str | None
    cpu_seconds: float
    gpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class LogLine(Model):
    timestamp: datetime
    level: str
    message: str
    node_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Node(Model):
    """output: None when it is larger than 64 KB; `executions.node` gets it then."""

    id: str
    status: Literal["running", "completed", "failed", "skipped", "cancelled", "timed_out"]
    attempt: int
    started_at: datetime | None
    duration_ms: int | None
    tokens: int
    cost: float | None
    placed_on: PlacedOn | None
    output: Any = None
    output_link: str | None = None
    error: ErrorInfo | None = None
    logs: list[LogLine] | None = None


@dataclass(frozen=True, kw_only=True)
class ExecutionItem(Model):
    """An execution as lists show it."""

    id: str
    agent_id: str | None
    status: ExecutionStatus
    phase: Phase | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    labels: dict[str, str] | None = None
    tokens_used: int | None = None
    cost: float | None = None

    @property
    def execution_id(self) -> str:
        return self.id

    @property
    def has_ended(self) -> bool:
        return self.status != "running"


@dataclass(frozen=True, kw_only=True)
class Execution(ExecutionItem):
    """`result` is None while it runs; then `result.output` is what it made, or `error` says why it did not.

    Right after a start only `id`, `status` and `created_at` are known.
    """

    agent_version: str | None = None
    queue_position: int | None = None
    result: Result | None = None
    tokens: dict[str, Tokens] | None = None
    error: ErrorInfo | None = None
    retry_of: str | None = None
    input: Any = None
    nodes: list[Node] | None = None
    logs: list[LogLine] | None = None
