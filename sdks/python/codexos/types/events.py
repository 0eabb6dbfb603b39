"""What an execution tells while it runs. `seq` rises by one from 1; the last event ends the stream.

Event
 ├─ ExecutionStarted  ExecutionWaiting
 ├─ NodeEvent                      `node_id`
 │   ├─ NodeStarted  NodeToken  NodeLog  NodeRetry
 │   └─ NodeCompleted  NodeFailed  NodeSkipped
 └─ ExecutionEnded                 `status`
     └─ ExecutionCompleted  ExecutionFailed  ExecutionCancelled  ExecutionTimedOut
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from codexos.types._model import Model
from codexos.types.executions import ErrorInfo, ExecutionStatus, Result


@dataclass(frozen=True, kw_only=True)
class Event(Model):
    """data: depends on `type`; what is known of it has properties of its own."""

    type: str
    data: dict[str, Any]
    seq: int
    timestamp: datetime
    node_id: str | None = None

    @property
    def is_last(self) -> bool:
        return False


class ExecutionStarted(Event):
    pass


class ExecutionWaiting(Event):
    pass


class NodeEvent(Event):
    node_id: str


class NodeStarted(NodeEvent):
    pass


class NodeToken(NodeEvent):
    @property
    def text(self) -> str:
        """A piece of what a model says."""
        return str(self.data["text"])


class NodeLog(NodeEvent):
    @property
    def message(self) -> str:
        return str(self.data["message"])


class NodeRetry(NodeEvent):
    @property
    def error(self) -> ErrorInfo:
        return ErrorInfo.read(self.data["error"])


class NodeCompleted(NodeEvent):
    @property
    def output(self) -> Any:
        """None when it is larger than 64 KB; `executions.node` gets it then."""
        return self.data.get("output")


class NodeFailed(NodeEvent):
    @property
    def error(self) -> ErrorInfo:
        return ErrorInfo.read(self.data["error"])


class NodeSkipped(NodeEvent):
    pass


class ExecutionEnded(Event):
    status: ClassVar[ExecutionStatus]

    @property
    def is_last(self) -> bool:
        return True


class ExecutionCompleted(ExecutionEnded):
    status: ClassVar[ExecutionStatus] = "completed"

    @property
    def result(self) -> Result:
        """Its `output` is None when it is larger than 64 KB; `executions.get` gets it then."""
        return Result.read(self.data["result"])


class ExecutionFailed(ExecutionEnded):
    status: ClassVar[ExecutionStatus] = "failed"

    @property
    def error(self) -> ErrorInfo:
        return ErrorInfo.read(self.data["error"])


class ExecutionCancelled(ExecutionEnded):
    status: ClassVar[ExecutionStatus] = "cancelled"


class ExecutionTimedOut(ExecutionEnded):
    status: ClassVar[ExecutionStatus] = "timed_out"


BY_TYPE: dict[str, type[Event]] = {
    "execution.started": ExecutionStarted,
    "execution.waiting": ExecutionWaiting,
    "node.started": NodeStarted,
    "node.token": NodeToken,
    "node.log": NodeLog,
    "node.retry": NodeRetry,
    "node.completed": NodeCompleted,
    "node.failed": NodeFailed,
    "node.skipped": NodeSkipped,
    "execution.completed": ExecutionCompleted,
    "execution.failed": ExecutionFailed,
    "execution.cancelled": ExecutionCancelled,
    "execution.timed_out": ExecutionTimedOut,
}


def event_of(raw: Mapping[str, Any]) -> Event:
    """As the class of its type; of a type that this version does not know, as an `Event`."""
    return BY_TYPE.get(raw["type"], Event).read(raw)
