"""What a piece of code reads of the context, so that no more than that is handed to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kernel.agents.references import Reference
from kernel.agents.templating import Path

VARIABLES = ("input", "nodes", "execution")


@dataclass(frozen=True, slots=True)
class Reads:
    """`nodes` are ids of nodes; None when it may read any, as `nodes[input.which]` does."""

    variables: frozenset[str]
    nodes: frozenset[str] | None

    def of(self, context: Mapping[str, Any]) -> dict[str, Any]:
        part = {name: context[name] for name in VARIABLES if name in self.variables}
        if "nodes" in part:
            outputs = part["nodes"]
            names = outputs if self.nodes is None else self.nodes & outputs.keys()
            part["nodes"] = {name: outputs[name] for name in names}
        return part

    def references(self, field: str) -> list[Reference]:
        return [
            Reference(field, Path(f"nodes.{name}.output", "nodes", (name, "output")))
            for name in sorted(self.nodes or ())
        ]


def unknown_variables(names: Iterable[str]) -> list[str]:
    """A sentence for each name that no code can read."""
    there = ", ".join(VARIABLES)
    return [
        f"unknown variable '{name}'; there are {there}" for name in sorted(set(names).difference(VARIABLES))
    ]
