"""What is found, and in what order: the scores of one way of search, those of both put together.

Both ways are joined by a convex combination of their scores, each brought to 0 to 1 among what that way found, which
does better than going by ranks (Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval, 2023): how
far ahead a hit is counts, not only that it is. `benchmarks/README.md` says how the weight was chosen.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kernel.knowledge.record import CollectionRecord
from kernel.storage.chunks import Hit, Metric

Way = Literal["dense", "keyword"]
RANK = 60
"""How slowly the weight of a rank falls off, where several collections are merged; 60 is usual."""
DENSE_WEIGHT = 0.5
"""What the likeness counts of 1; the words have the rest."""
WEIGHTS = {"wordllama-256": 0.2}
"""The same of models that know single words: they say less than BM25 does, which also knows which words are rare."""


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


def fused(
    record: CollectionRecord, lists: Mapping[Way, Sequence[Hit]], whole: Collection[Way] = ()
) -> list[Ranked]:
    """The best first. One way: by its score. Both: by their weighted sum. whole: ways whose list is all there is."""
    dense = {hit.chunk_id: likeness(hit.score, record.item.metric) for hit in lists.get("dense", ())}
    keyword = {hit.chunk_id: hit.score for hit in lists.get("keyword", ())}
    if len(lists) > 1:
        weight = WEIGHTS.get(record.item.embedding_model, DENSE_WEIGHT)
        scores = _joined(weight, _spread(dense), _spread(keyword, 0.0 if "keyword" in whole else None))
    else:
        scores = {chunk: min(1.0, max(0.0, found)) for chunk, found in dense.items()}
        scores |= {chunk: found / (found + 1) for chunk, found in keyword.items()}
    hits = {hit.chunk_id: hit for hits in lists.values() for hit in hits}
    ranked = [
        Ranked(record.id, hit, scores[chunk], dense.get(chunk), keyword.get(chunk))
        for chunk, hit in hits.items()
    ]
    return sorted(ranked, key=lambda one: -one.score)


def _spread(found: Mapping[str, float], least: float | None = None) -> dict[str, float]:
    """Scores as 1 for the best to 0. least: what is 0, by default the worst that was found: the rest is no better."""
    best, low = max(found.values(), default=0.0), min(found.values(), default=0.0) if least is None else least
    return {chunk: (score - low) / (best - low) if best > low else 1.0 for chunk, score in found.items()}


def _joined(weight: float, dense: Mapping[str, float], keyword: Mapping[str, float]) -> dict[str, float]:
    """Where one way found nothing at all, the other counts alone."""
    weight = weight if keyword else 1.0
    weight = weight if dense else 0.0
    chunks = dense.keys() | keyword.keys()
    return {
        chunk: weight * dense.get(chunk, 0.0) + (1 - weight) * keyword.get(chunk, 0.0) for chunk in chunks
    }


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
