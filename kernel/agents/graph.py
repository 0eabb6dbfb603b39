"""Says whether a flow is sound, and turns a sound one into the form the engine walks.

`check` finds every defect there is, each with its path, and trusts nothing; `compile` trusts a checked flow.
A graph never changes, so a runner keeps one for each agent version.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel

from kernel.agents.flow import (
    ENTRY,
    EXIT,
    MAX_CONFIG_BYTES,
    Default,
    Edge,
    Flow,
    Goto,
    Node,
    Resources,
    Retry,
)
from kernel.agents.reading import NodeShape, Reading, read
from kernel.agents.references import Knowledge
from kernel.agents.schema import schema_problems
from kernel.agents.secrets import SecretNames, credential_problems
from kernel.agents.templating import CompiledConfig, Context, Secret, compile_config, no_secret
from kernel.agents.topology import Arc, Before, before, order, outgoing, reachable
from kernel.errors import NodeError, Problem
from kernel.models.seam import Models

ON_ERROR = "<error>"
"""The `when` of an edge that `on_error.goto` makes: live only when its source has failed."""


T = TypeVar("T", bound=NodeShape)
Link = tuple[str, str | None]
"""A node and the branch of the source that leads there; None is any."""


@dataclass(frozen=True, slots=True)
class CompiledNode(Generic[T]):
    """One node. `predecessors` has (source, when), `successors` (target, when), without entry and exit."""

    id: str
    type: T
    config_template: CompiledConfig
    predecessors: tuple[Link, ...]
    successors: tuple[Link, ...]
    on_error: str | Default | Goto
    retry: Retry | None
    resources: Resources | None
    _fixed: BaseModel | None

    @property
    def secrets(self) -> frozenset[str]:
        """Names of the secrets that its config reads."""
        return self.config_template.secrets

    def config(self, context: Context, secret: Secret = no_secret) -> BaseModel:
        """The config, filled in. Raises NodeError if a placeholder has no value or one that does not fit."""
        if self._fixed is not None:
            return self._fixed
        return validated(self.id, self.type, self.config_template.render(context, secret))


@dataclass(frozen=True, slots=True)
class Graph(Generic[T]):
    """`nodes` has sources before targets. `outputs` is (node, when) of what makes the execution's output."""

    nodes: Mapping[str, CompiledNode[T]]
    start: tuple[str, ...]
    outputs: tuple[Link, ...]


def check(
    flow: Flow,
    node_types: Mapping[str, NodeShape],
    models: Models,
    input_schema: Mapping[str, Any] | None = None,
    secrets: SecretNames = SecretNames(),
) -> list[Problem]:
    """Every defect, in the order of the flow: nodes, edges, then what only the whole shows."""
    if problem := _wrong_size(flow):
        return [problem]
    known: dict[str, int] = {}
    for index, node in enumerate(flow.nodes):
        known.setdefault(node.id, index)
    readings = [read(f"flow.nodes[{i}]", node, node_types, models) for i, node in enumerate(flow.nodes)]
    problems = [problem for node in enumerate(flow.nodes) for problem in _identity(*node, known)]
    for index, reading in enumerate(readings):
        problems += reading.problems
        problems += credential_problems(f"flow.nodes[{index}]", flow.nodes[index], secrets)
    problems += _edge_problems(flow, known, readings)
    whole, ordered = _whole(flow, known)
    knows = Knowledge(known, ordered, input_schema or {}, secrets)
    for index, reading in enumerate(readings):
        problems += knows.problems(flow.nodes[index].id, reading.references)
    return problems + whole


def config_bytes(flow: Flow) -> int:
    """All configs together, as JSON."""
    return sum(len(orjson.dumps(node.config)) for node in flow.nodes)


def _wrong_size(flow: Flow) -> Problem | None:
    if not flow.nodes:
        return Problem("flow.nodes", "A flow needs at least one node")
    if config_bytes(flow) > MAX_CONFIG_BYTES:
        return Problem(
            "flow.nodes", f"The configs of a flow have at most {MAX_CONFIG_BYTES >> 20} MB together"
        )
    return None


