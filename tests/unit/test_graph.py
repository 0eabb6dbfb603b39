"""Flows are checked against the real node types; what varies is the flow."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kernel.agents import graph
from kernel.agents.flow import Flow
from kernel.agents.graph import ON_ERROR
from kernel.agents.secrets import SecretNames, credentials_of, mentioned, mentions_secrets
from kernel.errors import NodeError
from kernel.nodes.contract import NodeType
from tests.calls import MODELS, TYPES


def text(node_id: str, template: str = "hi", **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "template", "config": {"template": template}, **more}


def llm(node_id: str = "llm1", **config: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "llm", "config": {"model": "gpt-4", "prompt": "Review this", **config}}


def choice(node_id: str = "c") -> dict[str, Any]:
    return {"id": node_id, "type": "condition", "config": {"expression": "input.n > 1"}}


def edges(*ways: str) -> list[dict[str, str]]:
    """`a>b` or `a>b:label`."""
    made = []
    for way in ways:
        source, _, rest = way.partition(">")
        target, _, when = rest.partition(":")
        made.append({"source": source, "target": target} | ({"when": when} if when else {}))
    return made


def check(nodes: list[dict[str, Any]], *ways: str, **more: Any) -> list[tuple[str, str]]:
    flow = Flow.model_validate({"nodes": nodes, "edges": edges(*ways)})
    return [(problem.field, problem.reason) for problem in graph.check(flow, TYPES, MODELS, **more)]


def compiled(nodes: list[dict[str, Any]], *ways: str) -> graph.Graph[NodeType]:
    flow = Flow.model_validate({"nodes": nodes, "edges": edges(*ways)})
    assert graph.check(flow, TYPES, MODELS) == []
    return graph.compile(flow, TYPES)


class TestCheck:
    def test_the_example_of_the_reference(self) -> None:
        assert check([llm(model="gpt-5")], "entry>llm1") == [
            ("flow.nodes[0].config.model", "Model 'gpt-5' is not supported")
        ]

    def test_sound_flows(self) -> None:
        assert check([llm()], "entry>llm1") == []
        assert check([llm()]) == []
        assert check([text("a"), text("b"), text("c")], "entry>a", "entry>b", "a>c", "b>c", "c>exit") == []
        assert check([choice(), text("a"), text("b")], "entry>c", "c>a:true", "c>b:false") == []
        assert check([text("a", on_error={"goto": "b"}), text("b")], "entry>a") == []
        assert check([text("a"), text("b", "{{ nodes.a.output }}")], "entry>a", "a>b") == []

    @pytest.mark.parametrize(
        ("nodes", "ways", "field", "words"),
        [
            ([], (), "flow.nodes", "at least one"),
            ([text("a"), text("a")], ("entry>a",), "flow.nodes[1].id", "already that of flow.nodes[0]"),
            ([text("entry")], (), "flow.nodes[0].id", "'entry' is reserved"),
            ([text("a"), text("exit")], ("entry>a", "a>exit"), "flow.nodes[1].id", "'exit' is reserved"),
            (
                [{"id": "a", "type": "magic"}],
                (),
                "flow.nodes[0].type",
                "Unknown node type 'magic'; there are cond",
            ),
            ([text("a")], ("entry>b",), "flow.edges[0].target", "Unknown node 'b'"),
            ([text("a")], ("entry>a", "b>a"), "flow.edges[1].source", "Unknown node 'b'"),
            ([text("a")], ("entry>a", "a>a"), "flow.edges[1]", "itself"),
            ([text("a")], ("entry>a", "entry>a"), "flow.edges[1]", "already flow.edges[0]"),
            ([text("a")], ("entry>a", "a>entry"), "flow.edges[1].target", "No edge can lead to 'entry'"),
            ([text("a")], ("entry>a", "exit>a"), "flow.edges[1].source", "No edge can leave 'exit'"),
            ([text("a")], ("entry>a", "entry>exit"), "flow.edges[1]", "straight"),
            ([text("a"), text("b")], ("entry>a",), "flow.nodes[1]", "'b' cannot be reached"),
            ([text("a"), text("b")], ("a>b",), "flow.edges", "nothing would start"),
            ([text("a"), text("b")], (), "flow.edges", "nothing would start"),
            ([text("a"), text("b")], ("entry>a", "a>b", "b>a"), "flow.edges[2]", "cycle: a → b → a"),
            ([text("a")], ("entry>a", "a>exit:x"), "flow.edges[1].when", "'a' has no branches"),
            ([text("a")], ("entry>a:x",), "flow.edges[0].when", "'entry' has no branches"),
            ([choice(), text("a")], ("entry>c", "c>a:maybe"), "flow.edges[1].when", "it has false, true"),
            ([text("a", on_error={"goto": "b"})], (), "flow.nodes[0].on_error.goto", "Unknown node 'b'"),
            ([text("a", on_error={"goto": "a"})], (), "flow.nodes[0].on_error.goto", "itself"),
            (
                [text("a", on_error={"goto": "exit"})],
                (),
                "flow.nodes[0].on_error.goto",
                "Unknown node 'exit'",
            ),
            (
                [text("a"), text("b", on_error={"goto": "a"})],
                ("entry>a", "a>b"),
                "flow.nodes[1].on_error.goto",
                "cycle: a → b → a",
            ),
            ([text("a", "{{ nodes.b.output }}")], (), "flow.nodes[0].config.template", "Unknown node 'b'"),
            (
                [text("a", "{{ nodes.a.output }}")],
                (),
                "flow.nodes[0].config.template",
                "does not come before",
            ),
            (
                [text("a", "{{ nodes.b.output }}"), text("b")],
                ("entry>a", "entry>b"),
                "flow.nodes[0].config.template",
                "'b' does not come before 'a'",
            ),
            (
                [text("a", "{% if nodes.b.output %}x{% endif %}"), text("b")],
                ("entry>a", "a>b"),
                "flow.nodes[0].config.template",
                "'b' does not come before 'a'",
            ),
            ([llm(prompt="{{ nodes.x.output }}")], (), "flow.nodes[0].config.prompt", "Unknown node 'x'"),
            ([llm(prompt="{{config}}")], (), "flow.nodes[0].config.prompt", "unknown variable 'config'"),
            ([llm(prompt="{{7*7}}")], (), "flow.nodes[0].config.prompt", "not a plain path"),
            ([llm(images=["{{ input.x }"])], (), "flow.nodes[0].config.images[0]", "never closed"),
            ([llm(model="{{ secrets.M }}")], (), "flow.nodes[0].config.model", "no secret named 'M'"),
            ([llm(temperature="{{ 1 }}")], (), "flow.nodes[0].config.temperature", "not a plain path"),
            ([llm(temperature=3)], (), "flow.nodes[0].config.temperature", "less than or equal to 2"),
            ([llm(temprature=1)], (), "flow.nodes[0].config.temprature", "Extra inputs"),
            (
                [{"id": "a", "type": "llm", "config": {"model": "gpt-4"}}],
                (),
                "flow.nodes[0].config.prompt",
                "required",
            ),
            (
                [{"id": "a", "type": "condition"}],
                (),
                "flow.nodes[0].config",
                "either 'cases' or 'expression'",
            ),
        ],
    )
    def test_each_defect_has_its_field(
        self, nodes: list[dict[str, Any]], ways: tuple[str, ...], field: str, words: str
    ) -> None:
        found = check(nodes, *ways)
        assert [(where, words) for where, reason in found if where == field and words in reason], found

    @pytest.mark.parametrize(
        "code",
        ["__import__('os')", "().__class__", "{{7*7}}", "${7*7}", '"a"*10**9', "9**9**9", "foo.bar", ""],
    )
    def test_what_is_no_cel_is_refused(self, code: str) -> None:
        found = check(
            [{"id": "c", "type": "condition", "config": {"cases": [{"branch": "x", "expression": code}]}}]
        )
        assert {field for field, _ in found} == {"flow.nodes[0].config.cases[0].expression"}

    def test_all_defects_at_once(self) -> None:
        nodes = [llm(model="gpt-5", max_tokens=0), text("a", "{{ x }}"), text("a"), {"id": "b", "type": "no"}]
        found = check(nodes, "entry>llm1", "llm1>ghost", "a>a:x")
        assert [field for field, _ in found] == [
            "flow.nodes[2].id",
            "flow.nodes[0].config.max_tokens",
            "flow.nodes[0].config.model",
            "flow.nodes[1].config.template",
            "flow.nodes[3].type",
            "flow.edges[1].target",
            "flow.edges[2]",
            "flow.edges[2].when",
            "flow.nodes[1]",
            "flow.nodes[3]",
        ]

    def test_a_lone_placeholder_may_have_any_type_but_not_stand_for_code(self) -> None:
        assert check([llm(temperature="{{ input.heat }}", max_tokens="{{ input.most }}")]) == []
        node = {"id": "c", "type": "condition", "config": {"cases": "{{ input.cases }}"}}
        assert check([node])[0][0] == "flow.nodes[0].config.cases"
        assert (
            check([llm(temperature="{{ input.heat }}", model="gpt-5")])[0][0] == "flow.nodes[0].config.model"
        )

    def test_paths_into_a_closed_input_schema(self) -> None:
        schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string"},
                "files": {"type": "array", "items": {"type": "string"}},
            },
        }

        def reasons(path: str) -> list[tuple[str, str]]:
            return check([text("a", f"{{{{ {path} }}}}")], input_schema=schema)

        assert reasons("input.code") == reasons("input") == reasons("input.files[0]") == []
        assert reasons("input.cod") == [
            ("flow.nodes[0].config.template", "The input schema has no 'input.cod'")
        ]
        assert "is no array" in reasons("input[0]")[0][1]
        assert "is no object" in reasons("input.files[0].x")[0][1]
        assert check([text("a", "{{ input.any.thing[0] }}")], input_schema={"type": "object"}) == []

    def test_secrets_that_exist(self) -> None:
        node = {
            "id": "h",
            "type": "http",
            "config": {"url": "https://example.com/", "headers": {"A": "{{ secrets.K }}"}},
        }
        assert check([node])[0] == ("flow.nodes[0].config.headers.A", "There is no secret named 'K'")
        assert check([node], secrets=SecretNames({"k": "cred_1"})) == []

    @pytest.mark.parametrize("count", [1_001, 10_000])
    def test_too_many_nodes(self, count: int) -> None:
        nodes = [text(f"n{i}") for i in range(count)]
        start = time.perf_counter()
        with pytest.raises(ValidationError, match=f"at most 1000 nodes, not {count}") as refused:
            Flow.model_validate({"nodes": nodes, "edges": edges("entry>n0")})
        assert [error["loc"] for error in refused.value.errors()] == [("nodes",)]
        assert time.perf_counter() - start < 0.1

    def test_too_many_edges(self) -> None:
        with pytest.raises(ValidationError, match="at most 10000 edges, not 10001"):
            check([text("a")], *["entry>a"] * 10_001)

    def test_many_wrong_edges_are_as_good_as_one(self) -> None:
        wrong: Any = [{"source": 1, "target": 2, "x": 3}] * 10_000
        with pytest.raises(ValidationError) as refused:
            Flow.model_validate({"nodes": [text("a")], "edges": wrong})
        assert {error["loc"][:2] for error in refused.value.errors()} == {("edges", 0)}

    @pytest.mark.parametrize(
        "part",
        [
            {f"x{n}": 1 for n in range(20)},
            {"resources": {"labels": dict.fromkeys(map(str, range(51)), 1)}},
        ],
    )
    def test_many_wrong_things_are_one_error(self, part: dict[str, Any]) -> None:
        with pytest.raises(ValidationError) as refused:
            Flow.model_validate({"nodes": [text("a", **part)]})
        assert refused.value.error_count() == 1

    def test_too_much_config(self) -> None:
        assert check([text(f"n{i}", "x" * 60_000) for i in range(18)])[0][1] == (
            "The configs of a flow have at most 1 MB together"
        )

    def test_a_thousand_nodes_in_a_chain(self) -> None:
        nodes = [text(f"n{i}", f"{{{{ nodes.n{i - 1}.output }}}}" if i else "x") for i in range(1000)]
        ways = ["entry>n0", *(f"n{i}>n{i + 1}" for i in range(999))]
        start = time.perf_counter()
        assert list(compiled(nodes, *ways).nodes) == [f"n{i}" for i in range(1000)]
        assert time.perf_counter() - start < 3


class TestShape:
    """What the shape of a flow itself refuses."""

    @pytest.mark.parametrize("node_id", ["", "1a", "a b", "a.b", "a" * 65, "ä", "a\n", "a\0"])
    def test_ids(self, node_id: str) -> None:
        with pytest.raises(ValidationError):
            Flow.model_validate({"nodes": [text(node_id)]})

    @pytest.mark.parametrize(
        "part",
        [
            {"retry": {"max_attempts": 0}},
            {"retry": {"max_attempts": True}},
            {"on_error": "ignore"},
            {"on_error": {"default": 1, "goto": "a"}},
            {"resources": {"num_cpus": -1}},
            {"owner": "me"},
            {"config": []},
        ],
    )
    def test_node_parts(self, part: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Flow.model_validate({"nodes": [text("a") | part]})


class TestCompile:
    def test_a_diamond_with_branches_and_a_goto(self) -> None:
        made = compiled(
            [choice(), text("a", on_error={"goto": "x"}), text("b"), text("end"), text("x")],
            "entry>c",
            "c>a:true",
            "c>b:false",
            "a>end",
            "b>end",
        )
        assert made.start == ("c",)
        assert made.outputs == (("end", None), ("x", None))
        assert made.nodes["c"].successors == (("a", "true"), ("b", "false"))
        assert made.nodes["end"].predecessors == (("a", None), ("b", None))
        assert made.nodes["x"].predecessors == (("a", ON_ERROR),)
        assert made.nodes["a"].successors == (("end", None), ("x", ON_ERROR))

    def test_outputs_are_what_leads_to_exit(self) -> None:
        made = compiled(
            [choice(), text("a"), text("b")], "entry>c", "c>a:true", "c>exit:false", "a>exit", "a>b"
        )
        assert made.outputs == (("c", "false"), ("a", None))
        assert compiled([text("a")]).outputs == (("a", None),)
        assert compiled([text("a")]).start == ("a",)

    def test_a_constant_config_is_parsed_once(self) -> None:
        node = compiled([text("a", "{{ input.x }}")]).nodes["a"]
        assert node.config({}) is node.config({})

    def test_a_config_is_filled_in_and_must_still_fit(self) -> None:
        node = compiled([llm(temperature="{{ input.heat }}")]).nodes["llm1"]
        filled = node.config({"input": {"heat": 1}}).model_dump()
        assert filled["temperature"] == 1
        assert filled["prompt"] == "Review this"
        with pytest.raises(NodeError, match="temperature") as caught:
            node.config({"input": {"heat": "hot"}})
        assert caught.value.details["field"] == "config.temperature"
        with pytest.raises(NodeError, match=r"input\.heat"):
            node.config({"input": {}})

    def test_retry_and_resources_come_along(self) -> None:
        node = compiled(
            [text("a", retry={"max_attempts": 2}, resources={"num_gpus": 1}, on_error={"default": 0})]
        )
        one = node.nodes["a"]
        assert one.retry is not None
        assert one.retry.max_attempts == 2
        assert one.resources is not None
        assert one.resources.num_gpus == 1
        assert one.on_error != "fail"

    def test_a_type_that_is_gone_is_an_error(self) -> None:
        with pytest.raises(NodeError, match="unknown type 'gone'"):
            graph.compile(Flow.model_validate({"nodes": [{"id": "a", "type": "gone"}]}), TYPES)


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Ids in a shuffled order, and ways that only lead from earlier to later ones, all reachable."""
    names = [f"n{i}" for i in range(draw(st.integers(1, 12)))]
    ways = []
    for index, name in enumerate(names):
        parents = draw(st.sets(st.sampled_from(["entry", *names[:index]]), min_size=1))
        ways += [f"{parent}>{name}" for parent in sorted(parents)]
    return draw(st.permutations(names)), draw(st.permutations(ways))


