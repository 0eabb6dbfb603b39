"""What is found, and in what order: the scores of one way of search, the ranks of several put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kernel.knowledge.record import CollectionRecord
from kernel.storage.chunks import Hit, Metric

Way = Literal["dense", "keyword"]
RANK = 60
"""How slowly the weight of a rank falls off; 60 is usual."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk that is shown. dense and keyword: its scores both ways, where they are known."""

    collection_id: str
    hit: Hit
    score: float
    dense: float | None = None
    keyword: float | None = None

    def shown(self) -> dict[str, Any]:
        hit = self.hit
        own = ("source_type", "location", "title", "page", "heading", "offset")
        return {
            "chunk_id": hit.chunk_id,
            "document_id": hit.document_id,
            "text": hit.text,
            "score": round(self.score, 6),
            "scores": {"dense": _rounded(self.dense), "keyword": _rounded(self.keyword)},
            "metadata": hit.metadata | {name: getattr(hit, name) for name in own},
        }


def fused(record: CollectionRecord, lists: Mapping[Way, Sequence[Hit]]) -> list[Ranked]:
    """The best first. One way: by its score. Both: by the sum of what the ranks weigh."""
    dense = {hit.chunk_id: likeness(hit.score, record.item.metric) for hit in lists.get("dense", ())}
    keyword = {hit.chunk_id: hit.score for hit in lists.get("keyword", ())}
    ranks = [{hit.chunk_id: rank for rank, hit in enumerate(hits)} for hits in lists.values()]

    def score(chunk: str) -> float:
        if len(lists) > 1:
            return sum(_weight(ranked[chunk]) for ranked in ranks if chunk in ranked) / len(lists)
        return min(1.0, max(0.0, dense[chunk])) if chunk in dense else keyword[chunk] / (keyword[chunk] + 1)

    hits = {hit.chunk_id: hit for hits in lists.values() for hit in hits}
    ranked = [
        Ranked(record.id, hit, score(chunk), dense.get(chunk), keyword.get(chunk))
        for chunk, hit in hits.items()
    ]
    return sorted(ranked, key=lambda one: -one.score)


def likeness(distance: float, metric: Metric) -> float:
    """1 is most alike: the cosine, the inner product, or 1 / (1 + the squared distance)."""
    return 1 / (1 + max(0.0, distance)) if metric == "l2" else distance


def merged(found: Sequence[Sequence[Ranked]]) -> list[Ranked]:
    """Results of several collections, each by where it stands in its own."""
    if len(found) < 2:
        return [one for each in found for one in each]
    placed = [(rank, one) for each in found for rank, one in enumerate(each)]
    placed.sort(key=lambda pair: (pair[0], -pair[1].score))
    return [replace(one, score=_weight(rank)) for rank, one in placed]


def _weight(rank: int) -> float:
    """From 1 for the first, rank 0, down."""
    return (RANK + 1) / (RANK + 1 + rank)


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)
