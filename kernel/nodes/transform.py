"""The node type `transform`: selects and reshapes JSON by a JMESPath expression.

A plain path is looked up here; anything else can multiply what it reads (`[@,@]|[@,@]|…` doubles with each
step), so it goes to the sandbox, which bounds time, memory and the size of the result.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from kernel.agents.flow import Part
from kernel.agents.references import Reference
from kernel.errors import Problem
from kernel.models.seam import Models
from kernel.nodes.contract import Call, Outcome
from kernel.nodes.languages import Refused, search
from kernel.nodes.reads import Reads, unknown_variables
from kernel.nodes.sandbox import Sandbox

MAX_EXPRESSION = 4096
PLAIN = frozenset({"field", "subexpression", "index", "index_expression"})
FIRST_READS = frozenset({"subexpression", "index_expression", "pipe", "projection", "flatten"})
FIRST_READS |= {"value_projection", "filter_projection"}
"""Parts whose first child reads the context and whose others read what the first found."""

Tree = dict[str, Any]


class TransformConfig(Part):
    expression: str = Field(
        min_length=1, max_length=MAX_EXPRESSION, description="JMESPath over {input, nodes, execution}"
    )

    @cached_property
    def tree(self) -> Tree:
        """Raises Refused with the reason."""
        return _parse(self.expression)

    @cached_property
    def plain(self) -> bool:
        return all(part["type"] in PLAIN for part in _walk(self.tree))

    @cached_property
    def reads(self) -> Reads:
        return _reads(self.tree)


class TransformNode:
    name = "transform"
    title = "Selects and reshapes JSON by a JMESPath expression."
    config = TransformConfig
    example: ClassVar[dict[str, Any]] = {"expression": "input.orders[?total > `100`].{id: id, sum: total}"}
    source_fields = frozenset({"expression"})
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox

    def check(self, config: TransformConfig, models: Models) -> list[Problem]:
        try:
            reasons = unknown_variables(config.reads.variables) + _unknown_functions(config.tree)
        except Refused as exc:
            reasons = [str(exc)]
        return [Problem("expression", reason) for reason in reasons]

    def branches(self, config: TransformConfig) -> None:
        return None

    def references(self, config: TransformConfig) -> list[Reference]:
        return config.reads.references("expression")

    async def run(self, config: TransformConfig, call: Call) -> Outcome:
        """The output is null where the expression finds nothing, as JMESPath has it."""
        if config.plain:
            return Outcome(search(config.expression, call.context))
        context = config.reads.of(call.context)
        return Outcome(await self._sandbox.run("jmespath", config.expression, context))


def _parse(expression: str) -> Tree:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return dict(jmespath.compile(expression).parsed)
    except JMESPathError as exc:
        raise Refused(" ".join(str(exc).split())[:300]) from None
    except RecursionError:
        raise Refused("is nested too deeply") from None


def _walk(tree: Tree) -> Iterator[Tree]:
    queue = [tree]
    while queue:
        part = queue.pop()
        yield part
        queue += [child for child in part["children"] if isinstance(child, dict)]


def _unknown_functions(tree: Tree) -> list[str]:
    from jmespath.functions import Functions

    called = {part["value"] for part in _walk(tree) if part["type"] == "function_expression"}
    return [f"unknown function '{name}'" for name in sorted(called - Functions.FUNCTION_TABLE.keys())]


def _reads(tree: Tree) -> Reads:
    paths = list(_paths(tree))
    variables = frozenset(path[0] for path in paths if path)
    nodes = {path[1] if len(path) > 1 else None for path in paths if not path or path[0] == "nodes"}
    if not all(paths):
        return Reads(variables | {"input", "nodes", "execution"}, None)
    return Reads(variables, None if None in nodes else frozenset(name for name in nodes if name is not None))


def _paths(tree: Tree) -> Iterator[tuple[str, ...]]:
    """The fields that parts reading the context begin with; an empty path is the context itself."""
    queue = [tree]
    while queue:
        part = queue.pop()
        kind, children = part["type"], [child for child in part["children"] if isinstance(child, dict)]
        if kind == "field":
            yield (part["value"],)
        elif kind in ("current", "identity"):
            yield ()
        elif kind == "subexpression" and children[0]["type"] == "field":
            inner = children[1]
            yield (children[0]["value"], *([inner["value"]] if inner["type"] == "field" else []))
        elif kind in FIRST_READS:
            queue.append(children[0])
        elif kind != "expref":
            queue += children