def _identity(index: int, node: Node, known: Mapping[str, int]) -> Iterator[Problem]:
    at = f"flow.nodes[{index}]"
    if node.id in (ENTRY, EXIT):
        yield Problem(f"{at}.id", f"'{node.id}' is reserved")
    elif known[node.id] != index:
        yield Problem(f"{at}.id", f"Node id '{node.id}' is already that of flow.nodes[{known[node.id]}]")
    if not isinstance(node.on_error, Goto):
        return
    target = node.on_error.goto
    if target == node.id:
        yield Problem(f"{at}.on_error.goto", f"Node '{node.id}' cannot go to itself")
    elif target not in known or target in (ENTRY, EXIT):
        yield Problem(f"{at}.on_error.goto", f"Unknown node '{target}'")


def wired(flow: Flow) -> list[Edge]:
    """The edges; none at all on a one-node flow mean `entry → node`."""
    if flow.edges or len(flow.nodes) != 1:
        return flow.edges
    return [Edge(source=ENTRY, target=flow.nodes[0].id)]


def _edge_problems(flow: Flow, known: Mapping[str, int], readings: list[Reading]) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str | None], int] = {}
    for index, edge in enumerate(flow.edges):
        at = f"flow.edges[{index}]"
        yield from _ends(at, edge, known)
        first = seen.setdefault((edge.source, edge.target, edge.when), index)
        if first != index:
            yield Problem(at, f"Edge '{edge.source}' → '{edge.target}' is already flow.edges[{first}]")
        if edge.when is not None and (edge.source in known or edge.source == ENTRY):
            reading = readings[known[edge.source]] if edge.source in known else Reading(understood=True)
            yield from _when(at, edge, edge.when, reading)


def _ends(at: str, edge: Edge, known: Mapping[str, int]) -> Iterator[Problem]:
    if edge.source == EXIT:
        yield Problem(f"{at}.source", "No edge can leave 'exit'")
    elif edge.source not in known and edge.source != ENTRY:
        yield Problem(f"{at}.source", f"Unknown node '{edge.source}'")
    if edge.target == ENTRY:
        yield Problem(f"{at}.target", "No edge can lead to 'entry'")
    elif edge.target not in known and edge.target != EXIT:
        yield Problem(f"{at}.target", f"Unknown node '{edge.target}'")
    if edge.source == edge.target and edge.source in known:
        yield Problem(at, f"Node '{edge.source}' cannot lead to itself")
    if (edge.source, edge.target) == (ENTRY, EXIT):
        yield Problem(at, "An edge cannot lead from 'entry' straight to 'exit'")


def _when(at: str, edge: Edge, label: str, reading: Reading) -> Iterator[Problem]:
    if not reading.understood:
        return
    if reading.branches is None:
        yield Problem(f"{at}.when", f"'{edge.source}' has no branches")
    elif label not in reading.branches:
        there = ", ".join(sorted(reading.branches))
        yield Problem(f"{at}.when", f"'{edge.source}' has no branch '{label}'; it has {there}")


def _whole(flow: Flow, known: Mapping[str, int]) -> tuple[list[Problem], Before]:
    """What only the whole shows, and which node comes before which (nothing when it goes in circles)."""
    ways = outgoing(_arcs(flow, known))
    sorted_nodes = order([ENTRY, *known], ways)
    problems = [
        Problem(cycle.arc.field, f"Closes a cycle: {' → '.join((*cycle.nodes, cycle.nodes[0]))}")
        for cycle in sorted_nodes.cycles
    ]
    problems += _unreachable(known, ways)
    return problems, Before({}, {}) if sorted_nodes.cycles else before(sorted_nodes.nodes, ways)


