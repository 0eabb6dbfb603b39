"""How well search finds: questions whose right document is known (`labelled`), asked over HTTP in each mode.

A document stands where its first chunk stands. With `r` the place of the right one among the first ten: nDCG@10 is the
mean of `1 / log2(1 + r)`, MRR@10 that of `1 / r`, recall@10 the share of questions that have an `r`.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import httpx2
import orjson

from benchmarks.installation import Installation
from benchmarks.labelled import KINDS, Document, Half, Kind, Labelled, Question
from benchmarks.results import Figure

MODES = ("hybrid", "dense", "keyword")
HALVES: tuple[Half, ...] = ("chosen by", "held out")
FIRST = 10
CHUNKS = 5 * FIRST
"""Chunks that are asked for, so that one long document cannot fill the list."""
AT_ONCE = 500
"""Documents of one request."""
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """place: of the right document, from 1; infinite when it is not among the first."""

    question: Question
    place: float
    took_ms: float

    def is_of(self, half: Half, kind: Kind | None) -> bool:
        return self.question.half == half and kind in (None, self.question.kind)


@dataclass(frozen=True, slots=True)
class Library:
    """A collection with the documents, over one connection."""

    api: httpx2.Client
    collection: str

    @classmethod
    def filled(cls, api: httpx2.Client, name: str, documents: Sequence[Document]) -> "Library":
        made = _sent(api, "/v1/rag/collections", {"name": name})
        library = cls(api, made["id"])
        for start in range(0, len(documents), AT_ONCE):
            library._write(documents[start : start + AT_ONCE])
        return library

    def ask(self, question: Question, mode: str) -> Answer:
        began = time.perf_counter()
        order = {"query": question.text, "mode": mode, "top_k": CHUNKS}
        found = _sent(self.api, f"/v1/rag/collections/{self.collection}/search", order)
        took_ms = (time.perf_counter() - began) * 1000
        places = list(dict.fromkeys(one["metadata"]["location"] for one in found["results"]))[:FIRST]
        place = places.index(question.right) + 1 if question.right in places else math.inf
        return Answer(question, place, took_ms)

    def _write(self, documents: Iterable[Document]) -> None:
        rows = [{"id": one.id, "title": one.title, "text": one.text} for one in documents]
        started = _sent(self.api, f"/v1/rag/collections/{self.collection}/documents", {"documents": rows})
        self._wait(started["links"]["self"])

    def _wait(self, job: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while (status := self.api.get(job).raise_for_status().json()["status"]) in ("queued", "running"):
            if time.monotonic() > until:
                raise SystemExit(f"{job} has not ended after {PATIENCE_S:.0f} s")
            time.sleep(0.2)
        if status != "completed":
            raise SystemExit(f"{job} is {status}")


def by_mode(installation: Installation, labelled: Labelled) -> Iterator[Figure]:
    """The modes are asked by turns, question by question."""
    with httpx2.Client(
        base_url=installation.url, headers=installation.headers, trust_env=False, timeout=60
    ) as api:
        library = Library.filled(api, f"quality-{time.time():.0f}", labelled.documents)
        answers: dict[str, list[Answer]] = {mode: [] for mode in MODES}
        for question in labelled.questions:
            for mode in MODES:
                answers[mode].append(library.ask(question, mode))
    yield from figures(answers)


def figures(answers: dict[str, list[Answer]]) -> Iterator[Figure]:
    for half in HALVES:
        for kind in (None, *KINDS):
            yield from _scores(answers, half, kind)
        ndcg = {
            mode: _ndcg([one for one in found if one.is_of(half, None)]) for mode, found in answers.items()
        }
        for mode in MODES[1:]:
            yield Figure(f"hybrid/{mode}, {half}", "ndcg10_ratio", ndcg["hybrid"] / ndcg[mode])
    for mode, found in answers.items():
        yield Figure(mode, "p50_ms", median(one.took_ms for one in found))


def _scores(answers: dict[str, list[Answer]], half: Half, kind: Kind | None) -> Iterator[Figure]:
    for mode, found in answers.items():
        some = [one for one in found if one.is_of(half, kind)]
        case = f"{mode}, {half}" + (f", {kind}" if kind else "")
        yield Figure(case, "ndcg10", _ndcg(some))
        yield Figure(case, "recall10", fmean(one.place <= FIRST for one in some))
        yield Figure(case, "mrr10", fmean(1 / one.place for one in some))


def _ndcg(answers: Sequence[Answer]) -> float:
    return fmean(1 / math.log2(1 + one.place) for one in answers)


def _sent(api: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = api.post(path, content=orjson.dumps(body), headers={"content-type": "application/json"})
    shown: dict[str, Any] = answer.raise_for_status().json()
    return shown
