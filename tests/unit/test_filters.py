"""What filters may look like and what they mean. How the vector store is asked is in contract/test_vectors.py."""

from typing import Any

import pytest

from kernel.errors import ValidationError
from kernel.knowledge import filters
from kernel.knowledge.conditions import condition
from kernel.storage.chunks import Capabilities, Hit

HIT = Hit(
    "c", "doc_1", "v", 0, "text", "documentation", "https://x.test/a", "The title", 3, None, 0,
    {"team": "web", "n": 5, "tags": ["a", 1], "live": True, "none": None, "deep": {"a": 1}}, 1.0,
)  # fmt: skip
BARE = Hit("c", "doc_2", "v", 0, "text", "url", "x", "", None, None, 0, {}, 1.0)
LITE = Capabilities(keyword=True, binds=False, infix=True, exists=False, loose=True)
LEAST = Capabilities(keyword=False, binds=False, infix=False, exists=False, loose=False)


def holds(raw: Any, hit: Hit = HIT) -> bool:
    return filters.matches(filters.read(raw), hit)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"source_type": "documentation"},
        {"source_type": "documentation", "team": "web", "page": 3},
        {"page": {"gt": 2, "lte": 3}},
        {"page": 3.0},
        {"n": 5.0},
        {"n": {"in": ["x", 5]}},
        {"team": {"ne": "ops"}},
        {"gone": {"ne": "ops"}},
        {"n": {"ne": "5"}},
        {"tags": {"contains": "a"}},
        {"tags": {"contains": 1}},
        {"team": {"contains": "we"}},
        {"location": {"contains": "x.test/"}},
        {"team": {"gte": "web", "lt": "x"}},
        {"live": True},
        {"deep": {"exists": True}},
        {"none": {"exists": False}},
        {"gone": {"exists": False}},
        {"or": [{"team": "ops"}, {"page": 3}]},
        {"and": [{"team": "web"}, {"not": {"page": 4}}]},
        {"not": {"gone": {"gt": 1}}},
        {"not": {"or": [{"team": "ops"}, {"n": {"lt": 5}}]}},
    ],
)
def test_filters_that_hold(raw: Any) -> None:
    assert holds(raw)
    assert not holds({"not": raw})


@pytest.mark.parametrize(
    "raw",
    [
        {"team": "Web"},
        {"n": "5"},
        {"live": 1},
        {"n": True},
        {"team": {"gt": 5}},
        {"gone": {"lt": 5}},
        {"tags": "a"},
        {"tags": {"contains": True}},
        {"n": {"contains": 5}},
        {"gone": {"contains": "a"}},
        {"none": {"exists": True}},
        {"deep": 1},
    ],
)
def test_filters_that_do_not_hold(raw: Any) -> None:
    assert not holds(raw)


def test_no_page_and_no_title_are_nothing_to_compare_with() -> None:
    assert not holds({"page": {"lt": 10}}, BARE)
    assert not holds({"page": 0}, BARE)
    assert holds({"page": {"exists": False}}, BARE)
    assert holds({"page": {"ne": 1}}, BARE)
    assert not holds({"title": {"lt": "z"}}, BARE)
    assert holds({"title": {"exists": False}}, BARE)
    assert holds({"title": {"exists": True}})


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ([], "filters"),
        ("x", "filters"),
        ({"a b": 1}, "filters"),
        ({"a.b": 1}, "filters"),
        ({'a"] == 1 or metadata["b': 1}, "filters"),
        ({"x" * 65: 1}, "filters"),
        ({"": 1}, "filters"),
        ({"team": None}, "filters.team"),
        ({"team": ["a"]}, "filters.team"),
        ({"team": {}}, "filters.team"),
        ({"team": {"eq": {"a": 1}}}, "filters.team.eq"),
        ({"team": {"regex": "a"}}, "filters.team.regex"),
        ({"team": {"in": []}}, "filters.team.in"),
        ({"team": {"in": "a"}}, "filters.team.in"),
        ({"team": {"in": ["a", None]}}, "filters.team.in[1]"),
        ({"team": {"in": ["a"] * 101}}, "filters.team.in"),
        ({"team": {"exists": "yes"}}, "filters.team.exists"),
        ({"team": {"exists": 1}}, "filters.team.exists"),
        ({"live": {"gt": True}}, "filters.live.gt"),
        ({"source_type": 5}, "filters.source_type"),
        ({"title": {"gt": 5}}, "filters.title.gt"),
        ({"page": "3"}, "filters.page"),
        ({"page": 1.5}, "filters.page"),
        ({"page": True}, "filters.page"),
        ({"page": {"contains": 1}}, "filters.page.contains"),
        ({"team": "a\nb"}, "filters.team"),
        ({"team": "a\x00"}, "filters.team"),
        ({"team": "x" * 1025}, "filters.team"),
        ({"n": 2**63}, "filters.n"),
        ({"n": -(2**63)}, "filters.n"),
        ({"and": []}, "filters.and"),
        ({"or": {}}, "filters.or"),
        ({"not": []}, "filters.not"),
        ({"and": [{"team": 1}, {"page": {"gt": "x"}}]}, "filters.and[1].page.gt"),
        ({"not": {"or": [{"x": None}]}}, "filters.not.or[0].x"),
    ],
)
def test_wrong_forms_name_the_path(raw: Any, field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        filters.read(raw)
    assert refused.value.details["field"] == field


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        filters.read({"a": None, "and": [{"page": "x"}, {"b": {"like": 1}}]}, "config.filters")
    fields = [one["field"] for one in refused.value.details["errors"]]
    assert fields == ["config.filters.a", "config.filters.and[0].page", "config.filters.and[1].b.like"]


def test_depth_and_size_have_limits() -> None:
    deep: Any = {"a": 1}
    for _ in range(filters.MAX_DEPTH - 1):
        deep = {"not": deep}
    filters.read(deep)
    with pytest.raises(ValidationError, match="Invalid filters") as refused:
        filters.read({"not": deep})
    assert refused.value.details["field"].endswith("not")
    filters.read({"or": [{"n": {"in": list(range(100))}}, {"n": {"in": list(range(100))}}]})
    with pytest.raises(ValidationError) as refused:
        filters.read({"or": [{"n": {"in": list(range(100))}}, {"n": {"in": list(range(100))}}, {"n": 1}]})
    assert refused.value.details["field"] == "filters"


class TestConditions:
    def test_no_value_and_no_name_of_a_caller_stands_in_the_expression(self) -> None:
        raw = {"source_type": 'a" or 1 == 1', "team": {"in": ["b", 2]}, "location": {"contains": "50%_\\"}}
        asked = condition(filters.read(raw), LITE)
        assert asked is not None
        assert asked.expression == (
            '((source_type in {p0} and source_type != "") and ((metadata["team"] == {p1} or '
            'metadata["team"] == {p2}) and location like {p3}))'
        )
        assert asked.values == {"p0": ['a" or 1 == 1'], "p1": "b", "p2": 2, "p3": "%50\\%\\_\\\\%"}

    def test_what_a_server_cannot_be_asked_is_left_out(self) -> None:
        parts = {"team": {"exists": True}, "page": 3}
        asked = condition(filters.read(parts), LEAST)
        assert asked is not None
        assert asked.expression == "(page in {p0} and page > 0)"
        assert condition(filters.read({"or": [{"team": {"ne": "x"}}, {"page": 3}]}), LEAST) is None
        assert condition(filters.read({"location": {"contains": "x"}}), LEAST) is None
        assert condition(filters.read({}), LEAST) is None
