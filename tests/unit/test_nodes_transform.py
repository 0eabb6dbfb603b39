import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kernel.errors import NodeError
from kernel.nodes.sandbox import Sandbox
from kernel.nodes.transform import TransformConfig, TransformNode
from tests.calls import MODELS, RecordedCall

pytestmark = pytest.mark.anyio

CALL = RecordedCall(
    {"people": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 20}]}, {"a-1": {"x": [1, 2]}}
)


@pytest.fixture
async def node() -> AsyncIterator[TransformNode]:
    sandbox = Sandbox()
    yield TransformNode(sandbox)
    sandbox.close()


@pytest.mark.parametrize(
    ("expression", "output"),
    [
        ("input.people[0].name", "Ada"),
        ('nodes."a-1".output.x', [1, 2]),
        ("nodes.other.output.x", None),
        ("input.people[?age > `30`].name", ["Ada"]),
        ("{names: input.people[].name, id: execution.id}", {"names": ["Ada", "Bob"], "id": "exec_1"}),
        ("sort_by(input.people, &age)[0].name", "Bob"),
        ("values(nodes)[*].output.x | [0]", [1, 2]),
        ("@.input.people | length(@)", 2),
        ("keys(@)", ["input", "nodes", "execution"]),
    ],
)
async def test_selects_and_reshapes(node: TransformNode, expression: str, output: Any) -> None:
    config = TransformConfig(expression=expression)
    assert node.check(config, MODELS) == []
    assert (await node.run(config, CALL)).output == output


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("[", "ncomplete"),
        ("input.", "Parse error at column 6"),
        ("$", "Unknown token"),
        ("input people", "Unexpected token"),
        ("config.x", "unknown variable 'config'"),
        ("{a: input.x, b: secrets.KEY}", "unknown variable 'secrets'"),
        ("exec(input)", "unknown function 'exec'"),
        ("(" * 2000 + "input" + ")" * 2000, "nested too deeply"),
    ],
)
def test_refuses_at_write_time(expression: str, words: str) -> None:
    found = TransformNode(Sandbox()).check(TransformConfig(expression=expression), MODELS)
    assert [problem.field for problem in found] == ["expression"]
    assert words in found[0].reason


@pytest.mark.parametrize("expression", ["", "a" * 4097])
def test_size_is_bounded(expression: str) -> None:
    with pytest.raises(ValueError, match="character"):
        TransformConfig(expression=expression)


@pytest.mark.parametrize(
    "expression", ["[@,@]|" * 600 + "@", "input|" + "{a:@,b:@}|" * 300 + "@", "join(',', input.people)"]
)
async def test_what_multiplies_or_misfits_ends_in_an_error(node: TransformNode, expression: str) -> None:
    start = time.perf_counter()
    with pytest.raises(NodeError):
        await node.run(TransformConfig(expression=expression), CALL)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('nodes."a-1".output.x', {"a-1"}),
        ("[nodes.a.output, nodes.b.output[?nodes.c]]", {"a", "b"}),
        ("nodes.*.output", set()),
        ("input.nodes.x", set()),
    ],
)
def test_references(expression: str, names: set[str]) -> None:
    found = TransformNode(Sandbox()).references(TransformConfig(expression=expression))
    assert {one.path.node for one in found} == names
