"""The node type `retrieval`: one search of a collection of the execution's own workspace.

What it finds is data: it goes into the output as it was stored, and nothing in it is run or filled in.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import orjson
from pydantic import Field, StrictBool
from pydantic import ValidationError as Unfit

from kernel.agents.flow import Part
from kernel.agents.references import Reference
from kernel.agents.schema import schema_problems
from kernel.errors import NodeError, NotFound, Problem, ValidationError
from kernel.knowledge import filters
from kernel.knowledge.search import LONGEST_QUERY, MOST_RESULTS, Bill, Found, Mode, SearchOrder
from kernel.models.seam import Models, Tokens
from kernel.nodes.contract import Call, ModelUse, Outcome


class Searches(Protocol):
    async def of_one(
        self, ws: str, name: str, only: Collection[str] | None, order: SearchOrder, bill: Bill
    ) -> Found:
        """As `kernel.knowledge.search.Search` has it."""
        ...


class RetrievalConfig(Part):
    collection_id: str = Field(min_length=1, max_length=1024, description="a collection's id, or its name")
    query: str = Field(
        min_length=1, max_length=1_000_000, description=f"at most {LONGEST_QUERY} characters once filled in"
    )
    top_k: int = Field(5, ge=1, le=MOST_RESULTS)
    filters: dict[str, Any] | None = Field(None, description="as for a search over the API")
    mode: Mode = "hybrid"
    rerank: StrictBool | Annotated[str, Field(min_length=1, max_length=256)] = False
    min_score: float | None = Field(None, ge=0, le=1)


class RetrievalNode:
    name = "retrieval"
    title = "Searches a collection of documents."
    config = RetrievalConfig
    example: ClassVar[dict[str, Any]] = {
        "collection_id": "my-docs",
        "query": "{{ input.question }}",
        "top_k": 5,
        "filters": {"source_type": "documentation"},
    }
    source_fields: frozenset[str] = frozenset()
    secret_fields: frozenset[str] = frozenset()

    def __init__(self, searches: Searches, models: Models):
        self._searches, self._models = searches, models

    def check(self, config: RetrievalConfig, models: Models) -> list[Problem]:
        """What is filled in at the run is looked at then."""
        if config.filters is None or b"{{" in orjson.dumps(config.filters):
            return []
        try:
            filters.read(config.filters)
        except ValidationError as error:
            return [Problem(one["field"], one["reason"]) for one in error.details["errors"]]
        return []

    def branches(self, config: RetrievalConfig) -> None:
        return None

    def references(self, config: RetrievalConfig) -> tuple[Reference, ...]:
        return ()

    async def run(self, config: RetrievalConfig, call: Call) -> Outcome:
        """Output: `{results}`, each with its text and, in `metadata`, where it is from. Raises NodeError and kin."""
        order, bill = _order(config), _CallBill(self._models, call)
        try:
            found = await self._searches.of_one(
                call.workspace_id, config.collection_id, call.collections, order, bill
            )
        except NotFound:
            reason = {"reason": "collection_not_found", "field": "config.collection_id"}
            raise NodeError(f"There is no collection '{config.collection_id[:128]}'", reason) from None
        except ValidationError as error:
            raise _unfit(error.details["field"], error.details["reason"]) from None
        if found.fallback:
            call.log("warning", f"The vector store has no {order.mode} search: {found.fallback} was used")
        return Outcome({"results": [one.shown() for one in found.results]})


@dataclass(frozen=True, slots=True)
class _CallBill:
    """The execution pays for the model that reads the query."""

    models: Models
    call: Call

    def admit(self, model: str, text: str) -> None:
        self.call.admit_cost(self.models.cost(model, Tokens(input=len(text.encode()))))

    def used(self, model: str, tokens: Tokens) -> None:
        self.call.used(ModelUse(model, tokens, self.models.cost(model, tokens)))


def _order(config: RetrievalConfig) -> SearchOrder:
    raw = config.model_dump(exclude={"collection_id"})
    try:
        return SearchOrder.model_validate(raw)
    except Unfit:
        first = schema_problems(SearchOrder, raw)[0]
        raise _unfit(first.field, first.reason) from None


def _unfit(field: str, reason: str) -> NodeError:
    return NodeError(f"The search cannot be made: {field} {reason}", {"field": f"config.{field}"})
