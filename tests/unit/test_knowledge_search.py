"""Search: what is shown, in what order, and with what scores; on a real store and a real vector store."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError as Unfit

from kernel.errors import NotFound, ProviderError, RateLimitError, Unavailable, ValidationError
from kernel.knowledge import search as search_module
from kernel.knowledge.contract import document_id
from kernel.knowledge.ranking import likeness
from kernel.knowledge.record import CollectionPatch, CollectionRecord
from kernel.knowledge.search import Search, SearchOrder
from kernel.models.seam import Tokens
from kernel.storage import keys
from kernel.storage.chunks import Capabilities
from kernel.storage.counts import HOUR_MS
from kernel.storage.embedded import EmbeddedStore
from kernel.storage.vectors import VectorStore
from tests.knowledge import WS, Doc, Library, Models

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pets(library: Library) -> CollectionRecord:
    record = await library.make("pets")
    await library.add(
        record,
        Doc("cats", [("cat cat", 1), ("a cat and a dog", 2)], "guide", "Of cats", {"team": "a", "n": 1}),
        Doc("dogs", ["dog dog dog"], "guide", "Of dogs", {"team": "b", "n": 2}),
        Doc("cars", ["car engine zebra"], "manual", "Of cars"),
    )
    return record


class Purse:
    """A bill that remembers. broke: it admits nothing."""

    def __init__(self, broke: bool = False):
        self.admitted: list[tuple[str, str]] = []
        self.paid: list[tuple[str, Tokens]] = []
        self._broke = broke

    def admit(self, model: str, text: str) -> None:
        if self._broke:
            raise RateLimitError("No budget left", {"limit": "budget"})
        self.admitted.append((model, text))

    def used(self, model: str, tokens: Tokens) -> None:
        self.paid.append((model, tokens))


class NoWords(VectorStore):
    """One that cannot search by words."""

    async def capabilities(self) -> Capabilities:
        return Capabilities(keyword=False, binds=False, infix=True, exists=False, loose=True)


class TestModes:
    async def test_dense_goes_by_meaning(self, library: Library, pets: CollectionRecord) -> None:
        found = await library.find(pets, "dogs", mode="dense")
        assert [one.hit.text for one in found.results[:2]] == ["dog dog dog", "a cat and a dog"]
        first = found.results[0]
        assert first.score == pytest.approx(1.0, abs=1e-3)
        assert (first.dense, first.keyword) == (pytest.approx(1.0, abs=1e-3), None)

    async def test_keyword_goes_by_words(self, library: Library, pets: CollectionRecord) -> None:
        found = await library.find(pets, "Zebra", mode="keyword")
        (one,) = found.results
        assert one.hit.text == "car engine zebra"
        assert one.keyword is not None
        assert one.keyword > 0
        assert one.dense is None
        assert one.score == pytest.approx(one.keyword / (one.keyword + 1))
        assert await library.texts(pets, "dogs", mode="keyword") == []

    async def test_hybrid_merges_the_ranks_of_both(self, library: Library, pets: CollectionRecord) -> None:
        results = (await library.find(pets, "dog zebra")).results
        by_text = {one.hit.text: one for one in results}
        assert len(by_text) == 4
        dogs, cars = by_text["dog dog dog"], by_text["car engine zebra"]
        assert dogs.dense is not None
        assert dogs.keyword is not None
        assert cars.keyword is not None
        assert by_text["cat cat"].keyword is None
        assert [one.score for one in results] == sorted((one.score for one in results), reverse=True)
        assert 0.5 < dogs.score <= 1.0
        assert by_text["cat cat"].score <= 0.5
        zebra = (await library.find(pets, "car engine zebra")).results[0]
        assert (zebra.hit.text, zebra.score) == ("car engine zebra", 1.0)

    async def test_a_store_without_words_is_asked_for_meaning_and_says_so(
        self, library: Library, pets: CollectionRecord, milvus_url: str
    ) -> None:
        vectors = NoWords(milvus_url)
        search = library.over(vectors)
        fresh = await library.collections.get(WS, pets.id)
        found = await search.answer(WS, "key_1", [fresh], SearchOrder(query="dog"))
        assert (found.fallback, found.results[0].keyword) == ("dense", None)
        with pytest.raises(ValidationError) as refused:
            await search.answer(WS, "key_1", [fresh], SearchOrder(query="dog", mode="keyword"))
        assert refused.value.details["field"] == "mode"
        await vectors.aclose()


class TestWhatIsShown:
    async def test_a_result(self, library: Library, pets: CollectionRecord) -> None:
        (one,) = (await library.find(pets, "cat", top_k=1)).results
        shown = one.shown()
        assert list(shown) == ["chunk_id", "document_id", "text", "score", "scores", "metadata"]
        assert shown["document_id"] == document_id(pets.id, "cats")
        assert shown["chunk_id"].startswith(f"{shown['document_id']}.")
        assert list(shown["scores"]) == ["dense", "keyword"]
        assert shown["metadata"] == {
            "team": "a",
            "n": 1,
            "source_type": "guide",
            "location": "cats",
            "title": "Of cats",
            "page": 1,
            "heading": None,
            "offset": 0,
        }

    async def test_metadata_does_not_hide_where_a_chunk_is_from(self, library: Library) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat"], metadata={"location": "elsewhere", "page": 9}))
        (one,) = (await library.find(record)).results
        assert (one.shown()["metadata"]["location"], one.shown()["metadata"]["page"]) == ("a", None)

    async def test_rows_that_no_manifest_has_are_not(self, library: Library) -> None:
        record = await library.make()
        lease = await library.add(record, Doc("a", ["cat one"]))
        await library.write(record, Doc("b", ["cat two"]), lease.job_id)
        await library.write(record, Doc("a", ["cat one anew"]), "job_of_later")
        assert await library.texts(record) == ["cat one"]

    async def test_a_document_is_shown_in_one_version(self, library: Library) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat one", "cat two"]))
        await library.add(record, Doc("a", ["cat three"]))
        assert await library.texts(record) == ["cat three"]
        await library.collections.delete_document(WS, record.id, document_id(record.id, "a"))
        assert await library.texts(record) == []

    async def test_what_is_hidden_does_not_crowd_out_the_rest(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat"] * 60), Doc("b", ["cat and dog"] * 3))
        await library.add(record, Doc("a", ["soup"]))
        assert sorted(await library.texts(record, top_k=3)) == ["cat and dog"] * 3
        monkeypatch.setattr(search_module, "DEEPEST", 20)
        assert await library.texts(record, top_k=3, mode="dense") == []

    async def test_filters(self, library: Library, pets: CollectionRecord) -> None:
        async def locations(**filters: Any) -> set[str]:
            found = await library.find(pets, "cat dog car", filters=filters)
            return {one.hit.location for one in found.results}

        assert await locations() == {"cats", "dogs", "cars"}
        assert await locations(source_type="guide") == {"cats", "dogs"}
        assert await locations(source_type="guide", n={"gt": 1}) == {"dogs"}
        assert await locations(page=2) == {"cats"}
        assert await locations(**{"not": {"team": {"exists": True}}}) == {"cars"}
        assert await locations(**{"or": [{"team": "b"}, {"location": {"contains": "ar"}}]}) == {
            "dogs",
            "cars",
        }
        assert await locations(team={"ne": "a"}) == {"dogs", "cars"}
        assert await locations(team={"in": ["x"]}) == set()
        with pytest.raises(ValidationError) as refused:
            await locations(page="2")
        assert refused.value.details["field"] == "filters.page"

    async def test_what_a_filter_must_drop_afterwards_is_made_up_for(self, library: Library) -> None:
        record = await library.make()
        crowd = Doc("crowd", ["cat"] * 100, metadata={"old": True})
        await library.add(record, crowd, Doc("rest", ["a cat"] * 3))
        wanted = {"old": {"exists": False}}
        assert await library.texts(record, top_k=3, filters=wanted) == ["a cat"] * 3

    async def test_top_k_and_min_score(self, library: Library, pets: CollectionRecord) -> None:
        assert len(await library.texts(pets, "cat dog car", top_k=2)) == 2
        assert await library.texts(pets, "cat", mode="dense", min_score=0.9) == ["cat cat"]
        assert await library.texts(pets, "zebra", min_score=0.51) == ["car engine zebra"]

    async def test_of_an_empty_collection_there_is_nothing(self, library: Library) -> None:
        found = await library.find(await library.make())
        assert (found.results, library.embedded) == ([], [])

    async def test_other_metrics(self, library: Library) -> None:
        for metric in ("ip", "l2"):
            record = await library.make(metric, metric=metric)
            await library.add(record, Doc("a", ["cat"]), Doc("b", ["dog"]))
            first, second = (await library.find(record, "cat", mode="dense")).results
            assert (first.hit.text, first.score) == ("cat", pytest.approx(1.0, abs=1e-3))
            assert 0 <= second.score < 0.5

    def test_likeness_grows_with_nearness(self) -> None:
        assert [likeness(0.0, "l2"), likeness(1.0, "l2")] == [1.0, 0.5]
        assert likeness(0.3, "cosine") == 0.3


class TestRerank:
    async def test_puts_in_a_new_order(self, library: Library, pets: CollectionRecord) -> None:
        found = await library.find(pets, "dog", rerank=True, top_k=2)
        assert [one.hit.text for one in found.results] == ["car engine zebra", "a cat and a dog"]
        assert found.results[0].score == pytest.approx(0.016)
        assert await library.texts(pets, "dog", rerank="longest", min_score=0.016) == ["car engine zebra"]

    async def test_by_a_model_that_is_not_there(self, library: Library, pets: CollectionRecord) -> None:
        with pytest.raises(ValidationError) as refused:
            await library.find(pets, "dog", rerank="gpt-4")
        assert refused.value.details["field"] == "rerank"


class TestSeveral:
    async def test_are_merged_by_where_results_stand(self, library: Library, pets: CollectionRecord) -> None:
        food = await library.make("food", embedding_model="other")
        await library.add(food, Doc("soup", ["cat soup"]), Doc("bread", ["bread"]))
        records = [await library.collections.get(WS, one.id) for one in (pets, food)]
        found = await library.search.answer(WS, "key_1", records, SearchOrder(query="cat", top_k=4))
        firsts = {(one.collection_id, one.hit.text) for one in found.results[:2]}
        assert firsts == {(pets.id, "cat cat"), (food.id, "cat soup")}
        assert [one.score for one in found.results[:2]] == [1.0, 1.0]
        assert found.results[2].score < 1.0
        assert sorted(library.embedded) == ["other", "words"]

    async def test_of_one_model_embed_once(self, library: Library, pets: CollectionRecord) -> None:
        food = await library.make("food")
        await library.add(food, Doc("soup", ["soup"]))
        records = [await library.collections.get(WS, one.id) for one in (pets, food)]
        await library.search.answer(WS, "key_1", records, SearchOrder(query="cat"))
        assert library.embedded == ["words"]

    async def test_reranked_all_together(self, library: Library, pets: CollectionRecord) -> None:
        food = await library.make("food")
        await library.add(food, Doc("soup", ["a very long text about soup"]))
        records = [await library.collections.get(WS, one.id) for one in (pets, food)]
        found = await library.search.answer(
            WS, "key_1", records, SearchOrder(query="cat", rerank=True, top_k=1)
        )
        assert found.results[0].hit.location == "soup"


class TestChanges:
    async def test_vectors_that_are_elsewhere_by_now_are_found(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        record = await library.make("moved")
        before = await library.collections.get(WS, record.id)
        after = await library.collections.patch(WS, record.id, CollectionPatch(metric="ip"))
        await library.add(after, Doc("a", ["cat"]))
        now = (await library.collections.get(WS, record.id)).stored
        stale = CollectionRecord(replace(now, live=before.stored.live), before.item)
        found = await library.search.answer(WS, "key_1", [stale], SearchOrder(query="cat"))
        assert [one.hit.text for one in found.results] == ["cat"]

    async def test_a_collection_that_goes_meanwhile_has_nothing(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        record = await library.collections.get(WS, pets.id)
        await library.collections.delete(WS, record.id)
        assert (await library.search.answer(WS, "key_1", [record], SearchOrder(query="cat"))).results == []

    async def test_vectors_that_are_lost_are_told_of(self, library: Library, pets: CollectionRecord) -> None:
        await library.vectors.drop(pets.vectors)
        with pytest.raises(Unavailable) as told:
            await library.find(pets)
        assert told.value.details["reason"] == "vectors_missing"

    async def test_a_vector_store_that_is_away_is_told_of(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        vectors = VectorStore("http://127.0.0.1:9")
        search = library.over(vectors)
        record = await library.collections.get(WS, pets.id)
        with pytest.raises(Unavailable):
            await search.answer(WS, "key_1", [record], SearchOrder(query="cat"))

    async def test_a_model_that_is_away_is_told_of(self, library: Library, pets: CollectionRecord) -> None:
        async def embedder(ws: str, model: str) -> Any:
            raise ProviderError("Model 'words' needs the credential 'x'")

        search = Search(library.collections, embedder, Models(), EmbeddedStore(library.store, library.clock))
        record = await library.collections.get(WS, pets.id)
        with pytest.raises(ProviderError):
            await search.answer(WS, "key_1", [record], SearchOrder(query="cat"))
        found = await search.answer(WS, "key_1", [record], SearchOrder(query="cat", mode="keyword"))
        assert found.results[0].hit.location == "cats"


class TestAccount:
    async def used(self, library: Library) -> dict[str, int]:
        hour = str(library.clock.now_ms() // HOUR_MS)
        flat = await library.store.call("HGETALL", keys.key("usage", WS, hour=hour))
        found = {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}
        return {name: count for name, count in found.items() if name[0] in "xyz"}

    async def test_a_search_counts_by_model_collection_and_key(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        await library.find(pets, "cat or dog")
        await library.find(pets, "cat", mode="keyword")
        ways = ("", "|m|words", f"|o|{pets.id}", "|k|key_1")
        assert await self.used(library) == {
            f"{name}{of}": n for of in ways for name, n in (("x", 3), ("y", 6000))
        }

    async def test_one_of_several_collections_is_of_none_of_them(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        food, other = await library.make("food"), await library.make("other", embedding_model="other")
        for one in (food, other):
            await library.add(one, Doc("soup", ["soup"]))
        empty = await library.make("empty", embedding_model="other")
        records = [await library.collections.get(WS, one.id) for one in (pets, food, other, empty)]
        await library.search.answer(WS, "key_1", records, SearchOrder(query="cat"))
        used = await self.used(library)
        assert (used["x"], used["x|m|words"], used["z|m|other"]) == (2, 1, 1)
        assert {name: count for name, count in used.items() if "|o|" in name} == {
            f"x|o|{other.id}": 1,
            f"z|o|{other.id}": 1,
        }

    async def test_one_that_is_not_answered_counts_nothing(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        await library.vectors.drop(pets.vectors)
        with pytest.raises(Unavailable):
            await library.find(pets)
        assert (library.embedded, await self.used(library)) == (["words"], {})


class TestBill:
    async def test_is_told_of_the_query(self, library: Library, pets: CollectionRecord) -> None:
        purse, order = Purse(), SearchOrder(query="cat or dog")
        await library.search.of_one(WS, "pets", None, order, purse)
        assert purse.admitted == [("words", "cat or dog")]
        assert purse.paid == [("words", Tokens(3))]

    async def test_that_cannot_be_paid_stops_the_search(
        self, library: Library, pets: CollectionRecord
    ) -> None:
        with pytest.raises(RateLimitError):
            await library.search.of_one(WS, "pets", None, SearchOrder(query="cat"), Purse(broke=True))
        assert library.embedded == ["words"]

    async def test_only_what_may_be_read_is_there(self, library: Library, pets: CollectionRecord) -> None:
        order = SearchOrder(query="cat")
        assert (await library.search.of_one(WS, pets.id, {pets.id}, order, Purse())).results
        for ws, name, only in ((WS, "pets", set()), ("ws_" + "1" * 26, pets.id, None), (WS, "nothing", None)):
            with pytest.raises(NotFound):
                await library.search.of_one(ws, name, only, order, Purse())


@pytest.mark.parametrize(
    "given",
    [
        {"query": ""},
        {"query": " \n"},
        {"query": "x" * 8001},
        {"query": "a\x00b"},
        {"query": 5},
        {"top_k": 0},
        {"top_k": 101},
        {"top_k": True},
        {"mode": "exact"},
        {"min_score": 1.1},
        {"min_score": -0.1},
        {"rerank": 1},
        {"rerank": ""},
        {"filters": []},
        {"offset": 10},
    ],
)
def test_orders_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(Unfit):
        SearchOrder.model_validate({"query": "cat"} | given)
    SearchOrder.model_validate({"query": "x" * 8000, "top_k": 100, "min_score": 1, "filters": None})
