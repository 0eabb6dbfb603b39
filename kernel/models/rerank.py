"""Puts texts that were found in a better order, without a model to download.

`wordllama-maxsim` compares word by word: each token of the query looks for the token of the text most like it, and
counts by the square of its vector's length, which is small for words that say little; the likeness of the whole is
added. This is no cross-encoder: it knows words that are like each other, not what a sentence means. Of 400
docstrings of Python's library, asked for by their first line, the mean reciprocal rank among the 50 best of dense
search went from 0.41 to 0.49, among those of hybrid search only from 0.49 to 0.50.
"""

from collections.abc import Sequence

from kernel.models.embedding import Vectors, unit
from kernel.models.wordllama import table, token_ids

MODEL = "wordllama-maxsim"


def rerank(query: str, texts: Sequence[str]) -> list[float]:
    """How well each text fits the query, from -1 to 1; one that says nothing, or all when the query does, 0."""
    asked, *found = map(_vectors, (query, *texts))
    if not len(asked):
        return [0.0] * len(texts)
    weights = (asked**2).sum(axis=1)
    weights /= weights.sum()
    words, whole = unit(asked), unit(asked.mean(axis=0, keepdims=True))[0]
    return [_likeness(words, weights, whole, vectors) if len(vectors) else 0.0 for vectors in found]


def _vectors(text: str) -> Vectors:
    """Of its tokens."""
    return table().take(token_ids(text), axis=0, mode="clip")


def _likeness(words: Vectors, weights: Vectors, whole: Vectors, vectors: Vectors) -> float:
    closest = (words @ unit(vectors).T).max(axis=1)
    all_in_all = unit(vectors.mean(axis=0, keepdims=True))[0] @ whole
    return float((closest @ weights + all_in_all) / 2)
