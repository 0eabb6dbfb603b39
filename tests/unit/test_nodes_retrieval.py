from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from kernel.agents import graph
from kernel.agents.flow import Flow
from kernel.errors import NodeError, NotFound, ProviderError, RateLimitError, Unavailable, ValidationError
from kernel.knowledge.ranking import Ranked
from kernel.knowledge.search import Bill, Found, SearchOrder
from kernel.models.seam import Tokens
from kernel.nodes.contract import ModelUse
from kernel.nodes.retrieval import RetrievalConfig, RetrievalNode
from kernel.storage.chunks import Hit
from tests.calls import MODELS, TYPES, RecordedCall

pytestmark = pytest.mark.anyio

HIT = Hit(
    "c", "doc_1", "v", 0, "Say {{ input.secret }} and run {% x %}", "text", "a", "A", 2, "H", 5, {"t": 1}, 0.5
)


@dataclass
class Searches:
    """Finds what it is told to, and remembers what it was asked. fails: raised instead."""

    found: Found = field(default_factory=lambda: Found([Ranked("col_1", HIT, 0.9, 0.5, None)], 3))
    fails: Exception | None = None
    asked: list[tuple[str, str, Collection[str] | None, SearchOrder]] = field(default_factory=list)

    async def of_one(
        self, ws: str, name: str, only: Collection[str] | None, order: SearchOrder, bill: Bill
    ) -> Found:
        self.asked.append((ws, name, only, order))
        bill.admit("words", order.query)
        if self.fails:
            raise self.fails
        bill.used("words", Tokens(7))
        return self.found


def config(**more: Any) -> RetrievalConfig:
    return RetrievalConfig.model_validate({"collection_id": "my-docs", "query": "cats"} | more)


async def test_searches_in_the_executions_own_workspace() -> None:
    searches, call = Searches(), RecordedCall(workspace_id="ws_7", collections={"col_1"})
    given = {"top_k": 3, "filters": {"team": "a"}, "mode": "dense", "rerank": True, "min_score": 0.5}
    outcome = await RetrievalNode(searches, MODELS).run(config(**given), call)
    assert searches.asked == [("ws_7", "my-docs", {"col_1"}, SearchOrder(query="cats", **given))]
    assert outcome.output == {
        "results": [
            {
                "chunk_id": "c",
                "document_id": "doc_1",
                "text": "Say {{ input.secret }} and run {% x %}",
                "score": 0.9,
                "scores": {"dense": 0.5, "keyword": None},
                "metadata": {
                    "t": 1,
                    "source_type": "text",
                    "location": "a",
                    "title": "A",
                    "page": 2,
                    "heading": "H",
                    "offset": 5,
                },
            }
        ]
    }


async def test_the_query_is_paid_for() -> None:
    call = RecordedCall()
    await RetrievalNode(Searches(), MODELS).run(config(), call)
    assert call.uses == [ModelUse("words", Tokens(7), None)]
    assert call.worst_costs == [None]


async def test_another_mode_than_asked_for_is_told_of() -> None:
    call = RecordedCall()
    await RetrievalNode(Searches(Found([], 1, "dense")), MODELS).run(config(), call)
    assert call.logs == [("warning", "The vector store has no hybrid search: dense was used")]


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (NotFound("Collection not found"), "config.collection_id"),
        (ValidationError.at("filters.page", "must be a whole number"), "config.filters.page"),
    ],
)
async def test_what_cannot_be_is_the_nodes_failure(error: Exception, field: str) -> None:
    with pytest.raises(NodeError) as failed:
        await RetrievalNode(Searches(fails=error), MODELS).run(config(), RecordedCall())
    assert failed.value.details["field"] == field
    assert not failed.value.can_retry


@pytest.mark.parametrize("error", [Unavailable("away"), ProviderError("no"), RateLimitError("none left")])
async def test_other_failures_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)):
        await RetrievalNode(Searches(fails=error), MODELS).run(config(), RecordedCall())


@pytest.mark.parametrize("query", [" ", "x" * 8001, "a\x00b"])
async def test_a_query_that_is_none_once_filled_in(query: str) -> None:
    searches = Searches()
    with pytest.raises(NodeError) as failed:
        await RetrievalNode(searches, MODELS).run(config(query=query), RecordedCall())
    assert failed.value.details["field"] == "config.query"
    assert searches.asked == []


def problems(**given: Any) -> list[tuple[str, str]]:
    node = {"id": "find", "type": "retrieval", "config": {"collection_id": "docs", "query": "x"} | given}
    found = graph.check(Flow.model_validate({"nodes": [node]}), TYPES, MODELS)
    return [(one.field.removeprefix("flow.nodes[0].config."), one.reason) for one in found]


def test_what_can_be_filled_in() -> None:
    assert problems() == []
    assert (
        problems(collection_id="{{ input.where }}", query="{{ input.question }}", top_k="{{ input.k }}") == []
    )
    assert problems(filters="{{ input.filters }}", rerank="{{ input.rerank }}") == []
    assert problems(filters={"page": {"gt": "{{ input.page }}"}}) == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"filters": {"page": "x"}}, "filters.page"),
        ({"filters": {"and": [{"a": None}]}}, "filters.and[0].a"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 101}, "top_k"),
        ({"mode": "exact"}, "mode"),
        ({"query": ""}, "query"),
        ({"collection_id": ""}, "collection_id"),
        ({"query": "{{ input. }}"}, "query"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_defects_are_told_when_it_is_written(given: dict[str, Any], field: str) -> None:
    assert [at for at, _ in problems(**given)] == [field]
