"""The shape of a flow: nodes, edges, and what each may carry. `graph.py` says whether one is sound."""

from typing import Annotated, Any, Literal

from pydantic import Field

from kernel.shape import Shape, at_most

ENTRY, EXIT = "entry", "exit"
MAX_NODES = 1000
MAX_EDGES = 10_000
MAX_CONFIG_BYTES = 2**20
"""All configs of a flow together, as JSON: what checking it may cost grows with them."""

NodeId = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]


class Part(Shape):
    """Anything that is written in a flow or around it."""


class Resources(Part):
    """Where a node may run: a cluster node that has all of it."""

    num_cpus: float | None = Field(None, ge=0, le=1024)
    num_gpus: float | None = Field(None, ge=0, le=64)
    memory_mb: int | None = Field(None, ge=1)
    accelerator_type: str | None = Field(None, max_length=64)
    labels: Annotated[dict[str, str] | None, at_most(50)] = None


class Default(Part):
    default: Any


class Goto(Part):
    goto: NodeId


class Retry(Part):
    """Only failures that say `retryable` are tried again; the wait doubles each time."""

    max_attempts: int = Field(3, ge=1, le=10)
    backoff_ms: int = Field(500, ge=0, le=60_000)


class Node(Part):
    id: NodeId
    type: str = Field(max_length=64)
    config: dict[str, Any] = Field(default_factory=dict)
    resources: Resources | None = None
    on_error: Literal["fail"] | Default | Goto = "fail"
    retry: Retry | None = None


class Edge(Part):
    source: str = Field(max_length=64)
    target: str = Field(max_length=64)
    when: str | None = Field(None, max_length=64)


Nodes = Annotated[list[Node], at_most(MAX_NODES, "A flow has at most {longest} nodes, not {count}")]
Edges = Annotated[
    list[Edge], Field(fail_fast=True), at_most(MAX_EDGES, "A flow has at most {longest} edges, not {count}")
]
"""Only the first that is no edge at all is told of: each of 10,000 could be wrong in several ways."""


class Flow(Part):
    nodes: Nodes
    edges: Edges = Field(default_factory=list)
