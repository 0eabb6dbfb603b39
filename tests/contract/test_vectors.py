"""What every vector store must do: the compiled Milvus Lite, or the server that `--milvus` names."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.parts.contract import package_folder
from kernel.errors import Unavailable
from kernel.ids import new_id
from kernel.knowledge import filters
from kernel.knowledge.conditions import condition
from kernel.knowledge.contract import Chunk, Row
from kernel.storage import vectors
from kernel.storage.chunks import (
    Condition,
    Hit,
    Metric,
    Query,
    VectorsMissing,
    VectorsRefused,
    literal,
    place,
)
from kernel.storage.vectors import Milvus, VectorStore

pytestmark = pytest.mark.anyio

LONG = " ".join(["lorem"] * 1000)


def row(document: str, text: str = "some text", version: str = "v1", position: int = 0, **more: Any) -> Row:
    facts = {"source_type": "text", "location": "x", "title": "A title", "metadata": {}} | more
    chunk = Chunk(position, text, facts.pop("offset", 0), facts.pop("page", None), facts.pop("heading", None))
    vector = facts.pop("vector", [1.0, 0.0, 0.0, 0.0])
    return Row(f"{document}.{version}.{position}", document, version, chunk, vector, **facts)


@pytest.fixture(scope="module")
def milvus(milvus_url: str) -> Generator[Milvus]:
    milvus = Milvus(milvus_url)
    yield milvus
    milvus.close()


@pytest.fixture
def name(milvus: Milvus) -> Generator[str]:
    """A collection of four dimensions."""
    name = place(new_id("col"), 1)
    milvus.create(name, 4, "cosine")
    yield name
    milvus.drop(name)


def found(milvus: Milvus, name: str, by: Any = (1.0, 0.0, 0.0, 0.0), limit: int = 100) -> list[str]:
    by = by if isinstance(by, str) else list(by)
    return [hit.chunk_id for hit in milvus.search(name, Query(by, limit))]


class TestRows:
    def test_come_back_as_they_were(self, milvus: Milvus, name: str) -> None:
        told = {"a": 1, "b": "x", "c": [1, "y"], "d": {"e": True}, "f": 1.5, "g": None}
        milvus.upsert(
            name, [row("d", "Text\nof it.", position=3, offset=7, page=2, heading="H", metadata=told)]
        )
        (hit,) = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5))
        assert hit == Hit(
            "d.v1.3",
            "d",
            "v1",
            3,
            "Text\nof it.",
            "text",
            "x",
            "A title",
            2,
            "H",
            7,
            told,
            pytest.approx(1.0),
        )

    def test_without_page_and_heading_have_none(self, milvus: Milvus, name: str) -> None:
        milvus.upsert(name, [row("d")])
        (hit,) = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5))
        assert (hit.page, hit.heading) == (None, None)

    def test_are_there_as_soon_as_they_are_written_and_gone_as_soon_as_they_are_deleted(
        self, milvus: Milvus, name: str
    ) -> None:
        for n in range(20):
            milvus.upsert(name, [row(f"d{n}")])
            assert f"d{n}.v1.0" in found(milvus, name)
            milvus.delete(name, [(f"d{n}", "v1")])
            assert found(milvus, name) == []

    def test_written_again_are_the_same_rows(self, milvus: Milvus, name: str) -> None:
        rows = [row(f"d{n}", text=LONG) for n in range(1200)]
        milvus.upsert(name, rows)
        milvus.upsert(name, [*rows, rows[0]])
        assert milvus.count(name) == 1200

    @pytest.mark.parametrize("vector", [[0, 1, 0, 0], np.array([0, 1, 0, 0], "float32")])
    def test_take_vectors_of_any_make(self, milvus: Milvus, name: str, vector: Any) -> None:
        milvus.upsert(name, [row("plain"), row("other", vector=vector)])
        assert found(milvus, name, (0.0, 1.0, 0.0, 0.0), 1) == ["other.v1.0"]

    def test_none_are_written_when_one_does_not_fit(self, milvus: Milvus, name: str) -> None:
        with pytest.raises(VectorsRefused):
            milvus.upsert(name, [row(f"d{n}", vector=[1.0, 2.0]) for n in range(3)])
        assert milvus.count(name) == 0

    def test_of_a_version_are_deleted_and_no_others(self, milvus: Milvus, name: str) -> None:
        documents = [row(f"d{n}", version=version) for n in range(30) for version in ("v1", "v2")]
        milvus.upsert(name, documents)
        milvus.delete(name, [("d0", "v1"), ("d1", "v2"), *((f"d{n}", "v1") for n in range(2, 30))])
        left = {(hit.document_id, hit.version) for hit in milvus.search(name, Query([1.0, 0, 0, 0], 100))}
        assert left == {("d0", "v2"), ("d1", "v1"), *((f"d{n}", "v2") for n in range(2, 30))}

    @pytest.mark.parametrize("text", ["", "a\x00b", "half \ud800", "\u2028 😀", "é" * 40_000, '"\\', "{p0}"])
    def test_of_odd_text_are_no_problem(self, milvus: Milvus, name: str, text: str) -> None:
        milvus.upsert(name, [row("d", text, heading=text, title=text)])
        (hit,) = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5))
        shown = text.encode(errors="replace")[:65_535].decode(errors="ignore")
        assert hit.text == shown
        assert hit.title == shown


class TestCollections:
    def test_made_twice_are_made_once(self, milvus: Milvus, name: str) -> None:
        milvus.upsert(name, [row("d")])
        milvus.create(name, 4, "cosine")
        assert milvus.count(name) == 1

    def test_that_are_not_there(self, milvus: Milvus) -> None:
        nothing = place(new_id("col"), 1)
        for ask in (
            lambda: milvus.upsert(nothing, [row("d")]),
            lambda: milvus.delete(nothing, [("d", "v1")]),
            lambda: milvus.search(nothing, Query([1.0, 0.0, 0.0, 0.0], 1)),
            lambda: milvus.count(nothing),
        ):
            with pytest.raises(VectorsMissing):
                ask()
        milvus.drop(nothing)

    @pytest.mark.parametrize(
        ("metric", "best"), [("cosine", ["b", "a", "c"]), ("ip", ["c", "b", "a"]), ("l2", ["b", "a", "c"])]
    )
    def test_by_each_metric(self, milvus: Milvus, metric: Metric, best: list[str]) -> None:
        name = place(new_id("col"), 2)
        milvus.create(name, 2, metric)
        rows = {"a": [0.8, 0.6], "b": [1.0, 0.1], "c": [5.0, 5.0]}
        milvus.upsert(name, [row(document, vector=vector) for document, vector in rows.items()])
        hits = milvus.search(name, Query([1.0, 0.0], 3))
        assert [hit.document_id for hit in hits] == best
        expected = {"cosine": 1.0 / 1.01**0.5, "ip": 5.0, "l2": 0.01}[metric]
        assert hits[0].score == pytest.approx(expected, abs=1e-3)
        milvus.drop(name)


class TestKeyword:
    @pytest.fixture(autouse=True)
    def _knows_words(self, milvus: Milvus) -> None:
        if not milvus.capabilities().keyword:
            pytest.skip("this server knows no BM25")

    def test_finds_words_and_the_rare_one_first(self, milvus: Milvus, name: str) -> None:
        texts = ["the common words here", "common and Zebra-like", "nothing of it", "common again"]
        milvus.upsert(name, [row(f"d{n}", text) for n, text in enumerate(texts)])
        hits = milvus.search(name, Query("zebra common", 10))
        assert hits[0].document_id == "d1"
        assert {hit.document_id for hit in hits} == {"d0", "d1", "d3"}
        assert all(hit.score > 0 for hit in hits)

    @pytest.mark.parametrize("query", ["!!!", "日本語", "😀", "\x07", "x" * 8000, "a b " * 2000, "'\"\\%_"])
    def test_of_no_known_words_finds_nothing(self, milvus: Milvus, name: str, query: str) -> None:
        milvus.upsert(name, [row("d")])
        assert found(milvus, name, query) == []


class TestConditions:
    def test_values_are_written_so_that_they_stay_values(self) -> None:
        assert literal('a"b\\c') == '"a\\"b\\\\c"'
        assert literal(["a", "b"]) == '["a", "b"]'
        assert [literal(True), literal(3), literal(-2.5)] == ["true", "3", "-2.5"]
        with pytest.raises(ValueError, match="line breaks"):
            literal("a\nb")

    def test_a_value_cannot_become_a_condition(self, milvus: Milvus, name: str) -> None:
        milvus.upsert(name, [row("d", title="mine"), row("e", title='" or title != "')])
        asked = Condition("title == {p0}", {"p0": '" or title != "'})
        hits = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5, asked))
        assert [hit.document_id for hit in hits] == ["e"]

    def test_names_in_values_stay_as_they_are(self, milvus: Milvus, name: str) -> None:
        milvus.upsert(name, [row("d", title="{p1}"), row("e", title="x")])
        asked = Condition("title in {p0} and location == {p1}", {"p0": ["{p1}"], "p1": "x"})
        hits = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5, asked))
        assert [hit.document_id for hit in hits] == ["d"]

    def test_the_largest_filters_there_may_be(self, milvus: Milvus, name: str) -> None:
        milvus.upsert(name, [row("d", metadata={"k": 199})])
        many: list[Any] = [
            {"or": [{"k": n} for n in range(filters.MAX_CLAUSES)]},
            {"or": [{"k": {"in": [*range(start, start + 100)]}} for start in (0, 100)]},
            {"and": [{"k": {"ne": f"n{n}"}} for n in range(filters.MAX_CLAUSES)]},
            {"title": {"in": ["A title", *(f"{n}" for n in range(99))]}},
            _deep(7, {"k": {"in": [*range(150, 200), *range(10)]}}),
        ]
        for raw in many:
            asked = condition(filters.read(raw), milvus.capabilities())
            assert milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 5, asked)), raw


def _deep(levels: int, raw: Any) -> Any:
    return raw if not levels else {"or": [_deep(levels - 1, raw), *({"title": f"{n}"} for n in range(5))]}


ODD = [
    "a",
    "ab",
    "a%b",
    "a_b",
    "aXb",
    "a\\b",
    'a"b',
    "'",
    "日本",
    "A",
    "%",
    "_",
    "\\",
    "3",
    "true",
    "{p0}",
    "\\n",
]
TEXT = st.sampled_from(ODD) | st.text(
    st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=5
)
NUMBER = (
    st.sampled_from([0, 1, -1, 2.5, 3, 3.0, 1e20, 1e-3, 2**53 + 1, 2**63 - 1, 1 - 2**63])
    | st.integers(-5, 5)
    | st.floats(-3, 3, allow_nan=False)
)
SCALAR = TEXT | NUMBER | st.booleans()
KEYS = st.sampled_from(["k", "team", "n_1"])
METADATA = st.dictionaries(
    KEYS,
    SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.sampled_from("ab"), SCALAR, max_size=2),
    max_size=3,
)
ROWS = st.lists(
    st.tuples(METADATA, TEXT, TEXT, TEXT | st.just(""), st.none() | st.integers(1, 6)),
    min_size=80,
    max_size=80,
)
OWN = st.sampled_from(["source_type", "location", "title", "document_id"])
COMPARISONS = st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"])


def _test(fields: st.SearchStrategy[str], operators: Any, values: Any) -> st.SearchStrategy[Any]:
    return st.builds(lambda field, operator, value: {field: {operator: value}}, fields, operators, values)


CLAUSES = st.one_of(
    _test(OWN, COMPARISONS | st.just("contains"), TEXT),
    _test(OWN, st.just("in"), st.lists(TEXT, min_size=1, max_size=4)),
    _test(st.just("page"), COMPARISONS, st.integers(-2, 7)),
    _test(st.just("page"), st.just("in"), st.lists(st.integers(0, 6), min_size=1, max_size=3)),
    _test(KEYS | st.sampled_from(["title", "page", "zz"]), st.just("exists"), st.booleans()),
    _test(KEYS, st.sampled_from(["eq", "ne", "contains"]), SCALAR),
    _test(KEYS, st.sampled_from(["gt", "gte", "lt", "lte"]), TEXT | NUMBER),
    _test(KEYS, st.just("in"), st.lists(SCALAR, min_size=1, max_size=4)),
)
FILTERS = st.recursive(
    CLAUSES,
    lambda parts: st.builds(
        lambda word, some: {word: some if word != "not" else some[0]},
        st.sampled_from(["and", "or", "not"]),
        st.lists(parts, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def library(milvus: Milvus) -> Generator[tuple[str, list[Hit]]]:
    """A collection of rows of all kinds, and all of them as hits."""
    rows: list[Row] = []

    @settings(max_examples=1, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(ROWS)
    def make(made: list[Any]) -> None:
        rows[:] = [_any_row(n, *facts) for n, facts in enumerate(made)]

    make()
    rows += [
        _any_row(len(rows) + n, {"k": text}, text, text, text, n % 4 or None) for n, text in enumerate(ODD)
    ]
    name = place(new_id("col"), 1)
    milvus.create(name, 4, "cosine")
    milvus.upsert(name, rows)
    hits = milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 1000))
    assert {hit.chunk_id: hit.metadata for hit in hits} == {row.chunk_id: row.metadata for row in rows}
    yield name, hits
    milvus.drop(name)


class TestFilters:
    def test_the_store_lets_through_all_that_matches(
        self, milvus: Milvus, library: tuple[str, list[Hit]]
    ) -> None:
        """And nothing that it is asked can bring it down."""
        name, hits = library
        exact = 0

        @settings(
            max_examples=200,
            database=None,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(FILTERS)
        def holds(raw: Any) -> None:
            nonlocal exact
            wanted = filters.read(raw)
            asked = condition(wanted, milvus.capabilities())
            got = {hit.chunk_id for hit in milvus.search(name, Query([1.0, 0.0, 0.0, 0.0], 1000, asked))}
            matching = {hit.chunk_id for hit in hits if filters.matches(wanted, hit)}
            assert matching <= got, (raw, asked)
            exact += matching == got

        holds()
        assert exact > 100


def _any_row(
    n: int, metadata: dict[str, Any], source_type: str, location: str, title: str, page: int | None
) -> Row:
    facts = {"metadata": metadata, "source_type": source_type, "location": location, "title": title}
    return row(f"d{n}", page=page, **facts)


class OwnServer:
    """A Milvus Lite to kill and to stop."""

    def __init__(self, folder: Path):
        self._folder, self._library = folder, package_folder("milvus_lite") / "lib"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        home = str(self._folder)
        self.process = subprocess.Popen(
            [self._library / "milvus", self._folder / "milvus.db", f"127.0.0.1:{self._port}", "ERROR"],
            env={"LD_LIBRARY_PATH": str(self._library), "GLOG_log_dir": home, "HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


class TestAway:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Generator[OwnServer]:
        server = OwnServer(tmp_path)
        server.start()
        yield server
        server.kill()

    @pytest.fixture
    async def store(self, server: OwnServer) -> AsyncGenerator[VectorStore]:
        store = VectorStore(server.url)
        await _until(lambda: store.create("c_1", 4, "cosine"))
        yield store
        await store.aclose()

    async def test_killed_it_keeps_what_it_took_and_is_found_again(
        self, server: OwnServer, store: VectorStore
    ) -> None:
        await store.upsert("c_1", [row(f"d{n}") for n in range(50)])
        server.kill()
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await store.search("c_1", Query([1.0, 0.0, 0.0, 0.0], 1))
        assert time.monotonic() - began < 3
        writing = asyncio.create_task(store.upsert("c_1", [row("late")]))
        await asyncio.sleep(0)
        server.start()
        await writing
        assert await store.count("c_1") == 51

    async def test_standing_still_it_is_given_up(
        self, server: OwnServer, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vectors, "ANSWER_WITHIN_S", 0.5)
        os.kill(server.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        searches = (store.search("c_1", Query([1.0, 0.0, 0.0, 0.0], 1)) for _ in range(20))
        ends = await asyncio.gather(*searches, return_exceptions=True)
        assert all(isinstance(end, Unavailable) for end in ends)
        assert time.monotonic() - began < 3
        os.kill(server.process.pid, signal.SIGCONT)
        monkeypatch.undo()
        assert await _until(lambda: store.search("c_1", Query([1.0, 0.0, 0.0, 0.0], 1))) == []


async def _until(ask: Callable[[], Any], within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while True:
        try:
            return await ask()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
