"""What the config of one node tells before anything runs: its defects, what it reads, where it may branch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from kernel.agents.flow import Node
from kernel.agents.references import Reference
from kernel.agents.schema import schema_problems
from kernel.agents.templating import BadTemplate, Template, is_placeholder, join, placeholders
from kernel.errors import Problem
from kernel.models.seam import Models


class NodeShape(Protocol):
    """What a node type says of its configs, without running any."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> type[BaseModel]: ...

    @property
    def source_fields(self) -> frozenset[str]:
        """Top-level config fields that are code (a template, an expression) and so not substituted."""
        ...

    def check(self, config: Any, models: Models) -> list[Problem]:
        """Defects beyond the schema, fields relative to the config: `model`, `cases[0].expression`."""
        ...

    @property
    def secret_fields(self) -> frozenset[str]:
        """Top-level config fields in which secrets may stand, as text or inside text."""
        ...

    def branches(self, config: Any) -> frozenset[str] | None:
        """Labels its edges may carry in `when`; None when it has no branches."""
        ...

    def references(self, config: Any) -> Iterable[Reference]:
        """What the source fields of a config without defects read."""
        ...


@dataclass(slots=True)
class Reading:
    """`understood`: whether the config was whole enough to say what its branches are."""

    problems: list[Problem] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    branches: frozenset[str] | None = None
    understood: bool = False


def read(at: str, node: Node, node_types: Mapping[str, NodeShape], models: Models) -> Reading:
    """`at` is the node's own path, such as `flow.nodes[0]`."""
    reading = Reading()
    node_type = node_types.get(node.type)
    if node_type is None:
        reason = f"Unknown node type '{node.type}'; there are {', '.join(sorted(node_types))}"
        reading.problems.append(Problem(f"{at}.type", reason))
    else:
        _read_placeholders(f"{at}.config", node, node_type, reading)
        _read_config(f"{at}.config", node, node_type, models, reading)
    return reading


def _read_placeholders(at: str, node: Node, node_type: NodeShape, reading: Reading) -> None:
    for where, text in placeholders(node.config, node_type.source_fields):
        try:
            paths = Template.parse(text).references()
            reading.references += [Reference(join(at, where), path) for path in paths]
            if any(path.secret for path in paths) and _top(where) not in node_type.secret_fields:
                reading.problems.append(Problem(join(at, where), _misplaced(node_type)))
        except BadTemplate as exc:
            reading.problems += [Problem(join(at, where), reason) for reason in exc.reasons]


def _read_config(at: str, node: Node, node_type: NodeShape, models: Models, reading: Reading) -> None:
    problems = schema_problems(node_type.config, node.config, _excuse(node_type))
    config = _known_part(node.config, node_type)
    if not schema_problems(node_type.config, config):
        parsed = node_type.config.model_validate(config)
        deeper = node_type.check(parsed, models)
        if not problems:
            reading.branches, reading.understood = node_type.branches(parsed), True
        problems = [*problems, *deeper]
        if not deeper:
            found = node_type.references(parsed)
            reading.references += [Reference(join(at, one.field), one.path) for one in found]
    reading.problems += [Problem(join(at, one.field) if one.field else at, one.reason) for one in problems]


def _misplaced(node_type: NodeShape) -> str:
    """Why no secret may stand in a field."""
    fields = ", ".join(sorted(node_type.secret_fields))
    there = f"in a {node_type.name} node it may in {fields}" if fields else "in an http node it may"
    return f"A secret must not stand here; {there}"


def _excuse(node_type: NodeShape) -> Any:
    """A lone placeholder may stand for a value of any type, but not where code is due."""
    return lambda where, value: _top(where) not in node_type.source_fields and is_placeholder(value)


def _known_part(config: dict[str, Any], node_type: NodeShape) -> dict[str, Any]:
    """The config without the fields that do not fit, or whose type only the run will show (`"{{ input.limit }}"`)."""
    unfit = {_top(one.field) for one in schema_problems(node_type.config, config)}
    return {key: value for key, value in config.items() if key not in unfit}


def _top(where: str) -> str:
    return where.partition(".")[0].partition("[")[0]
