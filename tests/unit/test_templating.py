import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.agents.templating import BadTemplate, Path, Template, compile_config, is_placeholder, placeholders
from kernel.errors import NodeError

CONTEXT = {
    "input": {"text": "hi", "n": 3, "list": [1, {"a": None}], "odd key": "x", "evil": "{{ input.n }}"},
    "nodes": {"llm-1": {"output": {"field": ["first", "last"]}}},
    "execution": {"id": "exec_1"},
}


def render(text: str) -> object:
    return Template.parse(text).render(CONTEXT, {"KEY": "s3cret"}.__getitem__)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{ input.text }}", "hi"),
        ("{{input.n}}", 3),
        ("{{ input.list }}", [1, {"a": None}]),
        ("{{ input.list[1].a }}", None),
        ("n={{ input.n }}, l={{ input.list }}", 'n=3, l=[1,{"a":null}]'),
        ("{{ nodes.llm-1.output.field[0] }}/{{ nodes.llm-1.output.field[-1] }}", "first/last"),
        ("{{ input[\"odd key\"] }}{{ input['odd key'] }}", "xx"),
        ("{{ execution.id }}", "exec_1"),
        ("Bearer {{ secrets.KEY }}", "Bearer s3cret"),
        ("{{ '{{' }} input.n }}", "{{ input.n }}"),
        ('{{ "{%" }}', "{%"),
        ("{% for x in y %}", "{% for x in y %}"),
        ("${7*7} }} {#", "${7*7} }} {#"),
        ("ünï {{ input.text }}\n", "ünï hi\n"),
    ],
)
def test_renders(text: str, value: object) -> None:
    assert render(text) == value


def test_a_value_is_never_read_again() -> None:
    assert render("{{ input.evil }}") == "{{ input.n }}"
    assert render("a {{ input.evil }}") == "a {{ input.n }}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{7*7}}", "not a plain path"),
        ("{{ }}", "not a plain path"),
        ("{{ input.a | upper }}", "not a plain path"),
        ("{{ input..a }}", "not a plain path"),
        ("{{ input.a b }}", "not a plain path"),
        ("{{ input[x] }}", "not a plain path"),
        ("{{ input.__class__() }}", "not a plain path"),
        ("{{secret:x}}", "not a plain path"),
        ("{{{ input.a }}}", "not a plain path"),
        ("{{ input.a {{ input.b }}", "not a plain path"),
        ("{{ 'text' }}", "not a plain path"),
        ("{{ input.é }}", "not a plain path"),
        ("{{config}}", "unknown variable 'config'"),
        ("{{ env.HOME }}", "unknown variable 'env'"),
        ("{{ nodes }}", "names no output"),
        ("{{ nodes.a }}", "names no output"),
        ("{{ nodes.a.error }}", "names no output"),
        ("{{ nodes[0].output }}", "names no output"),
        ("{{ execution }}", "execution.id"),
        ("{{ execution.key }}", "execution.id"),
        ("{{ secrets }}", "names no secret"),
        ("{{ secrets.A[0] }}", "names no secret"),
        ("{{ secrets[0] }}", "names no secret"),
        ("{{ input.a", "never closed"),
        ("a }} {{", "never closed"),
    ],
)
def test_refuses(text: str, words: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        Template.parse(text)
    assert len(caught.value.reasons) == 1
    assert words in caught.value.reasons[0]


def test_every_bad_placeholder_of_a_text_is_named() -> None:
    with pytest.raises(BadTemplate) as caught:
        Template.parse("{{ a }} {{ input.ok }} {{ b }}")
    assert [reason.split(";")[0] for reason in caught.value.reasons] == [
        "unknown variable 'a'",
        "unknown variable 'b'",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "input.gone",
        "input.text.length",
        "input.text[0]",
        "input.list[9]",
        "input.n.x",
        "input.list.a",
        "nodes.other.output",
        "secrets.KEY",
    ],
)
def test_nothing_at_a_path_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(NodeError, match=path.replace("[", r"\[").rpartition(".")[2]) as caught:
        Template.parse(f"a {{{{ {path} }}}}").render(CONTEXT)
    assert caught.value.details["path"] == path


