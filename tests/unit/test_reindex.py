"""A re-index: what it makes, what searches see meanwhile, and that no change and no crash loses or doubles a thing."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from configs.settings import Ingestion as Settings
from kernel.clock import ManualClock
from kernel.errors import Conflict, InternalError, NotFound, ProviderError, RateLimitError, Unavailable
from kernel.knowledge import reindex, remaking
from kernel.knowledge.chunking import cut
from kernel.knowledge.contract import Part, document_id
from kernel.knowledge.record import CollectionPatch, CollectionRecord
from kernel.knowledge.seams import MOST_BLANK, rebuilt
from kernel.knowledge.search import SearchOrder
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.chunks import place
from kernel.storage.jobs import JobLost
from kernel.storage.reindex import GRACE_MS
from kernel.storage.store import Store
from kernel.storage.vectors import VectorStore
from tests.ingestion import Crash, Documents
from tests.knowledge import WS, Doc, Library
from tests.reindexing import Elsewhere, Rig, given, vector_of

pytestmark = pytest.mark.anyio

TEXTS = {
    f"{n:02}": f"A cat and a dog, number {n}.\n\n"
    + "They share the soup and the bread of the house. " * (n % 5)
    for n in range(10)
}


@pytest.fixture
def rig(store: Store, clock: ManualClock, tmp_path: Path) -> Rig:
    return Rig(store, clock, tmp_path)


async def as_ingested(rig: Rig, record: CollectionRecord, texts: dict[str, str]) -> dict[str, list[str]]:
    """What a collection of this kind shows that was filled from the first."""
    making = record.item.making.model_dump()
    return await rig.texts(await rig.make(texts, name="fresh", **making))


class TestSeams:
    @pytest.mark.parametrize("seed", range(20))
    def test_a_text_cut_again_is_as_if_cut_at_once(self, seed: int) -> None:
        chance = random.Random(seed)
        words = ["word ", "a", "\n\n", "\n", ". ", "  ", "\t", "é 語", " \n \n", "。"]
        for _ in range(20):
            parts = [
                Part(
                    "".join(chance.choices(words, k=chance.randint(0, 60))),
                    chance.randint(0, 999),
                    chance.choice([None, 1, 2]),
                    chance.choice([None, "One", "Two"]),
                )
                for _ in range(chance.randint(1, 6))
            ]
            one, two = (_sizes(chance) for _ in range(2))
            if chunks := cut(parts, *one):
                assert cut(rebuilt(chunks), *two) == cut(parts, *two)

    def test_blank_space_without_end_is_shortened_and_no_word_is_lost(self) -> None:
        chunks = cut([Part("one" + " " * 100_000 + "two" + "\n" * 100_000)], 50, 0)
        assert max(len(chunk.seam) for chunk in chunks) < 3 * MOST_BLANK
        assert [chunk.text for chunk in cut(rebuilt(chunks), 50, 0)] == ["one", "two"]

    def test_more_parts_than_a_seam_holds_lose_no_word(self) -> None:
        parts = [Part(f"{n}", n, None, "H" * 250) for n in range(1_000)]
        chunks = cut(parts, 8_000, 0)
        assert max(len(chunk.seam) for chunk in chunks) <= 32_000
        assert "".join(part.text for part in rebuilt(chunks)).split() == [str(n) for n in range(1_000)]


def _sizes(chance: random.Random) -> tuple[int, int, str]:
    size = chance.randint(5, 120)
    return size, chance.randint(0, size - 1), chance.choice(["characters", "tokens"])


class TestOrder:
    async def test_the_answer_tells_what_is_to_come(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        changed = await rig.patch(record, name="Better", chunk_size=90, metric="l2")
        shown = changed.shown()
        assert (shown["name"], shown["chunk_size"], shown["metric"]) == ("Better", 60, "cosine")
        job_id = shown["reindex"]["job_id"]
        assert shown["reindex"] == {
            "job_id": job_id,
            **{"embedding_model": "words", "chunk_size": 90, "chunk_overlap": 10},
            **{"chunk_unit": "characters", "metric": "l2"},
            "links": {"job": f"/v1/rag/jobs/{job_id}"},
        }
        assert changed.etag != record.etag
        assert record.shown()["reindex"] is None
        assert (await rig.job(job_id))["status"] == b"queued"

    async def test_a_second_one_is_refused_and_other_changes_are_not(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        first = await rig.patch(record, chunk_size=90)
        for patch in ({"chunk_size": 100}, {"chunk_size": 90}, {"embedding_model": "other", "name": "x"}):
            with pytest.raises(Conflict) as refused:
                await rig.patch(record, **patch)
            assert refused.value.details == {"reason": "reindexing", "job_id": first.stored.reindex}
        assert (await rig.patch(record, description="x", chunk_size=60)).item.description == "x"
        await rig.reindex()
        now = await rig.get(record)
        assert (now.item.chunk_size, now.item.description, now.item.name) == (90, "x", "docs")

    async def test_of_a_state_that_is_over_none_is_started(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, description="x")
        with pytest.raises(Conflict):
            await rig.collections.patch(WS, record.id, CollectionPatch(chunk_size=90), record.etag)
        assert (await rig.get(record)).stored.reindex == ""
        assert await rig.claim() == []

    async def test_of_many_at_once_one_is_started(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        orders = rig.collections.reindexes
        item = record.item.model_copy(update={"chunk_size": 90})
        assert await orders.order(WS, record, item)
        with pytest.raises(Conflict):
            await orders.order(WS, record, item)
        assert len(await rig.claim()) == 1

    async def test_to_a_name_that_is_taken_changes_nothing(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.library.make("two")
        with pytest.raises(Conflict, match="'TWO'"):
            await rig.patch(record, name="TWO", chunk_size=90)
        assert await rig.get(record) == record

    async def test_too_many_jobs(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        record = await rig.make(TEXTS)
        monkeypatch.setattr(reindex, "MOST_ACTIVE", 0)
        with pytest.raises(RateLimitError):
            await rig.patch(record, chunk_size=90)
        assert await rig.get(record) == record

    async def test_vectors_of_an_order_that_was_refused_are_dropped(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.library.make("two")
        with pytest.raises(Conflict):
            await rig.patch(record, name="two", chunk_size=90)
        assert place(record.id, 2) in rig.vectors.rows
        rig.clock.advance(reindex.MADE_WITHIN_MS)
        await rig.collections.drop_left(WS)
        assert place(record.id, 2) not in rig.vectors.rows
        assert await rig.rows(record)

    async def test_again_after_it_was_cancelled(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        job_id = (await rig.patch(record, chunk_size=90)).stored.reindex
        await rig.jobs.cancel(WS, job_id, 5)
        making = record.item.making.model_copy(update={"chunk_size": 90})
        again = await rig.collections.reindexes.again(WS, record.id, making, "key_1", job_id, "")
        await rig.reindex()
        assert (await rig.job(again))["retry_of"] == job_id.encode()
        assert (await rig.get(record)).item.chunk_size == 90
        with pytest.raises(Conflict, match="already"):
            await rig.collections.reindexes.again(WS, record.id, making, "key_1", job_id, "")
        with pytest.raises(NotFound):
            await rig.collections.reindexes.again("ws_other", record.id, making, "key_1", job_id, "")


class TestMaking:
    async def test_by_another_model_the_same_chunks_are_embedded(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        before = await rig.texts(record)
        rig.embedded.clear()
        await rig.patch(record, embedding_model="other")
        await rig.reindex()
        now = await rig.get(record)
        assert (now.item.embedding_model, now.stored.reindex, now.stored.live) == ("other", "", 2)
        assert await rig.texts(now) == before
        assert sorted(rig.embedded) == sorted(("other", text) for texts in before.values() for text in texts)
        for rows in (await rig.rows(now)).values():
            for row in rows:
                assert list(row.vector) == pytest.approx(vector_of("other", row.chunk.text))

    async def test_for_another_metric_nothing_is_embedded(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        before = await rig.rows(record)
        rig.embedded.clear()
        await rig.patch(record, metric="ip")
        await rig.reindex()
        after = await rig.rows(record)
        assert (await rig.get(record)).item.metric == "ip"
        assert rig.embedded == []
        for name, rows in before.items():
            assert [row.chunk for row in after[name]] == [row.chunk for row in rows]
            assert [list(row.vector) for row in after[name]] == [list(row.vector) for row in rows]

    @pytest.mark.parametrize(
        "changes",
        [
            {"chunk_size": 200},
            {"chunk_size": 50, "chunk_overlap": 0},
            {"chunk_overlap": 30, "embedding_model": "other"},
            {"chunk_unit": "tokens"},
        ],
    )
    async def test_in_other_chunks_it_is_as_if_ingested_so(self, rig: Rig, changes: dict[str, Any]) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, **changes)
        await rig.reindex()
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), TEXTS)

    async def test_one_after_the_other_and_back(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        before = await rig.texts(record)
        for changes in (
            {"chunk_size": 300},
            {"metric": "l2"},
            {"embedding_model": "other"},
            {"chunk_size": 60},
        ):
            await rig.patch(record, **changes)
            await rig.reindex()
            assert await rig.texts(record)
        assert await rig.texts(record) == before
        await rig.ingest(record, TEXTS | {"00": "new", "new": "also new"})
        await rig.delete(record, "01")
        assert (await rig.texts(record))["00"] == ["new"]

    async def test_one_that_came_with_its_vector_stays_whole(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        mine = [0.5] * 8
        claim = await rig.begin(record)
        await (await rig.run_of(claim, given("word " * 100, mine))).perform()
        await rig.patch(record, chunk_size=90)
        await rig.reindex()
        (row,) = (await rig.rows(record))["given"]
        assert (row.chunk.text, list(row.vector)) == ("word " * 100, mine)
        await rig.patch(record, embedding_model="other")
        await rig.reindex()
        (row,) = (await rig.rows(record))["given"]
        assert list(row.vector) == pytest.approx(vector_of("other", "word " * 100))

    async def test_of_a_collection_that_has_become_empty(self, rig: Rig) -> None:
        record = await rig.make({"a": "one"})
        await rig.patch(record, chunk_size=90)
        await rig.delete(record, "a")
        await rig.reindex()
        assert (await rig.get(record)).item.chunk_size == 90
        assert await rig.rows(record) == {}

    async def test_a_job_like_others(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        job_id = (await rig.patch(record, chunk_size=200)).stored.reindex
        await rig.reindex()
        job, stored = await rig.job(job_id), (await rig.get(record)).stored
        counts = {name: int(job[name]) for name in ("discovered", "done", "failed", "chunks", "bytes")}
        assert counts == {
            **{"discovered": 10, "done": 10, "failed": 0},
            **{"chunks": stored.chunks, "bytes": stored.bytes},
        }
        assert (job["status"], job["listed"]) == (b"completed", b"1")
        events = [orjson.loads(one.body)["type"] for one in await rig.jobs.events(WS, job_id, 0)]
        assert (events[0], events[-1]) == ("job.started", "job.completed")
        notes, _ = await rig.jobs.documents(WS, job_id, "done", 0, 100)
        assert sorted(orjson.loads(note)["location"] for note in notes) == sorted(TEXTS)
        assert await rig.store.call("SMEMBERS", keys.key("jobs_active", WS)) == []

    async def test_what_is_embedded_is_paid_for(self, rig: Rig, clock: ManualClock) -> None:
        record = await rig.make(TEXTS)
        usage = keys.key("usage", WS, hour=str(clock.now_ms() // 3_600_000))
        before = int(await rig.store.call("HGET", usage, "x"))
        await rig.patch(record, embedding_model="other")
        await rig.reindex()
        chunks = (await rig.get(record)).stored.chunks
        assert int(await rig.store.call("HGET", usage, "x")) == before + chunks
        assert int(await rig.store.call("HGET", usage, "x|m|other")) == chunks

    async def test_large_ones_go_to_the_cluster(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        rig.rework(settings=Settings(block=3, inline_documents=0))
        elsewhere = Elsewhere(rig, failing=2)
        await rig.patch(record, chunk_size=200)
        await rig.reindex(cluster=elsewhere)
        assert elsewhere.worked >= 5
        rig.rework(settings=rig.settings)
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), TEXTS)


class TestEnds:
    async def test_cancelled_leaves_all_as_it_was(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        before = await rig.rows(record)
        job_id = (await rig.patch(record, embedding_model="other", chunk_size=200)).stored.reindex
        rig.vectors.meanwhile = _once("upsert", lambda: rig.jobs.cancel(WS, job_id, 5), skip=1)
        with pytest.raises(JobLost):
            await rig.reindex()
        now = await rig.get(record)
        assert (now.item.making, now.stored.reindex, now.vectors) == (record.item.making, "", record.vectors)
        assert await rig.rows(record) == before
        await rig.collections.drop_left(WS)
        assert list(rig.vectors.rows) == [record.vectors]
        await rig.patch(record, chunk_size=100)
        await rig.reindex()
        assert (await rig.get(record)).vectors == place(record.id, 3)
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), TEXTS)

    async def test_failed_leaves_all_as_it_was(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        record = await rig.make(TEXTS)
        before = await rig.rows(record)

        async def refusing(self: Any, texts: Any, used: Any = None) -> Any:
            raise ProviderError("Refused", None, None, False)

        monkeypatch.setattr("tests.reindexing.Embedder.embed", refusing)
        job_id = (await rig.patch(record, embedding_model="other")).stored.reindex
        await rig.reindex()
        job = await rig.job(job_id)
        assert (job["status"], orjson.loads(job["error"])["message"]) == (b"failed", "Refused")
        assert (await rig.get(record)).stored.reindex == ""
        assert await rig.rows(record) == before

    async def test_chunks_that_are_lost_fail_it(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        rows = rig.vectors.rows[record.vectors]
        del rows[next(iter(rows))]
        job_id = (await rig.patch(record, chunk_size=200)).stored.reindex
        await rig.reindex()
        error = orjson.loads((await rig.job(job_id))["error"])
        assert (error["code"], error["details"]["reason"]) == (InternalError.code, "chunks_missing")

    async def test_new_vectors_that_are_gone_are_no_end_of_the_world(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = await rig.make(TEXTS)
        left = [Unavailable("away")] * 3

        async def away(verb: str) -> None:
            if left:
                raise left.pop()

        rig.vectors.meanwhile = away
        await rig.patch(record, chunk_size=200)
        await rig.reindex()
        assert (await rig.get(record)).item.chunk_size == 200

    async def test_with_its_collection(self, rig: Rig, store: Store) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        rig.vectors.meanwhile = _once("upsert", lambda: rig.collections.delete(WS, record.id), skip=1)
        with pytest.raises((JobLost, NotFound)):
            await rig.reindex()
        rig.vectors.rows.pop(place(record.id, 2), None)  # what was under way
        await rig.collections.drop_left(WS)
        assert rig.vectors.rows == {}
        assert [name for name in await store.call("KEYS", "*") if record.id.encode() in name] == []

    async def test_old_vectors_are_dropped_a_little_later(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        await rig.reindex()
        await rig.collections.drop_left(WS)
        assert record.vectors in rig.vectors.rows
        rig.clock.advance(GRACE_MS)
        await rig.collections.drop_left(WS)
        assert list(rig.vectors.rows) == [(await rig.get(record)).vectors]


def _once(verb: str, action: Callable[[], Any], skip: int = 0) -> Any:
    """Does something before one step."""
    left = skip + 1

    async def hook(now: str) -> None:
        nonlocal left
        if now == verb:
            left -= 1
            if left == 0:
                await action()

    return hook


class TestMeanwhile:
    async def test_searches_see_the_old_then_the_new(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        before = await rig.texts(record)
        seen = []

        async def look(verb: str) -> None:
            now = await rig.get(record)
            seen.append((now.item.making == record.item.making, await rig.texts(now) == before))

        rig.vectors.meanwhile = look
        await rig.patch(record, chunk_size=200)
        await rig.reindex()
        assert len(seen) > 2
        assert set(seen) == {(True, True)}

    @pytest.mark.parametrize("verb", ["kept", "upsert"])
    async def test_documents_come_change_and_go(self, rig: Rig, verb: str) -> None:
        record = await rig.make(TEXTS)
        changed = {"00": "changed cat", "09": "changed dog " * 9, "zz": "a new one " * 12}

        async def change() -> None:
            rig.vectors.meanwhile = _nothing
            await rig.ingest(record, changed)
            await rig.delete(record, "01")
            await rig.delete(record, "08")

        rig.vectors.meanwhile = _once(verb, change)
        await rig.patch(record, chunk_size=200, embedding_model="other")
        await rig.reindex()
        texts = {name: text for name, text in TEXTS.items() if name not in ("01", "08")} | changed
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), texts)
        assert await rig.store.call("KEYS", "*:docs:behind") == []

    async def test_what_was_made_already_changes_and_goes(self, rig: Rig) -> None:
        """After all were walked through once, and again while it catches up."""
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        rounds = 0
        switch = rig.collections.reindexes.store.switch

        async def changing(*args: Any) -> Any:
            nonlocal rounds
            rounds += 1
            if rounds < 3:
                await rig.ingest(record, {"00": f"text {rounds}"})
                await rig.delete(record, f"0{rounds}")
            return await switch(*args)

        rig.collections.reindexes.store.switch = changing  # type: ignore[method-assign]
        await rig.reindex()
        assert rounds == 3
        texts = {name: text for name, text in TEXTS.items() if name not in ("01", "02")} | {"00": "text 2"}
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), texts)

    async def test_an_ingestion_under_way_follows(self, rig: Rig) -> None:
        """It has read where the vectors are, and writes when they are elsewhere."""
        record = await rig.make(TEXTS)
        claim = await rig.begin(record)
        run = await rig.run_of(claim, Documents({"00": "changed", "new": "a new one " * 20}))

        async def switch_over() -> None:
            rig.vectors.meanwhile = _nothing
            await rig.patch(record, chunk_size=200, embedding_model="other")
            await rig.reindex()

        rig.vectors.meanwhile = _once("upsert", switch_over)
        await run.perform()
        assert (await rig.job(claim.lease.job_id))["status"] == b"completed"
        texts = TEXTS | {"00": "changed", "new": "a new one " * 20}
        assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), texts)

    async def test_jobs_that_are_quicker_are_held_up(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """Something is taken in between each look and the switch, until nothing may be any more."""
        monkeypatch.setattr(remaking, "ROUNDS", 2)
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        store, taken, tries = rig.collections.reindexes.store, 0, []
        switch = store.switch

        async def busy(*args: Any) -> Any:
            nonlocal taken
            claim = await rig.begin(record)
            run = await rig.run_of(claim, Documents({f"new {taken}": "one"}))
            tries.append(run)
            if not await rig.is_held(record):
                await run.perform()
                taken += 1
            return await switch(*args)

        store.switch = busy  # type: ignore[method-assign]
        await rig.reindex()
        assert (taken, len(tries)) == (2, 3)
        await tries[-1].perform()
        assert len(await rig.texts(record)) == len(TEXTS) + 3

    async def test_a_held_collection_takes_nothing_in(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        (reindexing,) = await rig.claim()
        claim = await rig.begin(record)
        await rig.collections.reindexes.store.hold(reindexing.lease)
        run = await rig.run_of(claim, Documents({"new": "one"}))
        run.pause_s = 0.01
        tries = 0

        async def give_up(verb: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 3:
                assert (await rig.get(record)).stored.documents == len(TEXTS)
                await rig.jobs.cancel(WS, reindexing.lease.job_id, 5)

        rig.vectors.meanwhile = give_up
        await run.perform()
        assert (await rig.get(record)).stored.documents == len(TEXTS) + 1

    async def test_clearing_up_in_the_old_vectors_ends_and_clears_nothing_of_the_new(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        await rig.reindex()
        await rig.collections.store.remove_documents(WS, record.id, [document_id(record.id, "00")])
        await rig.collections.clear(WS, record)
        assert len(await rig.collections.store.stale(WS, record.id, 9)) == 1
        await rig.collections.clear(WS, await rig.get(record))
        assert len(await rig.texts(record)) == len(TEXTS) - 1

    async def test_names_may_change(self, rig: Rig) -> None:
        record = await rig.make(TEXTS)
        await rig.patch(record, chunk_size=200)
        rig.vectors.meanwhile = _once("upsert", lambda: rig.patch(record, name="new", description="x"))
        await rig.reindex()
        now = await rig.get(record)
        assert (now.item.name, now.item.description, now.item.chunk_size) == ("new", "x", 200)
        assert (await rig.collections.named(WS, "new")).id == record.id


async def _nothing(verb: str) -> None: ...


@pytest.mark.parametrize("dies_after", range(12))
async def test_a_driver_that_dies_anywhere_goes_on_elsewhere(rig: Rig, dies_after: int) -> None:
    record = await rig.make(TEXTS)
    changes: dict[str, Any] = {"chunk_size": 200, "embedding_model": "other"}
    job_id = (await rig.patch(record, **changes)).stored.reindex
    steps = 0

    async def step(verb: str) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            hook, rig.vectors.meanwhile = rig.vectors.meanwhile, _nothing
            await rig.ingest(record, {"00": "changed"})
            await rig.delete(record, "05")
            rig.vectors.meanwhile = hook
        if steps > dies_after:
            raise Crash

    rig.vectors.meanwhile = step
    died = False
    try:
        await rig.reindex()
    except Crash:
        died = True
    rig.vectors.meanwhile = _nothing
    if died:
        rig.embedded.clear()
        await rig.reindex(lost=True)
    job, now = await rig.job(job_id), await rig.get(record)
    assert job["status"] == b"completed"
    assert now.item.chunk_size == 200
    texts = {name: text for name, text in TEXTS.items() if name != "05"} | {"00": "changed"}
    if steps < 3:
        texts = TEXTS
    assert await rig.texts(now) == await as_ingested(rig, now, texts)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["commit", "settle", "switch"])
async def test_a_driver_that_dies_around_a_step_of_the_store(
    rig: Rig, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.knowledge.remaking.HERE", 3)
    monkeypatch.setattr("kernel.knowledge.run.HERE", 3)
    record = await rig.make(TEXTS)
    job_id = (await rig.patch(record, chunk_size=200)).stored.reindex
    store = rig.collections.reindexes.store
    real = getattr(store, name)

    async def dying(*args: Any) -> Any:
        if after and await real(*args) is False:
            return False
        raise Crash

    rig.vectors.meanwhile = _once("upsert", lambda: rig.delete(record, "00"), skip=3)
    setattr(store, name, dying)
    with pytest.raises(Crash):
        await rig.reindex()
    setattr(store, name, real)
    assert (await rig.job(job_id))["status"] == (
        b"completed" if (name, after) == ("switch", True) else b"running"
    )
    if (name, after) != ("switch", True):
        await rig.reindex(lost=True)
    assert await rig.claim(lost=True) == []
    assert (await rig.job(job_id))["status"] == b"completed"
    texts = {location: text for location, text in TEXTS.items() if location != "00"}
    assert await rig.texts(record) == await as_ingested(rig, await rig.get(record), texts)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_in_whatever_order(rig: Rig, seed: int) -> None:
    """Documents come, change and go, drivers die and jobs are cancelled, in between the steps of several re-indices."""
    chance, texts = random.Random(seed), dict(TEXTS)
    record = await rig.make(texts)

    async def change() -> None:
        name = chance.choice([*texts, "n1", "n2", "n3"])
        if chance.random() < 0.4 and name in texts and len(texts) > 1:
            del texts[name]
            await rig.delete(record, name)
        elif not await rig.is_held(record):
            texts[name] = f"changed cat {chance.random()} " * chance.randint(1, 9)
            await rig.ingest(record, {name: texts[name]})

    async def shake(verb: str) -> None:
        rig.vectors.meanwhile = _nothing
        if chance.random() < 0.5:
            await change()
        if chance.random() < 0.15:
            raise Crash
        rig.vectors.meanwhile = shake

    for size in (200, 90, 60):
        await rig.patch(record, chunk_size=size, embedding_model=chance.choice(["words", "other"]))
        lost = False
        while True:
            rig.vectors.meanwhile = shake
            try:
                await rig.reindex(lost)
                break
            except Crash:
                lost = True
        rig.vectors.meanwhile = _nothing
        now = await rig.get(record)
        assert (now.item.chunk_size, now.stored.reindex) == (size, "")
        fresh = await rig.make(texts, name=f"fresh{size}", **now.item.making.model_dump())
        assert await rig.texts(record) == await rig.texts(fresh)


class TestForReal:
    """On the vector store itself."""

    async def test_vectors_and_seams_come_back_as_they_were(
        self, library: Library, vectors: VectorStore
    ) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat " * 9, ("dog", 3)]), Doc("b", ["soup"]))
        (one, *_) = (await library.collections.documents(WS, record.id, PageQuery())).items
        ids = [f"{one['id']}.{one['version'][:16]}.{n}" for n in range(one["chunks"])]
        kept = await vectors.kept(record.vectors, [*ids, "none"], True)
        assert sorted(kept) == sorted(ids)
        found = [kept[name] for name in ids]
        assert [list(row.vector) for row in found] == [
            pytest.approx(vector_of("words", row.text)) for row in found
        ]
        assert [row.position for row in found] == list(range(one["chunks"]))
        bare = await vectors.kept(record.vectors, ids, False)
        assert all(not row.vector for row in bare.values())

    async def test_a_search_begun_before_goes_on_after(
        self, library: Library, vectors: VectorStore, tmp_path: Path
    ) -> None:
        record = await library.make()
        await library.add(record, Doc("a", ["cat"]), Doc("b", ["dog"]))
        rig = Rig(library.store, library.clock, tmp_path)
        rig.rework(vectors=vectors)
        changes = CollectionPatch(metric="l2", embedding_model="other")
        changed = await library.collections.patch(WS, record.id, changes)
        await rig.reindex()
        now = await library.collections.get(WS, record.id)
        assert (now.item.metric, now.stored.live) == ("l2", 2)
        assert await library.texts(now, "dog", top_k=1) == ["dog"]
        old = await library.search.answer(WS, "key_1", [changed], SearchOrder(query="dog", top_k=1))
        assert [one.hit.text for one in old.results] == ["dog"]
        library.clock.advance(GRACE_MS)
        await library.collections.drop_left(WS)
        old = await library.search.answer(WS, "key_1", [changed], SearchOrder(query="dog", top_k=1))
        assert [one.hit.text for one in old.results] == ["dog"]
