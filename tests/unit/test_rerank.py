"""The local reranker: what fits best comes first, and nothing breaks it."""

import pytest

from kernel.models.catalog import Catalog
from kernel.models.rerank import MODEL, rerank
from kernel.outbound import Egress

TEXTS = [
    "Boil the pasta in salted water for nine minutes.",
    "Paris has been the capital of France since the tenth century.",
    "France produces more than three hundred kinds of cheese.",
]


def test_what_answers_comes_first() -> None:
    scores = rerank("capital city of France", TEXTS)
    assert sorted(range(3), key=lambda n: -scores[n]) == [1, 2, 0]
    assert all(-1 <= score <= 1 for score in scores)


def test_words_that_are_alike_count() -> None:
    dog, tax = rerank("puppy", ["my dog barks", "my tax return"])
    assert dog > tax


def test_a_text_equal_to_the_query_scores_one() -> None:
    assert rerank("a small test", ["a small test"]) == [pytest.approx(1, abs=1e-5)]


def test_each_score_is_its_text_s_own() -> None:
    assert rerank("capital of France", TEXTS)[1] == pytest.approx(rerank("capital of France", TEXTS[1:2])[0])


def test_what_says_nothing_scores_nothing() -> None:
    assert rerank("", TEXTS) == [0.0, 0.0, 0.0]
    assert rerank("France", ["", "France"])[0] == 0.0
    assert rerank("France", []) == []


def test_is_in_the_catalogue() -> None:
    model = next(model for model in Catalog(Egress(), {}, {}).list() if model.id == MODEL)
    assert (model.kind, model.ready, model.provider) == ("rerank", True, "local")
