"""Search in collections: what is near the query by its meaning, what has its words, or both.

Only what the manifest has is shown: the vector store is asked for more than is wanted, and for still more when too
little of it is left.

score, from 0 to 1: `dense`: the likeness by the collection's metric. `keyword`: BM25 / (BM25 + 1). `hybrid`: how near
it comes to the best both ways, 1 for what is the best both ways. With `rerank`: what that model says.
Of several collections: how far up it stands in its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, StrictBool

from kernel.errors import NotFound, Unavailable, ValidationError
from kernel.knowledge import filters
from kernel.knowledge.collections import Collections
from kernel.knowledge.conditions import condition
from kernel.knowledge.ranking import Ranked, Way, fused, merged
from kernel.knowledge.record import CollectionRecord
from kernel.models.seam import Tokens
from kernel.shape import Shape
from kernel.storage.chunks import Capabilities, Hit, Query, VectorsMissing
from kernel.storage.embedded import Embedded
from kernel.text import clean_text

if TYPE_CHECKING:
    from kernel.models.embedding import Embedder  # brings numpy along

Mode = Literal["hybrid", "dense", "keyword"]

LONGEST_QUERY = 8000
MOST_RESULTS = 100
RERANKED = 50
"""Results that are put in a new order, where as many are not asked for."""
SHALLOWEST, DEEPEST = 20, 4096
SHALLOWEST_OF_BOTH = 100
"""The fewest hits of a way that are asked for when both are joined: each tells more of what the other found."""
DEEPER = 4


def _query(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return clean_text(text, LONGEST_QUERY)


QueryText = Annotated[str, AfterValidator(_query)]


class SearchOrder(Shape):
    """rerank: true is the model that is there, or the name of one."""

    query: QueryText = Field(description=f"1 to {LONGEST_QUERY} characters")
    top_k: int = Field(10, ge=1, le=MOST_RESULTS)
    filters: dict[str, Any] | None = Field(
        None, description="`{field: value}` or `{field: {operator: value}}`, joined by `and`, `or`, `not`"
    )
    mode: Mode = "hybrid"
    rerank: StrictBool | Annotated[str, Field(min_length=1, max_length=256)] = False
    min_score: float | None = Field(None, ge=0, le=1)


class RerankModels(Protocol):
    """As `kernel.models.catalog.Catalog` has it."""

    def check_rerank(self, model_id: str) -> str | None:
        """None when a search may name it, else the reason."""
        ...

    async def rerank(self, model_id: str, query: str, texts: Sequence[str]) -> Sequence[float]:
        """How well each text fits, 1 at most; below 0 is not at all."""
        ...

    def cost(self, model_id: str, tokens: Tokens) -> float | None:
        """USD; None when the price is not known."""
        ...

    @property
    def default_rerank(self) -> str: ...


class Bill(Protocol):
    """Who pays for models that a search calls."""

    def admit(self, model: str, text: str) -> None:
        """Before a call. Raises RateLimitError."""
        ...

    def used(self, model: str, tokens: Tokens) -> None: ...


class Account(Protocol):
    """As `kernel.storage.embedded.EmbeddedStore` has it."""

    async def add(self, workspace_id: str, key_id: str, embedded: Sequence[Embedded]) -> None: ...


@dataclass(frozen=True, slots=True)
class _Tab:
    """The bill of a search over the API, written when it is answered. of: the collection of a model, if it is one."""

    models: RerankModels
    of: Mapping[str, str]
    embedded: list[Embedded] = field(default_factory=list)

    def admit(self, model: str, text: str) -> None: ...

    def used(self, model: str, tokens: Tokens) -> None:
        cost = self.models.cost(model, tokens)
        self.embedded.append(Embedded(model, tokens.input, cost, self.of.get(model, "")))


@dataclass(frozen=True, slots=True)
class Found:
    """fallback: the mode that was used when it is not the one that was asked for."""

    results: list[Ranked]
    took_ms: int
    fallback: Mode | None = None


@dataclass(frozen=True, slots=True)
class _Ask:
    """One search, ready to be asked of any of its collections. vectors: the query's, by model."""

    query: str
    wanted: filters.Filter
    mode: Mode
    count: int
    vectors: Mapping[str, list[float]]
    server: Capabilities

    def ways(self, model: str) -> dict[Way, list[float] | str]:
        dense = {"dense": self.vectors[model]} if self.mode != "keyword" else {}
        return dense | ({"keyword": self.query} if self.mode != "dense" else {})  # type: ignore[return-value]


