"""What an execution tells while it runs: one small class for each type of event.

Stored without `seq`, which is the stream's own id; `following` adds it for the reader.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """`timestamp` is RFC 3339; `data` depends on the type."""

    model_config = ConfigDict(frozen=True)

    timestamp: str

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


class NodeEvent(Event):
    node_id: str


class ExecutionStarted(Event):
    type: Literal["execution.started"] = "execution.started"
    data: dict[str, Any]


class NodeStarted(NodeEvent):
    type: Literal["node.started"] = "node.started"
    data: dict[str, Any]


class NodeToken(NodeEvent):
    type: Literal["node.token"] = "node.token"
    data: dict[str, str]


class NodeLog(NodeEvent):
    type: Literal["node.log"] = "node.log"
    data: dict[str, str]


class NodeRetry(NodeEvent):
    type: Literal["node.retry"] = "node.retry"
    data: dict[str, Any]


class NodeCompleted(NodeEvent):
    type: Literal["node.completed"] = "node.completed"
    data: dict[str, Any]


class NodeFailed(NodeEvent):
    type: Literal["node.failed"] = "node.failed"
    data: dict[str, Any]


class NodeSkipped(NodeEvent):
    type: Literal["node.skipped"] = "node.skipped"
    data: dict[str, Any] = Field(default_factory=dict)


class ExecutionCompleted(Event):
    type: Literal["execution.completed"] = "execution.completed"
    data: dict[str, Any]


class ExecutionFailed(Event):
    type: Literal["execution.failed"] = "execution.failed"
    data: dict[str, Any]


class ExecutionCancelled(Event):
    type: Literal["execution.cancelled"] = "execution.cancelled"
    data: dict[str, Any] = Field(default_factory=dict)


class ExecutionTimedOut(Event):
    type: Literal["execution.timed_out"] = "execution.timed_out"
    data: dict[str, Any]


AnyEvent = Annotated[
    ExecutionStarted
    | NodeStarted
    | NodeToken
    | NodeLog
    | NodeRetry
    | NodeCompleted
    | NodeFailed
    | NodeSkipped
    | ExecutionCompleted
    | ExecutionFailed
    | ExecutionCancelled
    | ExecutionTimedOut,
    Field(discriminator="type"),
]

TERMINAL = (
    b'"execution.completed"',
    b'"execution.failed"',
    b'"execution.cancelled"',
    b'"execution.timed_out"',
)


def is_terminal(body: bytes) -> bool:
    """Whether a stored event is the last one. Only our own encoding is read: `type` is a top-level string."""
    start = body.find(b'"type":"execution.')
    return start >= 0 and body[start + 7 :].startswith(TERMINAL) and _top_level(body, start)


def _top_level(body: bytes, position: int) -> bool:
    """`type` stands before `data`, so nothing of a user's text can come before it."""
    return body.find(b'"data":') > position
