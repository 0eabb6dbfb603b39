"""What a caller orders: an input and the options of one execution."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.shape import Shape, at_most
from kernel.webhooks.record import Url

Status = Literal["running", "completed", "failed", "cancelled", "timed_out"]
Phase = Literal["queued", "executing", "waiting_input", "cancelling"]

LabelKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Options(Shape):
    timeout: int = Field(300_000, ge=1, le=86_400_000, description="ms that the execution may run")
    max_tokens: int | None = Field(
        None, ge=1, le=100_000_000, description="output tokens of all nodes together"
    )
    max_cost: float | None = Field(
        None, ge=0, le=1_000_000, allow_inf_nan=False, description="USD it may cost"
    )
    priority: Literal["low", "normal", "high"] = "normal"
    version: str | None = Field(
        None,
        pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$",
        description="the agent's version; by default the current one",
    )
    webhook_url: Url | None = Field(
        None, description="told of the end, beside the workspace's webhooks; signed with its signing secret"
    )
    labels: Annotated[dict[LabelKey, LabelValue], at_most(50)] = Field(default_factory=dict)


class Order(Shape):
    """Body of `POST /agents/{id}/execute`."""

    input: Any = None
    options: Options = Options()


@dataclass(frozen=True, slots=True)
class Started:
    execution_id: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """`label` is `key` `=` `value`; the range is of creation, half-open, ms since the epoch."""

    agent_id: str | None = None
    status: Status | None = None
    label: str | None = None
    started_after: int | None = None
    started_before: int | None = None


class Spec(BaseModel):
    """An accepted order as it is stored, the runner's whole instruction. `flow` is set for inline executions."""

    model_config = ConfigDict(frozen=True)

    agent_id: str | None
    agent_version: str | None
    flow: dict[str, Any] | None = None
    input: Any
    options: Options
    created_by: str
    collections: tuple[str, ...] | None = None
    """The only ones that the key behind it reaches."""
    retry_of: str | None = None