class Search:
    def __init__(
        self,
        collections: Collections,
        embedder: "Callable[[str, str], Awaitable[Embedder]]",
        models: RerankModels,
        account: Account,
    ):
        """embedder: by workspace and model. account: what callers of the API used is counted there."""
        self._collections, self._vectors = collections, collections.vectors
        self._embedder, self._models, self._account = embedder, models, account

    async def answer(
        self, ws: str, key_id: str, records: Sequence[CollectionRecord], order: SearchOrder
    ) -> Found:
        """For a caller of the API; it counts under their key. Raises ValidationError, ProviderError, Unavailable."""
        of: dict[str, str] = {}
        for record in records:
            if record.stored.documents:
                model = record.item.embedding_model
                of[model] = "" if model in of else record.id
        tab = _Tab(self._models, of)
        found = await self.search(ws, records, order, tab)
        await self._account.add(ws, key_id, tab.embedded)
        return found

    async def search(
        self, ws: str, records: Sequence[CollectionRecord], order: SearchOrder, bill: Bill
    ) -> Found:
        """Raises ValidationError, ProviderError, Unavailable, and what the bill raises."""
        began = time.perf_counter()
        wanted = filters.read(order.filters or {})
        reranker = self._reranker(order)
        full = [record for record in records if record.stored.documents]
        ask = await self._prepared(ws, full, order, wanted, bill)
        found = await asyncio.gather(*(self._ranked(ws, record, ask, bill) for record in full))
        least = order.min_score or 0.0
        if reranker is not None:
            results = await self._reordered(reranker, order.query, [one for each in found for one in each])
            results = [one for one in results if one.score >= least]
        else:
            results = merged([[one for one in each if one.score >= least] for each in found])
        took_ms = round((time.perf_counter() - began) * 1000)
        return Found(results[: order.top_k], took_ms, ask.mode if ask.mode != order.mode else None)

    async def of_one(
        self, ws: str, name: str, only: Collection[str] | None, order: SearchOrder, bill: Bill
    ) -> Found:
        """In a collection by its id or name. only: the ids of those that may be read. Raises NotFound too."""
        record = await self._collections.named(ws, name)
        if only is not None and record.id not in only:
            raise NotFound("Collection not found")
        return await self.search(ws, [record], order, bill)

    def _reranker(self, order: SearchOrder) -> str | None:
        if not order.rerank:
            return None
        model = self._models.default_rerank if order.rerank is True else order.rerank
        if reason := self._models.check_rerank(model):
            raise ValidationError.at("rerank", reason)
        return model

    async def _prepared(
        self,
        ws: str,
        records: Sequence[CollectionRecord],
        order: SearchOrder,
        wanted: filters.Filter,
        bill: Bill,
    ) -> _Ask:
        server = await self._vectors.capabilities()
        if order.mode == "keyword" and not server.keyword:
            raise ValidationError.at("mode", "The vector store of this installation cannot search by keyword")
        mode = order.mode if server.keyword else "dense"
        models = {record.item.embedding_model for record in records} if mode != "keyword" else set()
        vectors = {model: await self._embedded(ws, model, order.query, bill) for model in models}
        count = max(order.top_k, RERANKED) if order.rerank else order.top_k
        return _Ask(order.query, wanted, mode, count, vectors, server)

    async def _embedded(self, ws: str, model: str, query: str, bill: Bill) -> list[float]:
        embedder = await self._embedder(ws, model)
        bill.admit(model, query)
        rows = await embedder.embed([query], lambda tokens: bill.used(model, tokens))
        vector: list[float] = rows[0].tolist()
        return vector

    async def _ranked(self, ws: str, record: CollectionRecord, ask: _Ask, bill: Bill) -> list[Ranked]:
        """The best of one collection, none when it is deleted meanwhile."""
        try:
            return await self._deepened(ws, record, ask)
        except VectorsMissing:
            pass
        try:
            record = await self._collections.get(ws, record.id)
            return await self._deepened(ws, record, await self._asked(ws, record, ask, bill))
        except NotFound:
            return []
        except VectorsMissing:
            reason = {"reason": "vectors_missing", "collection_id": record.id}
            raise Unavailable("The vectors of this collection are not there", reason) from None

    async def _asked(self, ws: str, record: CollectionRecord, ask: _Ask, bill: Bill) -> _Ask:
        """The same for a collection that has come to another model meanwhile."""
        model = record.item.embedding_model
        if ask.mode == "keyword" or model in ask.vectors:
            return ask
        vector = await self._embedded(ws, model, ask.query, bill)
        return replace(ask, vectors={**ask.vectors, model: vector})

    async def _deepened(self, ws: str, record: CollectionRecord, ask: _Ask) -> list[Ranked]:
        ways = ask.ways(record.item.embedding_model)
        asked = condition(ask.wanted, ask.server)
        depth = max(SHALLOWEST_OF_BOTH if len(ways) > 1 else SHALLOWEST, 2 * ask.count)
        while True:
            queries = [Query(by, depth, asked) for by in ways.values()]
            lists = await asyncio.gather(*(self._vectors.search(record.vectors, one) for one in queries))
            shown = await self._visible(ws, record, ask, lists)
            whole = {way for way, hits in zip(ways, lists, strict=True) if len(hits) < depth}
            ranked = fused(record, dict(zip(ways, shown, strict=True)), whole)
            if len(ranked) >= ask.count or len(whole) == len(ways) or depth >= DEEPEST:
                return ranked[: ask.count]
            depth *= DEEPER

    async def _visible(
        self, ws: str, record: CollectionRecord, ask: _Ask, lists: Sequence[Sequence[Hit]]
    ) -> list[list[Hit]]:
        documents = {hit.document_id for hits in lists for hit in hits}
        live = await self._collections.store.live(ws, record.id, documents)
        return [
            [
                hit
                for hit in hits
                if live.get(hit.document_id) == hit.version and filters.matches(ask.wanted, hit)
            ]
            for hits in lists
        ]

    async def _reordered(self, model: str, query: str, results: Sequence[Ranked]) -> list[Ranked]:
        if not results:
            return []
        scores = await self._models.rerank(model, query, [one.hit.text for one in results])
        scored = [
            replace(one, score=min(1.0, max(0.0, score))) for one, score in zip(results, scores, strict=True)
        ]
        return sorted(scored, key=lambda one: -one.score)