def _unreachable(known: Mapping[str, int], ways: Mapping[str, Sequence[Arc]]) -> list[Problem]:
    if ENTRY not in ways:
        return [Problem("flow.edges", "No edge leaves 'entry', so nothing would start")]
    reached = reachable(ENTRY, ways)
    return [
        Problem(f"flow.nodes[{index}]", f"Node '{node}' cannot be reached from 'entry'")
        for node, index in known.items()
        if node not in reached and node not in (ENTRY, EXIT)
    ]


def _arcs(flow: Flow, known: Mapping[str, int]) -> Iterator[Arc]:
    """Every way that a sound edge or `goto` makes, without those into exit and those to itself."""
    for index, edge in enumerate(wired(flow)):
        if (
            (edge.source in known or edge.source == ENTRY)
            and edge.target in known
            and edge.source != edge.target
        ):
            yield Arc(edge.source, edge.target, f"flow.edges[{index}]")
    for index, node in enumerate(flow.nodes):
        target = node.on_error.goto if isinstance(node.on_error, Goto) else node.id
        if target in known and target != node.id:
            yield Arc(node.id, target, f"flow.nodes[{index}].on_error.goto")


def compile(flow: Flow, node_types: Mapping[str, T]) -> Graph[T]:
    """The engine's form of a checked flow. Raises NodeError for a type or config that no longer stands."""
    known = {node.id: index for index, node in enumerate(flow.nodes)}
    edges = wired(flow)
    sources, targets = _links(flow, edges)
    sorted_nodes = order([ENTRY, *known], outgoing(_arcs(flow, known)))
    nodes = {
        name: _compiled(flow.nodes[known[name]], node_types, tuple(sources[name]), tuple(targets[name]))
        for name in sorted_nodes.nodes
        if name != ENTRY
    }
    start = tuple(dict.fromkeys(edge.target for edge in edges if edge.source == ENTRY))
    return Graph(MappingProxyType(nodes), start, _outputs(flow, edges))


def _links(flow: Flow, edges: list[Edge]) -> tuple[dict[str, list[Link]], dict[str, list[Link]]]:
    """By node: the links that lead to it and those that leave it."""
    sources: dict[str, list[Link]] = {node.id: [] for node in flow.nodes}
    targets: dict[str, list[Link]] = {node.id: [] for node in flow.nodes}
    inner = [(e.source, e.target, e.when) for e in edges if e.source != ENTRY and e.target != EXIT]
    gotos = [(n.id, n.on_error.goto, ON_ERROR) for n in flow.nodes if isinstance(n.on_error, Goto)]
    for source, target, when in inner + gotos:
        sources[target].append((source, when))
        targets[source].append((target, when))
    return sources, targets


def _outputs(flow: Flow, edges: list[Edge]) -> tuple[Link, ...]:
    """The edges into exit, else the nodes that no edge leaves."""
    leaving = {edge.source for edge in edges}
    into_exit = tuple((edge.source, edge.when) for edge in edges if edge.target == EXIT)
    return into_exit or tuple((node.id, None) for node in flow.nodes if node.id not in leaving)


def _compiled(
    node: Node, node_types: Mapping[str, T], sources: tuple[Link, ...], targets: tuple[Link, ...]
) -> CompiledNode[T]:
    node_type = node_types.get(node.type)
    if node_type is None:
        raise NodeError(f"Node '{node.id}' has the unknown type '{node.type}'")
    template = compile_config(node.config, node_type.source_fields)
    fixed = validated(node.id, node_type, node.config) if template.constant else None
    return CompiledNode(
        node.id, node_type, template, sources, targets, node.on_error, node.retry, node.resources, fixed
    )


def validated(node_id: str, node_type: NodeShape, config: dict[str, Any]) -> BaseModel:
    if problems := schema_problems(node_type.config, config):
        first = problems[0]
        raise NodeError(
            f"Config of node '{node_id}' does not fit: {first.field}: {first.reason}",
            {"field": f"config.{first.field}", "reason": first.reason},
        )
    return node_type.config.model_validate(config)
