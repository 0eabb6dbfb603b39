"""Vectors from this machine, from a provider that misbehaves as scripted, and from memory."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import httpx2
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.clock import ManualClock
from kernel.errors import ProviderError, Unavailable
from kernel.models import wordllama
from kernel.models.breaker import Breaker
from kernel.models.cached import CachedEmbedder
from kernel.models.catalog import Catalog
from kernel.models.embedding import (
    BATCH_BYTES,
    BATCH_TEXTS,
    CALLS,
    LocalEmbedder,
    OpenAIEmbedder,
    TransformerEmbedder,
    Vectors,
    unit,
)
from kernel.models.openai import Endpoint, Pace
from kernel.models.seam import Tokens
from kernel.models.sse import Patience
from kernel.outbound import Egress
from kernel.storage.embeddings import MAX_BYTES, Shelf
from kernel.storage.store import Store
from tests.web import Exchange, Web, serve

pytestmark = pytest.mark.anyio

KEY = "sk-CANARY0123456789"
WIDTH = 4
CAT = (-0.04385388, 0.02110818, -0.04227202)
"""How `WordLlama.load().embed(…, norm=True)` begins for the sentence about the cat."""
SIGNS = (
    *(
        "a",
        "the",
        "ing",
        "A" * 40,
        ".",
        "##",
        "<",
        "é",
        "日本",
        "🎉",
        "    def f():",
        "\u00a0",
        "\t",
        "\r\n",
        "\x00",
    ),
    *(" ", "  ", "   ", "\n", "\n\n", "▁", "▁▁", "<s>", "</s>", "<unk>"),
)
"""What texts are made of that a tokenizer takes for something."""


class TestLocal:
    def test_vectors_are_those_of_the_package(self) -> None:
        texts = ["hello world", "the cat sat on the mat", "日本語のテキスト\n\n  more " * 50, "x"]
        found = LocalEmbedder().embed_now(texts)
        assert found.dtype == np.float32
        assert found.shape == (4, 256)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        assert found[1, :3] == pytest.approx(CAT, abs=1e-6)

    @given(st.lists(st.sampled_from(SIGNS), max_size=12).map("".join))
    @settings(max_examples=300)
    def test_tokens_of_remembered_words_are_those_of_the_whole_text(self, text: str) -> None:
        whole = wordllama._tokenizer().encode(text, add_special_tokens=False).ids
        assert wordllama.token_ids(text).tolist() == whole

    def test_words_are_forgotten_when_they_are_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wordllama, "MOST_PIECES", 3)
        pieces = wordllama._Pieces()
        found = [pieces[f" word{n}"] for n in range(8)]
        assert len(pieces) <= 3
        assert found == [pieces[f" word{n}"] for n in range(8)]

    def test_likeness_shows(self) -> None:
        cat, kitten, tax = LocalEmbedder().embed_now(["a cat", "a small kitten", "income tax law"])
        assert cat @ kitten > cat @ tax + 0.2

    def test_texts_that_say_nothing_have_a_vector_too(self) -> None:
        rows = LocalEmbedder().embed_now(["", "word", ""])
        assert (rows[0] == rows[2]).all()
        assert np.linalg.norm(rows[0]) == pytest.approx(1)

    def test_no_texts_no_rows(self) -> None:
        assert LocalEmbedder().embed_now([]).shape == (0, 256)

    def test_a_batch_changes_nothing(self) -> None:
        texts = [f"text number {n} " * (n % 7 + 1) for n in range(600)]
        together, alone = LocalEmbedder().embed_now(texts), LocalEmbedder().embed_now(texts[300:301])
        assert (together[300] == alone[0]).all()

    async def test_tells_what_it_used(self) -> None:
        used: list[Tokens] = []
        await LocalEmbedder().embed(["hello world", "hello"], used.append)
        assert used == [Tokens(3)]


class TestTransformers:
    def test_says_what_it_lacks(self) -> None:
        with pytest.raises(ProviderError, match="needs the package 'sentence-transformers'") as refused:
            TransformerEmbedder("all-MiniLM-L6-v2", 384).embed_now(["x"])
        assert not refused.value.can_retry

    def test_loads_once_and_gives_unit_vectors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded: list[str] = []

        class Model:
            def __init__(self, name: str):
                loaded.append(name)

            def encode(self, texts: list[str], show_progress_bar: bool) -> list[list[float]]:
                return [[3.0, 4.0] for _ in texts]

        monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
        embedder = TransformerEmbedder("m", 2)
        embedder.embed_now(["a"])
        assert embedder.embed_now(["a", "b"]).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]] * 2
        assert loaded == ["m"]


def row(text: str) -> list[float]:
    return [len(text) + 1.0, 1.0, 0.0, -2.0]


def answer(exchange: Exchange, packed: bool = True, **more: object) -> bytes:
    texts = exchange.json["input"]
    assert isinstance(texts, list)
    data = [
        {
            "index": n,
            "embedding": base64.b64encode(np.array(row(t), "<f4").tobytes()).decode() if packed else row(t),
        }
        for n, t in enumerate(texts)
    ]
    return orjson.dumps({"data": data[::-1], "usage": {"prompt_tokens": 3 * len(texts)}} | more)


class Rig:
    """The embedder under test with a clock that stands still and a sleep that only writes down."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.clock = ManualClock()
        self.breaker = Breaker(self.clock)
        self.client = Egress(("127.0.0.0/8",)).client(httpx2.Timeout(5.0))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def model(self, web: Web, patience: Patience = Patience()) -> OpenAIEmbedder:
        pace = Pace(self.clock, patience, self.sleep, jitter=lambda: 0.0)
        return OpenAIEmbedder(
            Endpoint("acme", web.url + "/v1", KEY), self.client, self.breaker, pace, "e-1", WIDTH
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.client.aclose()


def in_turn(*steps: Callable[[Exchange], Awaitable[None]]) -> Callable[[Exchange], Awaitable[None]]:
    rest = list(steps)
    return lambda exchange: rest.pop(0)(exchange)


async def well(exchange: Exchange) -> None:
    await exchange.answer(200, answer(exchange))


def status(code: int, *headers: str) -> Callable[[Exchange], Awaitable[None]]:
    return lambda exchange: exchange.answer(
        code, b'{"error":{"message":"no: sk-CANARY0123456789"}}', *headers
    )


class TestProvider:
    @pytest.mark.parametrize("packed", [True, False])
    async def test_vectors_come_in_order_at_unit_length(self, rig: Rig, packed: bool) -> None:
        async with serve(lambda exchange: exchange.answer(200, answer(exchange, packed))) as web:
            used: list[Tokens] = []
            rows = await rig.model(web).embed(["a", "bcd", ""], used.append)
        assert np.allclose(rows, unit(np.array([row("a"), row("bcd"), row("")], np.float32)))
        assert rows.dtype == np.float32
        assert used == [Tokens(9)]
        exchange = web.exchanges[0]
        assert exchange.head.startswith("POST /v1/embeddings ")
        assert exchange.header("authorization") == f"Bearer {KEY}"
        assert exchange.json == {"model": "e-1", "input": ["a", "bcd", ""], "encoding_format": "base64"}

    async def test_nothing_to_embed_asks_nobody(self, rig: Rig) -> None:
        async with serve(well) as web:
            assert (await rig.model(web).embed([])).shape == (0, WIDTH)
        assert web.exchanges == []

    async def test_many_texts_go_in_batches_by_count_and_size(self, rig: Rig) -> None:
        large = ["é" * (BATCH_BYTES // 4 + 1)] * 3
        texts = [str(n) for n in range(BATCH_TEXTS + 1)] + large
        async with serve(well) as web:
            rows = await rig.model(web).embed(texts)
        assert np.allclose(rows, unit(np.array([row(text) for text in texts], np.float32)))
        sizes = sorted(len(exchange.json["input"]) for exchange in web.exchanges)  # type: ignore[arg-type]
        assert sizes == [1, 1, 2, BATCH_TEXTS]

    async def test_few_calls_are_under_way_at_once(self, rig: Rig) -> None:
        under_way, most, full = 0, 0, asyncio.Event()

        async def slowly(exchange: Exchange) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == CALLS:
                full.set()
            await asyncio.wait_for(full.wait(), 5)
            under_way -= 1
            await well(exchange)

        async with serve(slowly) as web:
            rows = await rig.model(web).embed(["x"] * BATCH_TEXTS * 10)
        assert len(rows) == BATCH_TEXTS * 10
        assert most == CALLS

    async def test_tries_again_as_long_as_it_is_told(self, rig: Rig) -> None:
        steps = (status(429, "retry-after: 7"), status(500), status(503, "retry-after: 999"), well)
        async with serve(in_turn(*steps)) as web:
            assert (await rig.model(web).embed(["a"])).shape == (1, WIDTH)
        assert rig.slept == [7.0, 0.5, 60.0]

    async def test_a_broken_connection_is_tried_again(self, rig: Rig) -> None:
        async def reset(exchange: Exchange) -> None:
            exchange.reset()

        async with serve(in_turn(reset, well)) as web:
            assert (await rig.model(web).embed(["a"])).shape == (1, WIDTH)

    async def test_silence_is_tried_again(self, rig: Rig) -> None:
        async def silent(exchange: Exchange) -> None:
            await asyncio.sleep(60)

        async with serve(in_turn(silent, well)) as web:
            model = rig.model(web, Patience(first_byte_s=0.05))
            assert (await model.embed(["a"])).shape == (1, WIDTH)

    @pytest.mark.parametrize(
        ("code", "tries", "kind"),
        [(400, 1, "refused"), (401, 1, "refused"), (429, 5, "limited"), (500, 5, "fault")],
    )
    async def test_gives_up(self, rig: Rig, code: int, tries: int, kind: str) -> None:
        async with serve(status(code)) as web:
            with pytest.raises(ProviderError, match=f"Provider 'acme' answered {code}") as failed:
                await rig.model(web).embed(["a"])
        assert len(web.exchanges) == tries
        assert failed.value.details == {"provider": "acme", "kind": kind}
        assert "CANARY" not in str(failed.value)

    async def test_what_succeeded_before_a_failure_is_counted(self, rig: Rig) -> None:
        async def first_only(exchange: Exchange) -> None:
            texts = exchange.json["input"]
            assert isinstance(texts, list)
            if texts[0] == "0":
                await well(exchange)
            else:
                await asyncio.wait_for(counted.wait(), 5)
                await exchange.answer(400)

        counted, used = asyncio.Event(), []

        def count(tokens: Tokens) -> None:
            used.append(tokens)
            counted.set()

        async with serve(first_only) as web:
            with pytest.raises(ProviderError):
                await rig.model(web).embed([str(n) for n in range(BATCH_TEXTS + 1)], count)
        assert used == [Tokens(3 * BATCH_TEXTS)]

    async def test_tokens_nobody_counted_are_estimated(self, rig: Rig) -> None:
        used: list[Tokens] = []
        async with serve(lambda exchange: exchange.answer(200, answer(exchange, usage=None))) as web:
            await rig.model(web).embed(["éé", "a"], used.append)
        assert used == [Tokens(2)]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not json",
            b"[]",
            b'{"data":[]}',
            b'{"data":[{"index":1,"embedding":[1,2,3,4]}]}',
            b'{"data":[{"index":0,"embedding":[1,2,3]}]}',
            b'{"data":[{"index":0,"embedding":"AAAA"}]}',
            b'{"data":[{"index":0,"embedding":"%%%"}]}',
            b'{"data":[{"index":0,"embedding":["x",2,3,4]}]}',
            b'{"data":[{"index":0,"embedding":"AADAfwAAgD8AAIA/AACAPw=="}]}',
            b'{"data":[{"index":0,"embedding":[1,2,3,4]},{"index":0,"embedding":[1,2,3,4]}]}',
        ],
    )
    async def test_an_answer_that_is_none_is_refused(self, rig: Rig, body: bytes) -> None:
        async with serve(lambda exchange: exchange.answer(200, body)) as web:
            with pytest.raises(ProviderError, match="Provider 'acme' sent") as failed:
                await rig.model(web).embed(["a"])
        assert failed.value.details["kind"] == "malformed"
        assert len(web.exchanges) == 1

    async def test_a_wrong_dimension_is_named(self, rig: Rig) -> None:
        body = b'{"data":[{"index":0,"embedding":[1,2,3]}]}'
        async with serve(lambda exchange: exchange.answer(200, body)) as web:
            with pytest.raises(ProviderError, match="sent 3 numbers for 'e-1', which has 4"):
                await rig.model(web).embed(["a"])

    async def test_a_provider_that_keeps_failing_is_left_alone(self, rig: Rig) -> None:
        async with serve(status(500)) as web:
            for _ in range(2):
                with pytest.raises(ProviderError) as failed:
                    await rig.model(web).embed(["a"])
        assert failed.value.details["kind"] == "open"
        assert len(web.exchanges) == 5


class Counting:
    """An embedder that notes what it is asked for."""

    dimension = WIDTH

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: list[str], used: Callable[[Tokens], None] | None = None) -> Vectors:
        self.asked += texts
        if used:
            used(Tokens(len(texts)))
        return unit(np.array([row(text) for text in texts], np.float32))


