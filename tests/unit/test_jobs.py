"""Jobs: their queue and leases, what a run does from listing to end, and counts that no crash makes wrong."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest

from configs.settings import Ingestion
from kernel.clock import ManualClock
from kernel.errors import NotFound, RateLimitError, Unavailable
from kernel.knowledge import listing, run
from kernel.knowledge.contract import Found, document_id
from kernel.knowledge.listing import Listing, Seen, in_blocks
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.suspects import REASON, Left, taken_apart
from kernel.knowledge.work import Block, Listed, Order
from kernel.storage import keys
from kernel.storage.jobs import JobLost, Lease, Room, Settled
from kernel.storage.store import Store
from tests import ingestion
from tests.ingestion import COLLECTION, SHARD, WS, Bench, Crash, Documents

pytestmark = pytest.mark.anyio

OTHER = next(name for name in (f"ws_{n}" for n in range(999)) if keys.shard_of(name) == SHARD)


@pytest.fixture
async def bench(store: Store, clock: ManualClock) -> Bench:
    bench = Bench(store, clock)
    await bench.open()
    return bench


async def other(bench: Bench, size: str = "small") -> str:
    """A job of another workspace in the same shard."""
    await bench.store.call("HSET", keys.key("collection", OTHER, id=COLLECTION), "live", "1")
    return await bench.accept(OTHER, size)


class TestQueue:
    async def test_a_job_is_given_once(self, bench: Bench) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim("d1")
        assert (claim.lease.job_id, claim.lease.epoch, claim.size) == (job_id, 1, "small")
        assert await bench.claim("d2") == []
        assert (await bench.counts(job_id))["status"] == "running"

    async def test_the_oldest_first(self, bench: Bench, clock: ManualClock) -> None:
        ids = []
        for _ in range(3):
            ids.append(await bench.accept())
            clock.advance(1)
        assert [one.lease.job_id for one in await bench.claim()] == ids

    async def test_workspaces_take_turns(self, bench: Bench) -> None:
        for _ in range(5):
            await bench.accept()
        await other(bench)
        claims = await bench.claim(room=Room(2, 0, 9))
        assert sorted(one.lease.workspace_id for one in claims) == sorted([WS, OTHER])

    async def test_large_ones_of_a_workspace_leave_room(self, bench: Bench) -> None:
        for _ in range(3):
            await bench.accept(size="large")
        await other(bench, "large")
        claims = await bench.claim(room=Room(9, 4, 2))
        assert sorted(one.lease.workspace_id for one in claims) == sorted([WS, WS, OTHER])

    async def test_small_ones_do_not_wait_for_large_ones(self, bench: Bench) -> None:
        await bench.accept(size="large")
        small = await bench.accept()
        assert [one.lease.job_id for one in await bench.claim(room=Room(1, 0, 1))] == [small]

    async def test_too_many_at_once(self, bench: Bench) -> None:
        job_id = await bench.accept(most_active=1)
        with pytest.raises(RateLimitError) as refused:
            await bench.accept(most_active=1)
        assert refused.value.details["limit"] == "jobs"
        await bench.jobs.cancel(WS, job_id, 5)
        await bench.accept(most_active=1)

    async def test_of_a_collection_that_is_gone(self, bench: Bench, store: Store) -> None:
        await store.call("DEL", keys.key("collection", WS, id=COLLECTION))
        with pytest.raises(NotFound):
            await bench.accept()

    async def test_old_ones_give_way(self, bench: Bench, store: Store) -> None:
        first = await bench.accept()
        await bench.jobs.cancel(WS, first, 5)
        name = keys.key("jobs_by", WS, id=COLLECTION)
        await store.call("ZADD", name, *(part for n in range(999) for part in (0, f"job_x{n}")))
        second = await bench.accept()
        assert await bench.jobs.read(WS, first) is None
        assert await bench.jobs.read(WS, second) is not None
        assert await store.call("KEYS", f"*{first}*") == []


class TestLeases:
    async def test_a_renewed_one_is_kept(self, bench: Bench, store: Store) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        assert await bench.jobs.renew(SHARD, 60_000, [(claim.lease, 7, False)]) == [True]
        assert (await bench.counts(job_id))["discovered"] == 7
        assert await bench.claim("d2") == []

    async def test_a_lost_one_goes_on_elsewhere_and_shuts_the_old_one_out(self, bench: Bench) -> None:
        await bench.accept()
        (old,) = await bench.claim("d1")
        (new,) = await bench.claim("d2", lost=True)
        assert new.lease.epoch == old.lease.epoch + 1
        assert await bench.jobs.renew(SHARD, 60_000, [(old.lease, 0, False)]) == [False]
        assert not await bench.jobs.end(old.lease, "completed", 5, 0)
        with pytest.raises(JobLost) as lost:
            await bench.jobs.check(old.lease)
        assert not lost.value.ended
        assert await bench.jobs.end(new.lease, "completed", 5, 0)

    async def test_what_many_drivers_lose_fails(self, bench: Bench) -> None:
        job_id = await bench.accept()
        for _ in range(2):
            await bench.jobs.claim(SHARD, "d", 0, Room(9, 9, 9), 2, b'{"code":"LOST"}', 2**53)
        assert await bench.jobs.claim(SHARD, "d", 0, Room(9, 9, 9), 2, b'{"code":"LOST"}', 2**53) == []
        record = await bench.jobs.read(WS, job_id) or {}
        assert (record["status"], record["error"]) == (b"failed", b'{"code":"LOST"}')

    async def test_one_that_gets_on_may_be_lost_more_often(self, bench: Bench) -> None:
        await bench.accept()
        source = Documents({str(n): "word" for n in range(4)})
        for n in range(4):
            (claim,) = await bench.jobs.claim(SHARD, "d", 0, Room(9, 9, 9), 2, b"{}", 2**53)
            one = Block(0, [Listed(0, Found(str(n), str(n), "text"))])
            await ingest_batch(bench.tools, bench.order(claim.lease, source), one)

    async def test_what_was_done_before_is_no_getting_on(self, bench: Bench) -> None:
        await bench.accept()
        source, one = Documents({"a": "word"}), ingestion.block("a")
        for lost in range(3):
            (claim,) = await bench.jobs.claim(SHARD, "d", 0, Room(9, 9, 9), 2, b"{}", 2**53)
            assert claim.lost == (0 if lost < 2 else 1), "taking it in was getting on"
            await ingest_batch(bench.tools, bench.order(claim.lease, source), one)
        assert await bench.jobs.claim(SHARD, "d", 0, Room(9, 9, 9), 2, b"{}", 2**53) == []

    async def test_cancelled_is_cancelled_at_once(self, bench: Bench) -> None:
        queued, running = await bench.accept(), await bench.accept()
        (claim,) = [one for one in await bench.claim(room=Room(2, 0, 1)) if one.lease.job_id == running]
        for job_id in (queued, running, running):
            assert await bench.jobs.cancel(WS, job_id, 5) == "cancelled"
        assert not await bench.jobs.end(claim.lease, "completed", 5, 0)
        assert await bench.claim("d2", lost=True) == []
        with pytest.raises(JobLost) as lost:
            await bench.jobs.check(claim.lease)
        assert lost.value.ended

    async def test_an_end_is_an_end(self, bench: Bench) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        await bench.jobs.end(claim.lease, "failed", 5, 0, b"{}")
        assert await bench.jobs.cancel(WS, job_id, 6) == "failed"
        assert await bench.jobs.cancel(WS, "job_none", 6) == ""


class TestRun:
    async def test_from_listing_to_end(self, bench: Bench) -> None:
        counts = await bench.perform(Documents({"a": "one two", "b": "three"}), Documents({"c": "poison"}))
        assert counts == {
            **{"discovered": 3, "done": 2, "skipped": 0, "failed": 1, "deleted": 0, "chunks": 3, "bytes": 12},
            "status": "completed_with_errors",
        }

    async def test_nothing_listed_is_completed(self, bench: Bench) -> None:
        assert (await bench.perform(Documents({})))["status"] == "completed"

    async def test_what_goes_beyond_goes_to_the_cluster(self, store: Store, clock: ManualClock) -> None:
        bench = Bench(store, clock, Ingestion(inline_documents=25, block=30))
        await bench.open()
        elsewhere = Elsewhere(bench, blocks=2)
        source = Documents({f"{n:03}": "word" for n in range(200)})
        counts = await bench.perform(source, cluster=elsewhere)
        assert (counts["done"], counts["status"]) == (200, "completed")
        assert elsewhere.sizes == [60, 60, 60, 20]
        assert len(await bench.manifest()) == 200

    async def test_blocks_that_could_not_be_done_are_done_again(
        self, store: Store, clock: ManualClock
    ) -> None:
        bench = Bench(store, clock, Ingestion(inline_documents=0, block=10))
        await bench.open()
        elsewhere = Elsewhere(bench, blocks=4, failing=3)
        counts = await bench.perform(Documents({f"{n:03}": "word" for n in range(40)}), cluster=elsewhere)
        assert (counts["done"], counts["status"]) == (40, "completed")

    async def test_a_document_that_ends_its_workers_fails_alone(
        self, store: Store, clock: ManualClock
    ) -> None:
        bench = Bench(store, clock, Ingestion(inline_documents=0, block=10))
        await bench.open()
        elsewhere = Elsewhere(bench, blocks=3, deadly=["007", "039"])
        counts = await bench.perform(Documents({f"{n:03}": "word" for n in range(40)}), cluster=elsewhere)
        assert (counts["discovered"], counts["done"], counts["failed"]) == (40, 38, 2)
        assert elsewhere.sizes == [30, 10, 10, 10]
        (job_id,) = await store.call("ZRANGE", keys.key("jobs", WS), 0, -1)
        notes, _ = await bench.jobs.documents(WS, job_id.decode(), "failed", 0, 9)
        assert [(orjson.loads(note)["location"], orjson.loads(note)["reason"]) for note in notes] == [
            ("007", REASON),
            ("039", REASON),
        ]

    async def test_a_suspect_that_was_settled_after_all_is_left_alone(self, bench: Bench) -> None:
        await bench.accept()
        (claim,) = await bench.claim()
        order, two = bench.order(claim.lease), ingestion.block("a", "b", number=3)
        assert [part.number for part in await taken_apart(bench.jobs, order, two, 8)] == [8, 9]
        assert await bench.jobs.withdraw(claim.lease, 3), "the answer may have been lost"
        source = bench.order(claim.lease, Documents({"a": "one", "b": "two"}))
        await ingest_batch(bench.tools, source, ingestion.block("a", "b", number=4))
        assert await taken_apart(bench.jobs, order, ingestion.block("a", "b", number=4), 10) == []
        await ingest_batch(bench.tools, source, two)
        assert (await bench.counts(claim.lease.job_id))["done"] == 2, "what was withdrawn counts no more"
        (again,) = await bench.claim("d2", lost=True)
        with pytest.raises(JobLost):
            await bench.jobs.withdraw(claim.lease, 4)
        await ingest_batch(bench.tools, bench.order(again.lease, *source.sources), two)
        assert not await bench.jobs.withdraw(again.lease, 3), "it is settled in this run"

    async def test_what_may_have_cost_drivers_their_lives_is_kept_away_from_them(self, bench: Bench) -> None:
        await bench.accept()
        (claim,) = await bench.claim()
        elsewhere = Elsewhere(bench, blocks=1)
        ordered = bench.run(claim.lease, Documents({"a": "word"}), cluster=elsewhere, at_home=False)
        await ordered.perform()
        assert elsewhere.sizes == [1]

    async def test_a_store_of_vectors_that_is_away_for_a_while(self, bench: Bench) -> None:
        left = [Unavailable("away")] * 3

        def away(verb: str) -> None:
            if left:
                raise left.pop()

        bench.vectors.before = away
        assert (await bench.perform(Documents({"a": "one"})))["status"] == "completed"

    async def test_nothing_moves_for_too_long(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "PATIENCE_S", 0)

        def away(verb: str) -> None:
            raise Unavailable("away")

        bench.vectors.before = away
        assert (await bench.perform(Documents({"a": "one"})))["status"] == "failed"

    async def test_a_source_that_cannot_be_read_fails_the_job_after_the_others(self, bench: Bench) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        sources = Documents({"a": "one"}, fails="No such repository"), Documents({"b": "two"})
        await bench.run(claim.lease, *sources, sync=True).perform()
        record = await bench.jobs.read(WS, job_id) or {}
        error = orjson.loads(record["error"])
        assert record["status"] == b"failed"
        assert error["details"]["field"] == "sources[0].location"
        assert error["details"]["reason"] == "No such repository"
        assert sorted(await bench.manifest()) == ["a", "b"]

    async def test_vectors_that_have_moved_are_followed(self, bench: Bench, store: Store) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        await store.call("HSET", keys.key("collection", WS, id=COLLECTION), "live", "2")
        await bench.run(claim.lease, Documents({"a": "one"})).perform()
        assert (await bench.counts(job_id))["done"] == 1

    async def test_a_collection_that_goes_ends_it(self, bench: Bench, store: Store) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        await store.call("DEL", keys.key("collection", WS, id=COLLECTION))
        await bench.run(claim.lease, Documents({"a": "one"})).perform()
        assert (await bench.counts(job_id))["status"] == "failed"


class TestSync:
    async def test_what_is_gone_is_taken_out(self, bench: Bench) -> None:
        await bench.perform(Documents({"a": "one", "b": "two"}))
        counts = await bench.perform(Documents({"a": "one"}), sync=True)
        assert (counts["skipped"], counts["deleted"]) == (1, 1)
        assert await bench.shown() == {"a": ["one"]}
        assert bench.stored() == 1

    async def test_other_sources_are_left_alone(self, bench: Bench) -> None:
        await bench.perform(Documents({"a": "one"}), Documents({"b": "two"}))
        counts = await bench.perform(Documents({}), sync=True)
        assert counts["deleted"] == 1
        assert sorted(await bench.manifest()) == ["b"]

    async def test_without_it_all_stays(self, bench: Bench) -> None:
        await bench.perform(Documents({"a": "one"}))
        assert (await bench.perform(Documents({})))["deleted"] == 0
        assert sorted(await bench.manifest()) == ["a"]

    async def test_an_incomplete_list_takes_nothing_out(self, bench: Bench) -> None:
        await bench.perform(Documents({"a": "one", "b": "two"}))
        await bench.perform(Documents({"a": "one"}, fails="gone away"), sync=True)
        assert sorted(await bench.manifest()) == ["a", "b"]

    async def test_one_that_was_changed_meanwhile_stays(self, bench: Bench) -> None:
        await bench.perform(Documents({"a": "one"}))
        await bench.accept()
        (claim,) = await bench.claim()
        entries = await bench.jobs.entries(WS, COLLECTION, [name := next(iter(await ids(bench)))])
        await bench.perform(Documents({"a": "changed"}))
        assert await bench.jobs.drop(claim.lease, 5, [(name, entries[name], b"{}")]) == []
        assert sorted(await bench.manifest()) == ["a"]


async def ids(bench: Bench) -> list[str]:
    return [name async for some in bench.jobs.manifest(WS, COLLECTION) for name in some]


class Elsewhere:
    """A cluster in this process. failing: blocks that it loses, once each. deadly: documents that end a worker."""

    def __init__(self, bench: Bench, blocks: int, failing: int = 0, deadly: Sequence[str] = ()):
        self._bench, self.blocks, self._failing, self._deadly = bench, blocks, failing, set(deadly)
        self.order: Order | None = None
        self.sizes: list[int] = []

    async def work(self, lease: Lease, blocks: Sequence[Block]) -> Left:
        self.sizes.append(sum(len(block.listed) for block in blocks))
        again, suspect = set(), set()
        for block in blocks:
            if self._failing:
                self._failing -= 1
                again.add(block.number)
            elif self._deadly & {one.found.location for one in block.listed}:
                suspect.add(block.number)
            else:
                source = Documents({one.found.location: "word" for one in block.listed})
                await ingest_batch(self._bench.tools, self._bench.order(lease, source), block)
        return Left(again, suspect)


@pytest.mark.parametrize("dies_after", range(10))
async def test_a_driver_that_dies_anywhere_leaves_the_same_counts(
    store: Store, clock: ManualClock, dies_after: int
) -> None:
    """It dies in the middle of some step of its third block or so; another one ends the job."""
    bench = Bench(store, clock)
    await bench.open()
    await bench.perform(Documents({"003": "before", "gone": "x"}))
    texts = {f"{n:03}": f"word {n}" for n in range(40)} | {"p": "poison"}
    job_id = await bench.accept()
    (claim,) = await bench.claim("d1")
    steps = 0

    def step(verb: str = "") -> None:
        nonlocal steps
        steps += 1
        if steps > dies_after:
            raise Crash

    bench.vectors.before, bench.words.before = step, step
    with pytest.raises(Crash):
        await bench.run(claim.lease, Documents(texts), sync=True).perform()
    bench.vectors.before, bench.words.before = lambda verb: None, lambda: None
    (again,) = await bench.claim("d2", lost=True)
    await bench.run(again.lease, Documents(texts), sync=True).perform()
    counts = await bench.counts(job_id)
    size = sum(len(text) for text in texts.values()) - len("poison")
    assert counts == {
        **{
            "discovered": 41,
            "done": 40,
            "skipped": 0,
            "failed": 1,
            "deleted": 1,
            "chunks": 80,
            "bytes": size,
        },
        "status": "completed_with_errors",
    }
    assert sorted(await bench.manifest()) == sorted(texts.keys() - {"p"})
    assert bench.stored() == 80
    used = await store.call("HGET", keys.key("usage", WS, hour=str(clock.now_ms() // 3_600_000)), "i")
    assert int(used) == size + len("before") + len("x")


class TestEvents:
    async def test_a_life_from_start_to_end(self, bench: Bench, clock: ManualClock) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        await bench.run(claim.lease, Documents({"a": "one", "p": "poison"})).perform()
        told = [one for one in await bench.events(job_id) if one["type"] != "job.progress"]
        assert [one["type"] for one in told] == [
            "job.started",
            "document.failed",
            "job.completed_with_errors",
        ]
        assert told[1]["data"]["location"] == "p"
        assert "found" not in told[1]["data"]
        assert told[2]["data"]["progress"]["failed"] == 1

    async def test_progress_is_told_now_and_then(self, bench: Bench, clock: ManualClock) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        started = int((await bench.jobs.read(WS, job_id) or {})["run_at"])
        order = bench.order(claim.lease, Documents({str(n): "x" for n in range(9)}))
        for n in range(9):
            at = started + 200 * n
            row = await bench.jobs.commit(claim.lease, n, at, order.place.live, [])
            assert row == []
        kinds = [one["type"] for one in await bench.events(job_id)]
        assert kinds == ["job.started"] + ["job.progress"] * 2

    async def test_failed_documents_are_told_up_to_a_thousand(self, bench: Bench) -> None:
        job_id = await bench.accept()
        (claim,) = await bench.claim()
        for number in range(3):
            rows = [Settled(f"doc_{number}_{n}", "failed", b'{"n":1}') for n in range(450)]
            await bench.jobs.commit(claim.lease, number, 5, "1", rows)
        kinds = [one["type"] for one in await bench.events(job_id)]
        assert kinds.count("document.failed") == 1000
        assert (await bench.counts(job_id))["failed"] == 1350


class TestListing:
    async def test_all_of_it_in_order(self) -> None:
        listed = Listing(numbers(10), 2, ahead=3)
        taken = []
        while some := await listed.take(4):
            assert len(some) <= 4
            taken += [(one.source, one.found.location) for one in some]
        assert taken == [(source, str(n)) for source in range(2) for n in range(10)]
        assert (listed.count, listed.ended) == (20, True)

    async def test_it_reads_ahead_only_so_far(self) -> None:
        listed = Listing(numbers(1000), 1, ahead=5)
        await listed.take(1)
        await asyncio.sleep(0)
        assert listed.count <= 6
        await listed.close()

    async def test_a_slow_source_holds_nothing_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "FLUSH_S", 0.01)

        async def slow(source: int) -> AsyncIterator[Found]:
            yield Found("a", "a", "text")
            await asyncio.Event().wait()

        listed = Listing(slow, 1, ahead=5)
        assert [one.found.location for one in await listed.take(4)] == ["a"]
        await listed.close()

    def test_blocks_are_bounded_by_count_and_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "BLOCK_BYTES", 100)
        sizes = [10, 10, 10, 95, 200, 1]
        listed = [Listed(0, Found(str(n), "", "text", size=size)) for n, size in enumerate(sizes)]
        blocks = in_blocks(listed, 2, first=7)
        assert [[one.found.size for one in block.listed] for block in blocks] == [
            [10, 10],
            [10],
            [95],
            [200],
            [1],
        ]
        assert [block.number for block in blocks] == [7, 8, 9, 10, 11]

    def test_what_was_seen_is_known_again(self) -> None:
        seen = Seen()
        seen.add(COLLECTION, [Listed(0, Found(str(n), "", "text")) for n in range(1000)])
        known = seen.close()
        assert all(known(document_id(COLLECTION, str(n))) for n in range(1000))
        assert not any(known(document_id(COLLECTION, str(n))) for n in range(1000, 2000))
        assert not Seen().close()("doc_x")


def numbers(count: int) -> Any:
    async def walk(source: int) -> AsyncIterator[Found]:
        for n in range(count):
            yield Found(str(n), str(n), "text")

    return walk