def test_references_are_the_paths_read() -> None:
    paths = Template.parse("{{ input.a[0] }} and {{ nodes.n1.output.x }}").references()
    assert paths == (
        Path("input.a[0]", "input", ("a", 0)),
        Path("nodes.n1.output.x", "nodes", ("n1", "output", "x")),
    )
    assert [path.node for path in paths] == [None, "n1"]


def test_a_config_is_filled_in_wherever_strings_are() -> None:
    config = {
        "url": "https://x/{{ input.n }}",
        "headers": {"A": "b", "C": "{{ input.text }}"},
        "list": ["{{ input.n }}", 5, [{"deep": "{{ input.text }}"}]],
        "code": "{{ not.looked.at }}",
    }
    compiled = compile_config(config, frozenset({"code"}))
    assert not compiled.constant
    assert compiled.render(CONTEXT) == {
        "url": "https://x/3",
        "headers": {"A": "b", "C": "hi"},
        "list": [3, 5, [{"deep": "hi"}]],
        "code": "{{ not.looked.at }}",
    }
    assert list(compiled.render(CONTEXT)) == list(config)
    assert config["headers"] == {"A": "b", "C": "{{ input.text }}"}


def test_a_config_without_placeholders_is_constant() -> None:
    config = {"a": ["b", {"c": 1}], "prompt": "{{ input.x }}"}
    compiled = compile_config(config, frozenset({"prompt"}))
    assert compiled.constant
    assert compiled.render({}) is config


def test_placeholders_come_with_their_fields() -> None:
    config = {"a": "{{ input.x }}", "b": [{"c": "{{ x }}"}, "no"], "d": "{{ skipped }}"}
    assert list(placeholders(config, frozenset({"d"}))) == [("a", "{{ input.x }}"), ("b[0].c", "{{ x }}")]


@pytest.mark.parametrize(
    ("value", "lone"),
    [
        ("{{ input.x }}", True),
        ("a{{ input.x }}", False),
        ("{{ x }}", False),
        ("{{ '{{' }}", False),
        (3, False),
    ],
)
def test_a_lone_placeholder_is_known(value: object, lone: bool) -> None:
    assert is_placeholder(value) is lone


@pytest.mark.parametrize("text", ["{{" * 200_000, "{{ input.a }}" * 50_000, "{{" + "a." * 200_000 + "}}"])
def test_long_texts_take_linear_time(text: str) -> None:
    start = time.perf_counter()
    with suppress(BadTemplate):
        Template.parse(text)
    assert time.perf_counter() - start < 2


@given(st.text(alphabet="{}% '\"input.nodes[]0a_-|", max_size=40))
def test_any_text_parses_or_is_refused_with_a_reason(text: str) -> None:
    if "{{" not in text:
        assert Template.parse(text).parts == ((text,) if text else ())
        return
    with suppress(BadTemplate):
        assert Template.parse(text).parts


@given(st.text())
def test_a_value_of_any_text_comes_through_unchanged(value: str) -> None:
    assert Template.parse("<{{ input }}>").render({"input": value}) == f"<{value}>"


def test_what_placeholders_multiply_is_bounded() -> None:
    large = {"input": {"x": "y" * 600_000}, "nodes": {}, "execution": {"id": "e"}}
    with pytest.raises(NodeError, match="longer than"):
        Template.parse("{{ input.x }} and {{ input.x }}").render(large)
    config = compile_config({"many": ["a {{ input.x }}"] * 20})
    with pytest.raises(NodeError, match="larger than"):
        config.render(large)


def test_secrets_are_named_and_have_fields() -> None:
    compiled = compile_config(
        {"a": "{{ secrets.DB.password }}", "b": ["x {{ secrets.KEY }}", "{{ input.c }}"]}
    )
    assert compiled.secrets == {"DB", "KEY"}
    values = {"DB": {"password": "p"}, "KEY": "k"}
    assert compiled.render({"input": {"c": 1}}, values.__getitem__) == {"a": "p", "b": ["x k", 1]}
    with pytest.raises(NodeError, match=r"There is nothing at 'secrets.DB.password'"):
        compiled.render({"input": {"c": 1}}, {"DB": "text", "KEY": "k"}.__getitem__)
