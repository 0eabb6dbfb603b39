import orjson
import pytest

from kernel.agents import graph
from kernel.agents.flow import Flow
from kernel.nodes.registry import describe
from tests.calls import MODELS, TYPES


def test_the_types_there_are() -> None:
    assert set(TYPES) == {"llm", "retrieval", "http", "template", "condition", "transform"}
    assert all(node_type.name == name for name, node_type in TYPES.items())


@pytest.mark.parametrize("name", sorted(TYPES))
def test_each_is_described_and_its_example_is_sound(name: str) -> None:
    row = orjson.loads(orjson.dumps(describe(TYPES[name])))
    assert row["name"] == name
    assert row["title"].endswith(".")
    assert row["schema"]["type"] == "object"
    assert row["schema"]["additionalProperties"] is False
    flow = Flow.model_validate({"nodes": [{"id": "a", "type": name, "config": row["example"]}]})
    assert graph.check(flow, TYPES, MODELS) == []
    assert graph.compile(flow, TYPES).nodes["a"].type is TYPES[name]