class TestProperties:
    @settings(max_examples=100, deadline=None)
    @given(dags())
    def test_every_dag_is_accepted_and_sorted(self, dag: tuple[list[str], list[str]]) -> None:
        names, ways = dag
        made = compiled([text(name) for name in names], *ways)
        place = {name: index for index, name in enumerate(made.nodes)}
        assert place.keys() == set(names)
        for name, node in made.nodes.items():
            assert all(place[source] < place[name] for source, _ in node.predecessors)
            assert all(place[target] > place[name] for target, _ in node.successors)

    @settings(max_examples=100, deadline=None)
    @given(dags(), st.data())
    def test_a_way_back_is_refused(self, dag: tuple[list[str], list[str]], data: st.DataObject) -> None:
        names, ways = dag
        inner = [way for way in ways if not way.startswith("entry")]
        if not inner:
            return
        source, _, target = data.draw(st.sampled_from(inner)).partition(">")
        found = check([text(name) for name in names], *ways, f"{target}>{source}")
        assert any("Closes a cycle" in reason for _, reason in found)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.builds(
                lambda i, t, c, e: {"id": i, "type": t, "config": c, "on_error": e},
                st.sampled_from(["a", "b", "c", "entry", "exit"]),
                st.sampled_from([*TYPES, "none"]),
                st.dictionaries(
                    st.sampled_from(
                        ["template", "prompt", "model", "url", "cases", "expression", "headers", "x"]
                    ),
                    st.recursive(
                        st.none()
                        | st.booleans()
                        | st.integers(-5, 5)
                        | st.text(alphabet="{}%inputodes. |()[]'\"a0\n", max_size=20),
                        lambda inner: (
                            st.lists(inner, max_size=3)
                            | st.dictionaries(
                                st.sampled_from(["branch", "expression", "{{ x }}"]), inner, max_size=3
                            )
                        ),
                        max_leaves=5,
                    ),
                    max_size=4,
                ),
                st.sampled_from(["fail", {"goto": "a"}, {"goto": "z"}, {"default": None}]),
            ),
            max_size=5,
        ),
        st.lists(
            st.tuples(
                st.sampled_from(["entry", "a", "b", "c", "exit", "z"]),
                st.sampled_from(["entry", "a", "b", "c", "exit", "z"]),
                st.sampled_from(["", "true", "x"]),
            ),
            max_size=8,
        ),
    )
    def test_any_flow_is_judged_and_what_passes_compiles(
        self, nodes: list[dict[str, Any]], ways: list[tuple[str, str, str]]
    ) -> None:
        flow = Flow.model_validate({"nodes": nodes, "edges": edges(*[f"{s}>{t}:{w}" for s, t, w in ways])})
        found = graph.check(flow, TYPES, MODELS)
        assert all(problem.field.startswith("flow.") and problem.reason for problem in found)
        if not found:
            assert graph.compile(flow, TYPES).nodes.keys() == {node.id for node in flow.nodes}


