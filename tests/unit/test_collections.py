"""Collections and their manifests, on a real store and a real vector store."""

import asyncio
from typing import Any

import orjson
import pytest

from kernel.errors import Conflict, NotFound, Unavailable, ValidationError
from kernel.ids import new_id
from kernel.knowledge.collections import Collections
from kernel.knowledge.contract import document_id
from kernel.knowledge.record import CollectionCreate, CollectionPatch, CollectionRecord
from kernel.knowledge.reindex import MADE_WITHIN_MS
from kernel.knowledge.spec import folder
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.chunks import VectorsMissing, place
from kernel.storage.jobs import JobLost
from kernel.storage.store import Store
from kernel.storage.vectors import VectorStore
from tests.knowledge import WS, Doc, Library, Models

pytestmark = pytest.mark.anyio

OTHER = "ws_" + "1" * 26


def away(library: Library) -> Collections:
    """The same collections, with a vector store that cannot be reached."""
    return library.away(VectorStore("http://127.0.0.1:9"))


class TestWeigh:
    async def test_vectors_and_texts_by_the_manifests(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kernel.knowledge.collections.WEIGHED_AT_ONCE", 2)
        assert await library.collections.weigh(WS) == {}
        made = [await library.make(name) for name in ("one", "two", "three")]
        for one in made:
            await library.add(one, Doc("a", ["cat", "a dog"]))
        await library.make("other", OTHER)
        texts = sum(
            record["bytes"] for record in (await library.collections.list(WS, None, PageQuery(limit=9))).items
        )
        assert texts > 0
        weights = await library.collections.weigh(WS)
        assert weights == dict.fromkeys((one.id for one in made), 2 * 8 * 4 + texts // 3)
        monkeypatch.setattr(Models, "check_embedding", lambda self, model: "gone")
        assert sum((await library.collections.weigh(WS)).values()) == texts


class TestCreate:
    async def test_has_defaults(self, library: Library) -> None:
        shown = (await library.make("my-docs")).shown()
        assert shown == shown | {
            "name": "my-docs",
            "description": "",
            "embedding_model": "words",
            "chunk_size": 1000,
            "chunk_overlap": 200,
            "chunk_unit": "characters",
            "metric": "cosine",
            "documents": 0,
            "chunks": 0,
            "bytes": 0,
        }

    async def test_a_small_chunk_has_a_smaller_overlap_by_default(self, library: Library) -> None:
        assert (await library.make(chunk_size=100)).item.chunk_overlap == 20
        assert (await library.make("b", chunk_size=201)).item.chunk_overlap == 200

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"embedding_model": "gpt-5"}, "embedding_model"),
            ({"chunk_size": 500, "chunk_overlap": 500}, "chunk_overlap"),
            ({"chunk_size": 2001, "chunk_unit": "tokens"}, "chunk_size"),
        ],
    )
    async def test_what_does_not_go_together_is_refused(
        self, library: Library, given: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ValidationError) as refused:
            await library.make(**given)
        assert refused.value.details["field"] == field
        assert (await library.collections.list(WS, None, PageQuery())).total == 0

    async def test_names_are_unique_in_a_workspace_in_any_case(self, library: Library) -> None:
        await library.make("My-Docs")
        for name in ("My-Docs", "my-docs", "MY-DOCS"):
            with pytest.raises(Conflict, match="already"):
                await library.make(name)
        await library.make("my-docs", ws=OTHER)
        await library.make("my-docs2")

    async def test_of_two_at_once_one_gets_the_name(self, library: Library) -> None:
        ends = await asyncio.gather(*(library.make("one") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(end, CollectionRecord) for end in ends) == 1
        assert sum(isinstance(end, Conflict) for end in ends) == 4

    async def test_again_by_a_try_that_was_lost(self, library: Library) -> None:
        name = new_id("col")
        order = CollectionCreate(name="docs")
        first = await library.collections.create(WS, order, collection_id=name)
        assert await library.collections.create(WS, order, collection_id=name) == first

    async def test_without_the_vector_store_leaves_nothing(self, library: Library) -> None:
        with pytest.raises(Unavailable):
            await away(library).create(WS, CollectionCreate(name="docs"))
        await library.make("docs")

    async def test_vectors_that_no_record_came_to_use_are_dropped(
        self, library: Library, vectors: VectorStore
    ) -> None:
        name = place(new_id("col"), 1)
        await library.collections.store.intend(WS, name, library.clock.now_ms() + MADE_WITHIN_MS)
        await vectors.create(name, 8, "cosine")
        await library.collections.drop_left(WS)
        assert await vectors.count(name) == 0
        library.clock.advance(MADE_WITHIN_MS)
        await library.collections.drop_left(WS)
        with pytest.raises(VectorsMissing):
            await vectors.count(name)


class TestFind:
    async def test_by_id_and_by_name_in_any_case(self, library: Library) -> None:
        record = await library.make("Docs")
        assert await library.collections.named(WS, record.id) == record
        assert await library.collections.named(WS, "dOCS") == record
        for name in ("doc", new_id("col"), "", "col_x"):
            with pytest.raises(NotFound):
                await library.collections.named(WS, name)

    async def test_not_from_another_workspace(self, library: Library) -> None:
        record = await library.make()
        with pytest.raises(NotFound):
            await library.collections.get(OTHER, record.id)
        with pytest.raises(NotFound):
            await library.collections.named(OTHER, "docs")

    async def test_pages_newest_first(self, library: Library) -> None:
        made = [(await library.make(f"c{n}")).id for n in range(5)]
        made.sort(reverse=True)
        first = await library.collections.list(WS, None, PageQuery(1, 2))
        assert [item["id"] for item in first.items] == made[:2]
        assert (first.total, first.more) == (5, True)
        rest = await library.collections.list(WS, None, PageQuery(1, 3, before=made[1]))
        assert [item["id"] for item in rest.items] == made[2:]
        assert (rest.total, rest.more) == (5, False)

    async def test_pages_of_some(self, library: Library) -> None:
        made = sorted([(await library.make(f"c{n}")).id for n in range(5)], reverse=True)
        only = {made[0], made[2], made[4], new_id("col")}
        page = await library.collections.list(WS, only, PageQuery(2, 1))
        assert [item["id"] for item in page.items] == [made[2]]
        assert (page.total, page.more) == (3, True)
        page = await library.collections.list(WS, only, PageQuery(1, 2, before=made[2]))
        assert ([item["id"] for item in page.items], page.more) == ([made[4]], False)
        assert (await library.collections.list(WS, [], PageQuery())).items == []


class TestPatch:
    async def test_of_name_and_description(self, library: Library) -> None:
        record = await library.make("old")
        await library.add(record, Doc("a", ["cat"]))
        library.clock.advance(1000)
        patch = CollectionPatch(name="New", description="of all")
        changed = await library.collections.patch(WS, record.id, patch)
        assert (changed.item.name, changed.item.description) == ("New", "of all")
        assert changed.item.updated_at == record.item.updated_at + 1000
        assert (changed.vectors, changed.stored.documents) == (record.vectors, 1)
        assert (await library.collections.named(WS, "new")).id == record.id
        await library.make("old")

    async def test_to_a_name_that_is_taken_changes_nothing(self, library: Library) -> None:
        record = await library.make("one")
        await library.make("two")
        with pytest.raises(Conflict):
            await library.collections.patch(WS, record.id, CollectionPatch(name="TWO", description="x"))
        assert await library.collections.get(WS, record.id) == record
        await library.collections.patch(WS, record.id, CollectionPatch(name="ONE"))

    async def test_of_nothing_is_no_change(self, library: Library) -> None:
        record = await library.make()
        assert await library.collections.patch(WS, record.id, CollectionPatch(name="docs")) == record

    async def test_bound_to_a_state_that_is_over(self, library: Library) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat"]))
        changed = await library.collections.patch(
            WS, record.id, CollectionPatch(description="x"), record.etag
        )
        assert changed.etag != record.etag
        for bound in (record.etag, '"x"', ""):
            with pytest.raises(Conflict):
                await library.collections.patch(WS, record.id, CollectionPatch(description="y"), bound)
            with pytest.raises(Conflict):
                await library.collections.delete(WS, record.id, bound)

    async def test_an_empty_collection_is_made_anew_at_once(
        self, library: Library, vectors: VectorStore
    ) -> None:
        record = await library.make()
        patch = CollectionPatch(name="better", embedding_model="other", chunk_size=300, metric="l2")
        changed = await library.collections.patch(WS, record.id, patch)
        assert (changed.item.embedding_model, changed.item.chunk_size, changed.item.metric) == (
            "other",
            300,
            "l2",
        )
        assert changed.stored.live == 2
        assert await vectors.count(changed.vectors) == 0
        with pytest.raises(VectorsMissing):
            await vectors.count(record.vectors)
        await library.add(changed, Doc("a", ["cat"]))
        assert await library.texts(changed) == ["cat"]

    async def test_of_two_at_once_on_an_empty_one_the_vectors_fit_who_wins(self, library: Library) -> None:
        record = await library.make()
        patches = [CollectionPatch(metric=metric) for metric in ("l2", "ip")]
        await asyncio.gather(*(library.collections.patch(WS, record.id, one) for one in patches))
        changed = await library.collections.get(WS, record.id)
        assert changed.stored.live > 2
        await library.add(changed, Doc("a", ["cat"]))
        assert await library.texts(changed) == ["cat"]

    async def test_what_does_not_go_together_is_refused(self, library: Library) -> None:
        record = await library.make(chunk_size=500)
        with pytest.raises(ValidationError) as refused:
            await library.collections.patch(WS, record.id, CollectionPatch(chunk_overlap=500))
        assert refused.value.details["field"] == "chunk_overlap"


class TestDelete:
    async def test_is_total(self, library: Library, store: Store, vectors: VectorStore) -> None:
        record = await library.make("gone")
        await library.add(record, Doc("a", ["cat"]), Doc("b", ["dog"]))
        await library.add(record, Doc("a", ["another cat"]))
        path = f"{folder(WS, record.id, 'uploads')}/upload_1"
        await library.objects.put(path, b"x")
        await library.collections.delete(WS, record.id)
        left = [name for name in await store.call("KEYS", "*") if record.id.encode() in name]
        assert left == []
        assert await store.call("KEYS", "*:job:*") == []
        for vectors_name in (place(record.id, 1), place(record.id, 2)):
            with pytest.raises(VectorsMissing):
                await vectors.count(vectors_name)
        assert await library.objects.names(folder(WS, record.id, "uploads")) == []
        with pytest.raises(NotFound):
            await library.collections.get(WS, record.id)
        await library.make("gone")

    async def test_stops_a_job_under_way(self, library: Library) -> None:
        record = await library.make()
        lease = await library.job(record)
        await library.collections.delete(WS, record.id)
        doc = Doc("a", ["cat"])
        with pytest.raises(JobLost):
            await library.jobs.commit(lease, 0, 1, "1", [library.settled(record, doc, lease.job_id)])
        assert await library.store.call("KEYS", f"*{record.id}*") == []

    async def test_without_the_vector_store_its_vectors_go_later(
        self, library: Library, vectors: VectorStore
    ) -> None:
        record = await library.make("one")
        await away(library).delete(WS, record.id)
        with pytest.raises(NotFound):
            await library.collections.get(WS, record.id)
        assert await vectors.count(record.vectors) == 0
        await library.collections.delete(WS, (await library.make("two")).id)
        with pytest.raises(VectorsMissing):
            await vectors.count(record.vectors)


class TestManifest:
    async def test_counts_what_is_in_it(self, library: Library) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat", "dog"]), Doc("b", ["soup"], source_type="url"))
        await library.add(record, Doc("a", ["cats"]))
        stats = await library.collections.stats(WS, record.id)
        assert stats == {
            "collection_id": record.id,
            "documents": 2,
            "chunks": 2,
            "bytes": 8,
            "source_types": {"text": 1, "url": 1},
            "vectors": {"dimension": 8, "metric": "cosine", "rows": 4, "keyword_search": True},
        }
        for location in ("a", "b"):
            await library.collections.delete_document(WS, record.id, document_id(record.id, location))
        stats = await library.collections.stats(WS, record.id)
        assert (stats["documents"], stats["chunks"], stats["bytes"], stats["source_types"]) == (0, 0, 0, {})
        assert stats["vectors"]["rows"] == 0

    async def test_pages_by_when_they_were_taken_in(self, library: Library) -> None:
        record = await library.make()
        await library.add(record, *(Doc(f"old{n}", ["cat"]) for n in range(3)))
        library.clock.advance(1)
        await library.add(record, *(Doc(f"new{n}", ["cat"]) for n in range(3)))
        library.clock.advance(1)
        await library.add(record, Doc("old1", ["dog"]))
        seen: list[str] = []
        query = PageQuery(1, 2)
        while True:
            page = await library.collections.documents(WS, record.id, query)
            seen += [item["location"] for item in page.items]
            if page.next_cursor is None:
                break
            query = PageQuery.of(1, 2, page.next_cursor, "doc")
        assert seen[0] == "old1"
        assert sorted(seen[1:4]) == ["new0", "new1", "new2"]
        assert sorted(seen[4:]) == ["old0", "old2"]
        numbered = [
            item["location"]
            for page in (1, 2, 3, 4)
            for item in (await library.collections.documents(WS, record.id, PageQuery(page, 2))).items
        ]
        assert numbered == seen

    async def test_shows_a_document(self, library: Library) -> None:
        record = await library.make()
        lease = await library.add(record, Doc("a", ["cat"], "url", "A", {"team": "web"}))
        name = document_id(record.id, "a")
        shown = await library.collections.document(WS, record.id, name)
        assert shown == shown | {
            "id": name,
            "location": "a",
            "title": "A",
            "source_type": "url",
            "chunks": 1,
            "bytes": 3,
            "metadata": {"team": "web"},
            "job_id": lease.job_id,
        }
        for ws, collection, document in (
            (OTHER, record.id, name),
            (WS, record.id, document_id(record.id, "b")),
            (WS, new_id("col"), name),
            (WS, record.id, "doc_x"),
        ):
            with pytest.raises(NotFound):
                await library.collections.document(ws, collection, document)
            with pytest.raises(NotFound):
                await library.collections.delete_document(ws, collection, document)
        with pytest.raises(NotFound):
            await library.collections.documents(OTHER, record.id, PageQuery())

    async def test_a_deleted_document_leaves_no_rows(self, library: Library, vectors: VectorStore) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat", "dog"]), Doc("b", ["soup"]))
        await library.collections.delete_document(WS, record.id, document_id(record.id, "a"))
        assert await vectors.count(record.vectors) == 1
        assert await library.collections.store.stale(WS, record.id, 10) == []

    async def test_without_the_vector_store_a_deleted_document_is_gone_all_the_same(
        self, library: Library, vectors: VectorStore
    ) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat"]))
        await away(library).delete_document(WS, record.id, document_id(record.id, "a"))
        assert await vectors.count(record.vectors) == 1
        assert await library.texts(record) == []
        await library.collections.clear(WS, record)
        assert await vectors.count(record.vectors) == 0

    async def test_what_was_left_over_is_deleted_later(self, library: Library, vectors: VectorStore) -> None:
        shard = keys.shard_of(WS)
        record, dropped, moved = [await library.make(name) for name in ("docs", "dropped", "moved")]
        for one in (record, dropped, moved):
            await library.add(one, Doc("a", ["cat"]), Doc("b", ["dog"]))
            await away(library).delete_document(WS, one.id, document_id(one.id, "a"))
        await away(library).delete(WS, dropped.id)
        await away(library).delete_document(WS, moved.id, document_id(moved.id, "b"))
        await library.collections.patch(WS, moved.id, CollectionPatch(metric="l2"))
        assert await library.collections.store.uncleared(shard) == [(WS, record.id)]
        with pytest.raises(Unavailable):
            await away(library).tidy()
        await library.collections.tidy()
        assert await vectors.count(record.vectors) == 1
        for gone in (dropped, moved):
            with pytest.raises(VectorsMissing):
                await vectors.count(gone.vectors)
        assert await library.collections.store.uncleared(shard) == []
        assert await library.collections.store.left(shard, library.clock.now_ms()) == []

    async def test_a_collection_without_its_vectors_does_not_keep_others_from_being_cleared(
        self, library: Library, vectors: VectorStore
    ) -> None:
        made = [await library.make(name) for name in ("one", "two")]
        for one in made:
            await library.add(one, Doc("a", ["cat"]))
            await away(library).delete_document(WS, one.id, document_id(one.id, "a"))
        await vectors.drop(made[0].vectors)
        await library.collections.tidy()
        assert await library.collections.store.uncleared(keys.shard_of(WS)) == [(WS, made[0].id)]

    async def test_a_version_that_is_shown_again_is_not_stale(self, library: Library) -> None:
        record = await library.make()
        lease = await library.add(record, Doc("a", ["cat"]))
        name = document_id(record.id, "a")
        await library.collections.store.remove_documents(WS, record.id, [name])
        assert [pair[0] for pair in await library.collections.store.stale(WS, record.id, 10)] == [name]
        again = library.settled(record, Doc("a", ["cat"]), lease.job_id)
        await library.jobs.commit(lease, 1, library.clock.now_ms(), "1", [again])
        assert await library.collections.store.stale(WS, record.id, 10) == []
        assert await library.collections.store.uncleared(keys.shard_of(WS)) == []

    async def test_every_key_goes_through_the_same_steps(self, library: Library, store: Store) -> None:
        record = await library.make()
        await library.add(record, *(Doc(f"d{n}", ["cat"]) for n in range(50)))
        await library.add(record, *(Doc(f"d{n}", ["dog"]) for n in range(25)))
        names = [document_id(record.id, f"d{n}") for n in range(20, 40)]
        assert await library.collections.store.remove_documents(WS, record.id, names) == 20
        assert await library.collections.store.remove_documents(WS, record.id, names) == 0
        at = {name: keys.key(name, WS, id=record.id) for name in ("documents", "documents_by_id")}
        entries = await store.call("HGETALL", at["documents"])
        ids = {entries[i] for i in range(0, len(entries), 2)}
        assert len(ids) == 30
        assert set(await store.call("ZRANGE", at["documents_by_id"], 0, -1)) == ids
        newest = await store.call("ZRANGE", keys.key("documents_newest", WS, id=record.id), 0, -1)
        assert {member.split(b" ")[1] for member in newest} == ids
        chunks = sum(orjson.loads(entries[i + 1])["chunks"] for i in range(0, len(entries), 2))
        assert (await library.collections.get(WS, record.id)).stored.chunks == chunks
