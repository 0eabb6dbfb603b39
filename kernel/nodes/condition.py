"""The node type `condition`: the first case whose CEL expression is true names the branch taken.

An expression of comparisons and paths is evaluated here. One that can grow what it reads or repeat itself
(`+`, macros, regular expressions) goes to the sandbox: by a list of what is harmless, not of what is not.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from kernel.agents.flow import Part
from kernel.agents.references import Reference
from kernel.errors import NodeError, Problem
from kernel.models.seam import Models
from kernel.nodes.contract import Call, Outcome
from kernel.nodes.languages import Refused, run_cel
from kernel.nodes.reads import Reads, unknown_variables
from kernel.nodes.sandbox import Sandbox

MAX_SIMPLE = 512
"""Characters; each comparison of a longer one could read a large input once more."""
CHEAP = frozenset(
    {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_&&_", "_||_", "!_"}
    | {"_?_:_", "_[_]", "@in", "-_", "_-_", "_*_", "_/_", "_%_", "size"}
    | {"contains", "startsWith", "endsWith", "int", "uint", "double"}
)
KNOWN = CHEAP.union(
    {"_+_", "@not_strictly_false", "matches", "string", "bytes", "duration"}
    | {"timestamp", "getFullYear", "getMonth", "getDayOfYear", "getDayOfMonth", "getDate"}
    | {"getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)

_MACRO_VARIABLE = re.compile(r"\.\s*(?:all|exists|exists_one|existsOne|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_STRING = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_NODES = re.compile(
    rf"""(?:{_STRING})|(?<![\w.])nodes\b(?:\s*\.\s*([A-Za-z_]\w*)|\s*\[\s*(?:"([\w-]+)"|'([\w-]+)')\s*\])?"""
)
_POSITION = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.{1,120})")

Label = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
Expression = Annotated[str, Field(min_length=1, max_length=2048, description="CEL; true or false")]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A parsed expression; `simple` ones are safe to evaluate in this process."""

    program: Any
    source: str
    reads: Reads
    problems: tuple[str, ...]

    @property
    def simple(self) -> bool:
        return len(self.source) <= MAX_SIMPLE and CHEAP.issuperset(self.program.functions())


class Case(Part):
    branch: Label
    expression: Expression

    @cached_property
    def compiled(self) -> Compiled:
        """Raises Refused with line and column."""
        return _compile(self.expression)


class ConditionConfig(Part):
    cases: list[Case] = Field(
        default_factory=list, max_length=100, description="tried in order; the first true one is taken"
    )
    default: Label = Field("else", description="the branch when no case is true")
    expression: Expression | None = Field(None, description="short form with the branches `true` and `false`")

    @model_validator(mode="after")
    def one_form(self) -> "ConditionConfig":
        if (self.expression is None) == (not self.cases):
            raise ValueError("Give either 'cases' or 'expression'")
        if self.expression is not None and "default" in self.model_fields_set:
            raise ValueError("'default' belongs to 'cases'; the branches of 'expression' are true and false")
        return self

    @cached_property
    def ordered(self) -> tuple[tuple[str, Case], ...]:
        """The cases, each with its field."""
        if self.expression is not None:
            return (("expression", Case(branch="true", expression=self.expression)),)
        return tuple((f"cases[{index}].expression", case) for index, case in enumerate(self.cases))

    @property
    def otherwise(self) -> str:
        return self.default if self.expression is None else "false"


class ConditionNode:
    name = "condition"
    title = "Chooses a branch by CEL expressions; edges carry it in `when`."
    config = ConditionConfig
    example: ClassVar[dict[str, Any]] = {
        "cases": [{"branch": "long", "expression": "size(input.text) > 1000"}],
        "default": "short",
    }
    source_fields = frozenset({"cases", "default", "expression"})
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox

    def check(self, config: ConditionConfig, models: Models) -> list[Problem]:
        return [Problem(field, reason) for field, case in config.ordered for reason in _reasons(case)]

    def branches(self, config: ConditionConfig) -> frozenset[str]:
        return frozenset({case.branch for _, case in config.ordered} | {config.otherwise})

    def references(self, config: ConditionConfig) -> list[Reference]:
        return [one for field, case in config.ordered for one in case.compiled.reads.references(field)]

    async def run(self, config: ConditionConfig, call: Call) -> Outcome:
        for field, case in config.ordered:
            if await self._holds(field, case, call):
                return Outcome({"branch": case.branch}, branch=case.branch)
        return Outcome({"branch": config.otherwise}, branch=config.otherwise)

    async def _holds(self, field: str, case: Case, call: Call) -> bool:
        compiled = case.compiled
        context = compiled.reads.of(call.context)
        if compiled.simple:
            value = _evaluate(field, compiled, context)
        else:
            value = await self._sandbox.run("cel", compiled.source, context)
        if not isinstance(value, bool):
            raise NodeError(f"'{field}' is not true or false but {type(value).__name__}", {"field": field})
        return value


def _evaluate(field: str, compiled: Compiled, context: dict[str, Any]) -> Any:
    try:
        return run_cel(compiled.program, context)
    except Refused as exc:
        raise NodeError(f"'{field}' failed: {exc}", {"field": field}) from None


def _reasons(case: Case) -> tuple[str, ...]:
    try:
        return case.compiled.problems
    except Refused as exc:
        return (str(exc),)


def _compile(source: str) -> Compiled:
    import cel

    try:
        program = cel.compile(source)
    except ValueError as exc:
        raise Refused(_position(str(exc))) from None
    own = set(_MACRO_VARIABLE.findall(source))
    names = frozenset(program.variables()) - own
    problems = unknown_variables(names)
    problems += [f"unknown function '{name}'" for name in sorted(set(program.functions()) - KNOWN)]
    return Compiled(program, source, Reads(frozenset(program.variables()), _nodes(source)), tuple(problems))


def _position(text: str) -> str:
    match = _POSITION.search(text)
    return f"line {match[1]}, column {match[2]}: {match[3].strip()}" if match else "is no CEL expression"


def _nodes(source: str) -> frozenset[str] | None:
    """The ids it names; None when it reads `nodes` in another way."""
    found = set()
    for match in _NODES.finditer(source):
        name = match[1] or match[2] or match[3]
        if name is None and match[0][0] not in "\"'":
            return None
        found.add(name)
    return frozenset(found - {None})
