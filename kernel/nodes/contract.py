"""What a node type is, and what it is given when it runs. `registry.py` lists the types there are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kernel.agents.reading import NodeShape
from kernel.models.seam import Tokens


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One model call as it is billed. `cost` in USD, None when the price is unknown."""

    model: str
    tokens: Tokens
    cost: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a node came to. `branch` is the edge label a condition chose."""

    output: Any
    branch: str | None = None


class Call(Protocol):
    """One attempt at one node, as the engine hands it over."""

    @property
    def workspace_id(self) -> str: ...

    @property
    def collections(self) -> Collection[str] | None:
        """Ids of the only collections that it may read; None is all of the workspace."""
        ...

    @property
    def execution_id(self) -> str: ...

    @property
    def node_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this node of this execution."""
        ...

    @property
    def context(self) -> Mapping[str, Any]:
        """`{"input": …, "nodes": {id: {"output": …}}, "execution": {"id": …}}`."""
        ...

    async def provider_key(self, provider: str, credential_id: str | None) -> str | None:
        """The key to call a model provider with: that of the credential, else the workspace's own, if there is one."""
        ...

    def token(self, text: str) -> None:
        """Streams a piece of output to whoever watches."""
        ...

    def log(self, level: str, message: str) -> None:
        """Adds a line to the execution's log."""
        ...

    def used(self, use: ModelUse) -> None:
        """A model call was billed, whatever becomes of the attempt."""
        ...

    def output_tokens_left(self, most_input: int = 0) -> int | None:
        """What `options.max_tokens`, and the day's tokens beside that much input, leave for this call; None is no
        limit. Raises RateLimitError at 0."""
        ...

    def admit_cost(self, worst_usd: float | None) -> None:
        """Raises RateLimitError (`limit: budget`) when the call could pass `options.max_cost`."""
        ...


class NodeType(NodeShape, Protocol):
    """A node shape that runs. `title` is one sentence for people, `example` a config."""

    @property
    def title(self) -> str: ...

    @property
    def example(self) -> Mapping[str, Any]: ...

    async def run(self, config: Any, call: Call) -> Outcome:
        """`config` is one of `self.config` with its placeholders filled in. Raises NodeError and kin."""
        ...
