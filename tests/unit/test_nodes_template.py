import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kernel.errors import NodeError
from kernel.nodes.sandbox import Sandbox
from kernel.nodes.template import MAX_TEMPLATE, TemplateConfig, TemplateNode
from tests.calls import MODELS, RecordedCall

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[TemplateNode]:
    sandbox = Sandbox()
    yield TemplateNode(sandbox)
    sandbox.close()


def reasons(template: str) -> list[str]:
    return [
        problem.reason for problem in TemplateNode(Sandbox()).check(TemplateConfig(template=template), MODELS)
    ]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hello {{ input.name }}!\n", "Hello Ada!\n"),
        ("{{ input.tags }}", '["x",1,null]'),
        ("{{ nodes.n-1.output.a }}", "1.5"),
        ("{{ execution.id }} {{ '{{' }}", "exec_1 {{"),
        ("{% for tag in input.tags %}{{ loop.index }}={{ tag }};{% endfor %}\n", "1=x;2=1;3=null;\n"),
        ("{% if input.name %}{{ input.name | upper }}{% endif %}", "ADA"),
        ("{{ input.tags | length }}{# gone #}", "3"),
        ("{{ nodes['n-1'].output.a }}", "1.5"),
        ("{{ 7*7 }}", "49"),
        ("{{ input.missing | default('none') }}", "none"),
        ("{{ nodes.n2.output }}{{ nodes.n2.output | length }}", "{{ input.name }}16"),
        ("{{ input.html }}{{ input.html | length }}", "<b>3"),
        ("", ""),
    ],
)
async def test_writes(node: TemplateNode, template: str, text: str) -> None:
    config = TemplateConfig(template=template)
    call = RecordedCall(
        {"name": "Ada", "tags": ["x", 1, None], "html": "<b>"},
        {"n-1": {"a": 1.5}, "n2": "{{ input.name }}", "unread": "x"},
    )
    assert node.check(config, MODELS) == []
    outcome = await node.run(config, call)
    assert (outcome.output, outcome.branch) == (text, None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ input.gone }}",
        "{% if input.gone %}{% endif %}",
        "{{ nodes.x.output }}!",
        "{{ input.name | nofilter }}",
    ],
)
async def test_what_is_missing_is_an_error(node: TemplateNode, template: str) -> None:
    with pytest.raises(NodeError):
        await node.run(TemplateConfig(template=template), RecordedCall({"name": "Ada"}))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{", "line 1"),
        ("\n\n{% for %}", "line 3"),
        ("{% endif %}", "line 1"),
        ("{{config}}", "unknown variable 'config'"),
        ("{{ config.x }}{% if true %}{% endif %}", "unknown variable 'config'"),
        ("{{ secrets.KEY }}", "unknown variable 'secrets'"),
        ("{{ secrets.KEY | upper }}", "unknown variable 'secrets'"),
        ("{{ ''.__class__.__mro__ }}{{ x }}", "unknown variable 'x'"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "recursion"),
    ],
)
def test_refuses_at_write_time(template: str, words: str) -> None:
    found = reasons(template)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize("chain", ["-" * 60_000 + "1", "1" + "+1" * 32_000, "input" + "()" * 32_000])
def test_the_deepest_template_does_not_end_the_process(chain: str) -> None:
    assert reasons("{{ " + chain + " }}") == []


def test_the_size_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most 65536"):
        TemplateConfig(template="x" * (MAX_TEMPLATE + 1))


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("{{ nodes.a.output }} {{ nodes.b.output.x }} {{ input.y }}", ["a", "b"]),
        ("{% for x in nodes.a.output %}{{ nodes.b.output }}{% endfor %}", ["a", "b"]),
        ("{% for n in nodes %}{{ nodes[n].output }}{% endfor %}", []),
    ],
)
def test_references(template: str, names: list[str]) -> None:
    found = TemplateNode(Sandbox()).references(TemplateConfig(template=template))
    assert sorted(one.path.node for one in found if one.path.node) == names
    assert {one.field for one in found} <= {"template"}


async def test_code_may_read_all_nodes(node: TemplateNode) -> None:
    config = TemplateConfig(template="{% for n in nodes %}{{ n }}={{ nodes[n].output }} {% endfor %}")
    assert (await node.run(config, RecordedCall(None, {"a": 1, "b": 2}))).output == "a=1 b=2 "


async def test_plain_templates_are_fast(node: TemplateNode) -> None:
    config, call = TemplateConfig(template="Hello {{ input.name }}"), RecordedCall({"name": "Ada"})
    await node.run(config, call)

    async def hundred() -> float:
        start = time.perf_counter()
        for _ in range(100):
            await node.run(config, call)
        return (time.perf_counter() - start) / 100

    assert min([await hundred() for _ in range(5)]) < 50e-6


def test_the_example_is_sound() -> None:
    example: dict[str, Any] = TemplateNode.example
    assert reasons(example["template"]) == []
