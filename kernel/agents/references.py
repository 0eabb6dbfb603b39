"""What configs read, and what can be known of it before the run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kernel.agents.schema import ruled_out
from kernel.agents.secrets import SecretNames
from kernel.agents.templating import Path
from kernel.agents.topology import Before
from kernel.errors import Problem


@dataclass(frozen=True, slots=True)
class Reference:
    """A path read by a config, and the field that reads it."""

    field: str
    path: Path


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The nodes there are, which comes before which, what the input looks like, which secrets exist."""

    nodes: Mapping[str, int]
    before: Before
    input_schema: Mapping[str, Any]
    secrets: SecretNames

    def problems(self, reader: str, references: Iterable[Reference]) -> Iterator[Problem]:
        for reference in references:
            if reason := self._reason(reader, reference.path):
                yield Problem(reference.field, reason)

    def _reason(self, reader: str, path: Path) -> str | None:
        if path.secret is not None and self.secrets.id_of(path.secret) is None:
            return f"There is no secret named '{path.secret}'"
        if path.root == "input":
            return ruled_out(path, self.input_schema)
        if path.node is None:
            return None
        if path.node not in self.nodes:
            return f"Unknown node '{path.node}'"
        if self.before.rules_out(path.node, reader):
            return f"Node '{path.node}' does not come before '{reader}', so it has no output yet"
        return None
