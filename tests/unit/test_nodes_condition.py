from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kernel.errors import NodeError
from kernel.nodes.condition import ConditionConfig, ConditionNode
from kernel.nodes.sandbox import Sandbox
from tests.calls import MODELS, RecordedCall

pytestmark = pytest.mark.anyio

CALL = RecordedCall(
    {"n": 3, "f": 2.5, "text": "hello", "list": [1, 2], "none": None, "yes": True, "map": {"a": 1}},
    {"a": {"ok": True}, "b-2": 5},
)


@pytest.fixture
async def node() -> AsyncIterator[ConditionNode]:
    sandbox = Sandbox()
    yield ConditionNode(sandbox)
    sandbox.close()


def short(expression: str) -> ConditionConfig:
    return ConditionConfig(expression=expression)


SIMPLE = [
    ("input.n > 2 && input.f < 3.0", True),
    ("input.text == 'hello' || nodes.gone.output", True),
    ("size(input.list) == 2", True),
    ("'a' in input.map", True),
    ("has(input.gone)", False),
    ("nodes.a.output.ok", True),
    ("nodes['b-2'].output == 5", True),
    ("input.text.startsWith('he')", True),
    ("input.none == null ? input.yes : false", True),
    ("execution.id == 'exec_1'", True),
    ("-input.n == 0", False),
    ("true // always", True),
]
SANDBOXED = [
    ("input.list.exists(x, x == 2)", True),
    ("input.list.map(input, input * 2).size() == 2", True),
    ("input.n + 1 == 4", True),
    ("input.text.matches('^h')", True),
    ("timestamp('2024-01-15T00:00:00Z').getFullYear() == 2024", True),
    (" || ".join(["input.n == 3"] * 60), True),
]


@pytest.mark.parametrize(("expression", "value"), SIMPLE + SANDBOXED)
async def test_evaluates(node: ConditionNode, expression: str, value: bool) -> None:
    config = short(expression)
    assert node.check(config, MODELS) == []
    outcome = await node.run(config, CALL)
    label = "true" if value else "false"
    assert (outcome.output, outcome.branch) == ({"branch": label}, label)


def test_only_simple_expressions_stay_in_the_process() -> None:
    def simple(expression: str) -> bool:
        return short(expression).ordered[0][1].compiled.simple

    assert all(simple(expression) for expression, _ in SIMPLE)
    assert not any(simple(expression) for expression, _ in SANDBOXED)


async def test_the_first_true_case_wins(node: ConditionNode) -> None:
    config = ConditionConfig.model_validate(
        {
            "cases": [
                {"branch": "big", "expression": "input.n > 100"},
                {"branch": "middle", "expression": "input.n > 2"},
                {"branch": "small", "expression": "input.gone"},
            ]
        }
    )
    assert node.branches(config) == {"big", "middle", "small", "else"}
    assert (await node.run(config, CALL)).branch == "middle"
    assert (await node.run(config, RecordedCall({"n": 200}))).branch == "big"


async def test_without_a_true_case_the_default_is_taken(node: ConditionNode) -> None:
    cases = [{"branch": "a", "expression": "false"}]
    assert (await node.run(ConditionConfig.model_validate({"cases": cases}), CALL)).branch == "else"
    config = ConditionConfig.model_validate({"cases": cases, "default": "rest"})
    assert (await node.run(config, CALL)).branch == "rest"


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("input.n", "not true or false but int"),
        ("input.gone > 1", "there is no 'gone'"),
        ("nodes.skipped.output == 1", "there is no 'skipped'"),
        ("input.text > 1", "failed"),
        ("1 / (input.n - 3) == 1", "zero"),
        ("[input].map(x, x)", "not true or false but list"),
        ("input.list.all(x, x.y == 1)", "cel failed"),
    ],
)
async def test_what_has_no_truth_is_an_error(node: ConditionNode, expression: str, words: str) -> None:
    with pytest.raises(NodeError, match=words):
        await node.run(short(expression), CALL)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("input.n >", "line 1, column"),
        ("input.n >\n\n  ) 1", "line 3, column 3"),
        ("{{7*7}}", "line 1, column 6"),
        ("${7*7}", "line 1, column 1"),
        ("().__class__", "line 1"),
        ("9**9**9", "line 1, column 3"),
        ("__import__('os')", "unknown function '__import__'"),
        ("exit(1) || true", "unknown function 'exit'"),
        ("foo == 1", "unknown variable 'foo'; there are input, nodes, execution"),
        ("secrets.KEY == ''", "unknown variable 'secrets'"),
        ("input.list.map(x, x.y(z)) == []", "unknown variable 'z'"),
        ("(" * 1000 + "true" + ")" * 1000, ""),
    ],
)
def test_refuses_at_write_time(expression: str, words: str) -> None:
    found = ConditionNode(Sandbox()).check(short(expression), MODELS)
    assert found
    assert all(problem.field == "expression" and len(problem.reason) < 200 for problem in found)
    assert any(words in problem.reason for problem in found)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"cases": []},
        {"cases": [], "expression": ""},
        {"expression": "true", "cases": [{"branch": "a", "expression": "true"}]},
        {"expression": "true", "default": "x"},
        {"expression": "true" + " " * 2048},
        {"expression": True},
        {"cases": [{"branch": "a b", "expression": "true"}]},
        {"cases": [{"branch": "<error>", "expression": "true"}]},
        {"cases": [{"branch": "", "expression": "true"}]},
        {"cases": [{"branch": "a"}]},
        {"cases": [{"branch": "a", "expression": "true", "when": 1}]},
        {"cases": [{"branch": "a", "expression": "true"}] * 101},
        {"cases": [{"branch": "a", "expression": "true"}], "default": "1"},
    ],
)
def test_config_is_strict(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConditionConfig.model_validate(config)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("nodes.a.output == 1 && nodes['b-2'].output == 2", {"a", "b-2"}),
        ('"nodes.x" == nodes["c"].output', {"c"}),
        ("input.nodes.x == 1", set()),
        ("nodes[input.which].output", set()),
    ],
)
def test_references(expression: str, names: set[str]) -> None:
    found = ConditionNode(Sandbox()).references(short(expression))
    assert {one.path.node for one in found} == names


async def test_any_node_can_be_read_by_a_name_from_the_input(node: ConditionNode) -> None:
    call = RecordedCall({"which": "a"}, {"a": True})
    assert (await node.run(short("nodes[input.which].output"), call)).branch == "true"


@given(st.text(alphabet="input.n()[]{}'\"&|!<>=? 01+,x\n", min_size=1, max_size=30))
def test_any_text_is_judged(expression: str) -> None:
    for problem in ConditionNode(Sandbox()).check(short(expression), MODELS):
        assert problem.reason