class TestCache:
    async def test_the_same_text_is_embedded_once(self, store: Store) -> None:
        inner, used = Counting(), []
        embedder = CachedEmbedder(inner, "m", Shelf(store, "ws_1"))
        first = await embedder.embed(["a", "b", "a"], used.append)
        second = await embedder.embed(["b", "cc", "a"], used.append)
        assert inner.asked == ["a", "b", "cc"]
        assert used == [Tokens(2), Tokens(1)]
        assert (first[[1, 0]] == second[[0, 2]]).all()
        assert np.allclose(second, unit(np.array([row("b"), row("cc"), row("a")], np.float32)))

    async def test_models_and_workspaces_do_not_share(self, store: Store) -> None:
        inner = Counting()
        for model, workspace in (("m", "ws_1"), ("other", "ws_1"), ("m", "ws_2")):
            await CachedEmbedder(inner, model, Shelf(store, workspace)).embed(["a"])
        assert inner.asked == ["a"] * 3

    async def test_no_texts_no_rows(self, store: Store) -> None:
        assert (await CachedEmbedder(Counting(), "m", Shelf(store, "ws_1")).embed([])).shape == (0, WIDTH)

    async def test_a_vector_of_another_size_is_made_anew(self, store: Store) -> None:
        inner = Counting()
        embedder = CachedEmbedder(inner, "m", Shelf(store, "ws_1"))
        await Shelf(store, "ws_1").put({embedder._name("a"): b"short"})
        await embedder.embed(["a"])
        assert inner.asked == ["a"]

    async def test_a_store_that_is_away_costs_no_more_than_embedding(self) -> None:
        class Away:
            async def take(self, names: object) -> list[bytes | None]:
                raise Unavailable("away")

            async def put(self, vectors: object) -> None:
                raise Unavailable("away")

        assert (await CachedEmbedder(Counting(), "m", Away()).embed(["a"])).shape == (1, WIDTH)

    async def test_the_oldest_make_room(self, store: Store) -> None:
        shelf, vector = Shelf(store, "ws_1"), bytes(MAX_BYTES // 3)
        for name in (b"1", b"2", b"3", b"4"):
            await shelf.put({name: vector})
        assert [found is not None for found in await shelf.take([b"1", b"2", b"3", b"4"])] == [
            False,
            True,
            True,
            True,
        ]

    async def test_what_is_not_added_to_is_forgotten(self, store: Store) -> None:
        await Shelf(store, "ws_1").put({b"1": b"x"})
        left = [await store.call("TTL", name) for name in await store.call("KEYS", "*embeddings*")]
        assert len(left) == 2
        assert all(86_000 < seconds <= 86_400 for seconds in left)


class TestCatalog:
    @pytest.mark.parametrize(
        ("model_id", "problem"),
        [
            ("wordllama-256", None),
            ("text-embedding-ada-002", None),
            ("openai:text-embedding-3-large", None),
            ("all-MiniLM-L6-v2", None),
            ("gpt-4o", "Model 'gpt-4o' is not an embedding model"),
            ("wordllama-maxsim", "Model 'wordllama-maxsim' is not an embedding model"),
            ("openai:new", "Model 'openai:new' is not an embedding model"),
            ("ada", "Model 'ada' is not supported"),
        ],
    )
    def test_says_what_a_collection_may_name(self, model_id: str, problem: str | None) -> None:
        assert Catalog(Egress(), {}, {}).check_embedding(model_id) == problem

    def test_the_default_runs_here(self) -> None:
        catalog = Catalog(Egress(), {}, {})
        assert catalog.default_embedding == "wordllama-256"
        assert isinstance(catalog.embedder(catalog.default_embedding), LocalEmbedder)

    async def test_a_model_of_a_provider_is_made_once_and_cached_on_a_shelf(self, store: Store) -> None:
        catalog = Catalog(Egress(), {"openai": KEY}, {})
        ada = catalog.embedder("text-embedding-ada-002")
        assert isinstance(ada, OpenAIEmbedder)
        assert ada.dimension == 1536
        assert catalog.embedder("openai:text-embedding-ada-002") is ada
        cached = catalog.embedder("text-embedding-ada-002", Shelf(store, "ws_1"))
        assert isinstance(cached, CachedEmbedder)
        assert cached.dimension == 1536
        assert isinstance(catalog.embedder("wordllama-256", Shelf(store, "ws_1")), LocalEmbedder)

    @pytest.mark.parametrize(
        ("model_id", "reason"),
        [
            ("text-embedding-3-small", "needs the credential 'openai'"),
            ("BAAI/bge-m3", "needs the package 'sentence-transformers'"),
            ("gpt-4o", "is not an embedding model"),
            ("nothing", "is not supported"),
        ],
    )
    def test_says_why_there_is_no_embedder(self, model_id: str, reason: str) -> None:
        with pytest.raises(ProviderError, match=reason):
            Catalog(Egress(), {}, {}).embedder(model_id)

    def test_knows_what_embedding_costs(self) -> None:
        catalog = Catalog(Egress(), {}, {})
        assert catalog.cost("text-embedding-3-small", Tokens(1_000_000)) == pytest.approx(0.02)
        assert catalog.cost("wordllama-256", Tokens(1_000_000)) == 0
