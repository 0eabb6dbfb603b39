"""The node type `template`: text with loops and filters (Jinja syntax).

A template of text and plain paths, which most are, is filled in here in microseconds; any other goes to the
sandbox. Both write strings as they are and all else as compact JSON, and neither lets a missing path pass.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from kernel.agents.flow import Part
from kernel.agents.references import Reference
from kernel.agents.templating import BadTemplate, Template
from kernel.errors import Problem
from kernel.models.seam import Models
from kernel.nodes.contract import Call, Outcome
from kernel.nodes.languages import template_environment, template_reason
from kernel.nodes.reads import Reads, unknown_variables
from kernel.nodes.sandbox import Sandbox

MAX_TEMPLATE = 65_536
SHALLOW = 2_000
"""Characters whose deepest nesting fits any stack."""
DEEP_STACK = 128 * 2**20
BUILT_IN = frozenset({"range", "dict", "namespace", "super"})

T = TypeVar("T")


class TemplateConfig(Part):
    template: str = Field(
        max_length=MAX_TEMPLATE, description="Jinja syntax; reads input, nodes.<id>.output and execution.id"
    )

    @cached_property
    def plain(self) -> Template | None:
        """The template if it is only text and paths."""
        if "{%" in self.template or "{#" in self.template:
            return None
        try:
            return Template.parse(self.template)
        except BadTemplate:
            return None

    @cached_property
    def reads(self) -> Reads:
        return _reads(_with_stack(self.template, _paths))


class TemplateNode:
    name = "template"
    title = "Writes text from a template with loops, conditions and filters."
    config = TemplateConfig
    example: ClassVar[dict[str, Any]] = {
        "template": "{% for name in input.names %}Hello {{ name | title }}!\n{% endfor %}"
    }
    source_fields = frozenset({"template"})
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox

    def check(self, config: TemplateConfig, models: Models) -> list[Problem]:
        if config.plain is not None:
            roots = {path.root for path in config.plain.references()}
            return [Problem("template", reason) for reason in unknown_variables(roots)]
        if reason := _with_stack(config.template, _syntax):
            return [Problem("template", reason)]
        return [Problem("template", reason) for reason in unknown_variables(config.reads.variables)]

    def branches(self, config: TemplateConfig) -> None:
        return None

    def references(self, config: TemplateConfig) -> list[Reference]:
        if config.plain is not None:
            return [Reference("template", path) for path in config.plain.references()]
        return config.reads.references("template")

    async def run(self, config: TemplateConfig, call: Call) -> Outcome:
        if config.plain is not None:
            return Outcome(config.plain.text(call.context))
        context = config.reads.of(call.context)
        return Outcome(await self._sandbox.run("template", config.template, context))


def _with_stack(template: str, work: Callable[[str], T]) -> T:
    """Runs it in a thread with a deep stack if the template is long.

    The compiler of templates recurses once for each operator: 64 KB of `-` overflow the usual 8 MB, and that
    ends the process.
    """
    if len(template) <= SHALLOW:
        return work(template)
    usual = threading.stack_size(DEEP_STACK)
    try:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work, template).result()
    finally:
        threading.stack_size(usual)


@lru_cache(1)
def _environment() -> Any:
    return template_environment()


def _syntax(template: str) -> str | None:
    import minijinja

    try:
        _environment().add_template("template", template)
    except minijinja.TemplateError as exc:
        return template_reason(exc)
    return None


def _paths(template: str) -> set[str]:
    found: set[str] = _environment().undeclared_variables_in_str(template, nested=True)
    return found


def _reads(paths: set[str]) -> Reads:
    split = [path.split(".") for path in paths]
    nodes = {parts[1] if len(parts) > 1 else None for parts in split if parts[0] == "nodes"}
    named = frozenset(name for name in nodes if name is not None)
    return Reads(frozenset(parts[0] for parts in split) - BUILT_IN, None if None in nodes else named)