def test_one_misfit_field_hides_no_other_defect() -> None:
    config = {"model": "gpt-5", "prompt": "{{ nope }}", "temperature": 3}
    node = {"id": "a", "type": "llm", "config": config}
    found = graph.check(Flow.model_validate({"nodes": [node], "edges": []}), TYPES, MODELS)
    assert {problem.field for problem in found} == {
        "flow.nodes[0].config.temperature",
        "flow.nodes[0].config.model",
        "flow.nodes[0].config.prompt",
    }


class TestCredentials:
    NAMES = SecretNames({"k": "cred_1"}, {"cred_2"})

    def test_secrets_stand_only_where_they_may(self) -> None:
        http = {"url": "https://example.com/{{ secrets.K }}", "body": {"a": ["{{ secrets.k.part }}"]}}
        assert check([{"id": "h", "type": "http", "config": http}], secrets=self.NAMES) == []
        wrong = {"url": "https://example.com/", "method": "{{ secrets.K }}"}
        ((field, reason),) = check([{"id": "h", "type": "http", "config": wrong}], secrets=self.NAMES)
        assert field == "flow.nodes[0].config.method"
        assert reason == "A secret must not stand here; in a http node it may in body, headers, url"
        for config in ({"system": "{{ secrets.K }}"}, {"prompt": "{{ secrets.K }}"}):
            assert check([llm(**config)], secrets=self.NAMES)

    def test_a_model_may_be_called_with_a_credential(self) -> None:
        assert check([llm(credential_id="cred_2")], secrets=self.NAMES) == []
        assert check([llm(credential_id="cred_3")], secrets=self.NAMES) == [
            ("flow.nodes[0].config.credential_id", "There is no such credential")
        ]
        assert check([llm(credential_id="{{ input.which }}")], secrets=self.NAMES)

    def test_those_a_flow_uses(self) -> None:
        nodes = [
            {
                "id": "h",
                "type": "http",
                "config": {"url": "https://e.com/", "headers": {"A": "{{ secrets.K }}"}},
            },
            llm("l", credential_id="cred_2"),
        ]
        flow = Flow.model_validate({"nodes": nodes, "edges": edges("entry>h", "h>l")})
        assert credentials_of(flow, self.NAMES) == {"cred_1", "cred_2"}
        assert mentions_secrets(flow)
        assert mentioned(flow) == ({"k"}, {"cred_2"})
        assert not mentions_secrets(Flow.model_validate({"nodes": [text("a")], "edges": []}))
