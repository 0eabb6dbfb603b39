"""A block's way in: what is skipped, what fails alone, and that no crash leaves a trace."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from configs.settings import Ingestion
from kernel.clock import ManualClock, rfc3339
from kernel.errors import ProviderError, Unavailable
from kernel.knowledge import pipeline
from kernel.knowledge.contract import Found
from kernel.knowledge.pipeline import ingest_batch
from kernel.knowledge.work import Block, Listed
from kernel.knowledge.writing import Writer
from kernel.storage import keys
from kernel.storage.counts import HOUR_MS
from kernel.storage.jobs import JobLost, Lease, VectorsMoved
from kernel.storage.store import Store
from tests.ingestion import COLLECTION, WS, Bench, Crash, Documents

pytestmark = pytest.mark.anyio

TEXTS = {"a": "one two", "b": "three", "c": "four five six"}


@pytest.fixture
async def bench(store: Store, clock: ManualClock) -> Bench:
    bench = Bench(store, clock)
    await bench.open()
    return bench


async def lease(bench: Bench) -> Lease:
    await bench.accept()
    (claim,) = await bench.claim()
    return claim.lease


async def listed(*sources: Documents, number: int = 0) -> Block:
    found = [Listed(at, one) for at, source in enumerate(sources) async for one in source.list()]
    return Block(number, found)


async def ingest(
    bench: Bench, *sources: Documents, held: Lease | None = None, number: int = 0
) -> dict[str, str]:
    """Outcomes by location."""
    held = held or await lease(bench)
    done = await ingest_batch(bench.tools, bench.order(held, *sources), await listed(*sources, number=number))
    return {one.location: one.outcome for one in done}


async def usage_of(store: Store, clock: ManualClock) -> dict[str, int]:
    """What this hour counts."""
    flat = await store.call("HGETALL", keys.key("usage", WS, hour=str(clock.now_ms() // HOUR_MS)))
    return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}


class TestTaking:
    async def test_documents_are_shown_with_all_their_chunks(self, bench: Bench) -> None:
        assert await ingest(bench, Documents(TEXTS)) == dict.fromkeys(TEXTS, "done")
        assert await bench.shown() == {"a": ["one", "two"], "b": ["three"], "c": ["four", "five", "six"]}

    async def test_the_entry_says_what_is_known_of_it(self, bench: Bench, clock: ManualClock) -> None:
        held = await lease(bench)
        await ingest(bench, Documents({"a": "one two"}, metadata={"team": "x"}), held=held)
        entry = (await bench.manifest())["a"]
        assert entry["job_id"] == held.job_id
        assert entry["at"] == clock.now_ms()
        assert (entry["chunks"], entry["bytes"], entry["metadata"]) == (2, 7, {"team": "x"})
        assert entry["content"] != entry["version"]

    async def test_a_vector_that_came_along_is_kept(self, bench: Bench) -> None:
        source = Documents({"a": "one two"})
        found = Found("a", "a", "text", handle={"vector": [9.0, 8.0]})
        order = bench.order(await lease(bench), source)
        await ingest_batch(bench.tools, order, Block(0, [Listed(0, found)]))
        assert await bench.shown() == {"a": ["one two"]}
        assert bench.words.embedded == []
        assert [list(row.vector) for row in bench.vectors.rows["c_test_1"].values()] == [[9.0, 8.0]]

    async def test_chunks_are_embedded_in_batches(self, store: Store, clock: ManualClock) -> None:
        bench = Bench(store, clock, Ingestion(embed_batch=2))
        await bench.open()
        sizes: list[int] = []

        async def embed(texts: Any, used: Any) -> list[list[float]]:
            sizes.append(len(texts))
            return [[1.0, 0.0]] * len(texts)

        bench.words.embed = embed  # type: ignore[method-assign]
        await ingest(bench, Documents({"a": " ".join("abcdefghijk")}))
        assert sizes == [8, 3]


class TestSkipping:
    async def test_by_the_source_s_version_without_a_fetch(self, bench: Bench) -> None:
        await ingest(bench, Documents(TEXTS))
        again = Documents(TEXTS)
        assert await ingest(bench, again) == dict.fromkeys(TEXTS, "skipped")
        assert again.fetched == []

    async def test_by_a_fetch_that_finds_it_unchanged(self, bench: Bench) -> None:
        await ingest(bench, Documents(TEXTS, versioned=False))
        embedded = len(bench.words.embedded)
        assert await ingest(bench, Documents(TEXTS, versioned=False)) == dict.fromkeys(TEXTS, "skipped")
        assert len(bench.words.embedded) == embedded
        assert (await bench.manifest())["a"]["source_version"]

    async def test_by_content_without_embedding(self, bench: Bench) -> None:
        """The source counts versions in another way now; the next run needs no fetch again."""
        await ingest(bench, Documents({"a": "one"}))

        class Renumbered(Documents):
            async def list(self) -> Any:
                async for found in super().list():
                    yield Found(found.location, found.title, found.source_type, "v2")

            async def fetch(self, found: Found) -> Any:
                fetched = await super().fetch(found)
                return type(fetched)(fetched.data, fetched.name, None, "v2")

        assert await ingest(bench, Renumbered({"a": "one"})) == {"a": "skipped"}
        assert len(bench.words.embedded) == 1
        again = Renumbered({"a": "one"})
        assert await ingest(bench, again) == {"a": "skipped"}
        assert again.fetched == []

    async def test_other_metadata_is_a_change(self, bench: Bench) -> None:
        await ingest(bench, Documents({"a": "one"}))
        assert await ingest(bench, Documents({"a": "one"}, metadata={"x": 1})) == {"a": "done"}
        assert [row.metadata for row in bench.vectors.rows["c_test_1"].values()] == [{"x": 1}]

    async def test_a_change_leaves_no_old_chunks(self, bench: Bench) -> None:
        await ingest(bench, Documents(TEXTS))
        assert await ingest(bench, Documents(TEXTS | {"a": "new"})) == {
            "a": "done",
            "b": "skipped",
            "c": "skipped",
        }
        assert (await bench.shown())["a"] == ["new"]
        assert bench.stored() == 5


class TestFailing:
    async def test_one_poison_document_fails_alone(self, bench: Bench) -> None:
        held = await lease(bench)
        outcomes = await ingest(bench, Documents(TEXTS | {"p": "poison", "f": "fault"}), held=held)
        assert outcomes == dict.fromkeys(TEXTS, "done") | {"p": "failed", "f": "failed"}
        notes, total = await bench.jobs.documents(WS, held.job_id, "failed", 0, 10)
        assert total == 2
        assert any(b"It is poison" in note for note in notes)
        assert not any(b"Zero" in note for note in notes)

    async def test_one_without_text(self, bench: Bench) -> None:
        done = await ingest_batch(
            bench.tools,
            bench.order(await lease(bench), source := Documents({"a": "  "})),
            await listed(source),
        )
        assert (done[0].outcome, done[0].reason) == ("failed", "There is no text in it")

    async def test_one_that_is_too_large(self, store: Store, clock: ManualClock) -> None:
        bench = Bench(store, clock, Ingestion(max_document_mb=1))
        await bench.open()
        assert await ingest(bench, Documents({"a": "x" * 1_000_001, "b": "y"})) == {
            "a": "failed",
            "b": "done",
        }

    async def test_one_that_the_embedder_refuses(self, bench: Bench) -> None:
        embed = bench.words.embed

        async def refusing(texts: Any, used: Any) -> list[list[float]]:
            if "three" in texts:
                raise ProviderError("Refused", None, None, False)
            return await embed(texts, used)

        bench.words.embed = refusing  # type: ignore[method-assign]
        assert await ingest(bench, Documents(TEXTS)) == {"a": "done", "b": "failed", "c": "done"}
        assert sorted(await bench.shown()) == ["a", "c"]

    async def test_what_may_go_better_later_leaves_nothing_counted(self, bench: Bench) -> None:
        held = await lease(bench)

        def away(verb: str) -> None:
            raise Unavailable("Milvus is away")

        bench.vectors.before = away
        with pytest.raises(Unavailable):
            await ingest(bench, Documents(TEXTS), held=held)
        assert (await bench.counts(held.job_id))["done"] == 0
        assert await bench.manifest() == {}

    async def test_a_failed_one_can_be_found_again(self, bench: Bench) -> None:
        held = await lease(bench)
        await ingest(bench, Documents({"p": "poison"}), held=held)
        (note,), _ = await bench.jobs.documents(WS, held.job_id, "failed", 0, 1)
        assert Listed.of(orjson.loads(note)["found"]).found.location == "p"


class TestFences:
    async def test_another_s_change_meanwhile_is_seen(self, bench: Bench) -> None:
        """The document changes between reading its entry and the commit: it is done again on top of that."""
        held, other = await lease(bench), await lease(bench)
        embed = bench.words.embed

        async def meanwhile(texts: Any, used: Any) -> list[list[float]]:
            bench.words.embed = embed  # type: ignore[method-assign]
            await ingest(bench, Documents({"a": "theirs"}), held=other)
            return await embed(texts, used)

        bench.words.embed = meanwhile  # type: ignore[method-assign]
        assert await ingest(bench, Documents({"a": "ours", "b": "x"}), held=held) == {
            "a": "done",
            "b": "done",
        }
        assert await bench.shown() == {"a": ["ours"], "b": ["x"]}
        assert bench.stored() == 2
        assert (await bench.counts(held.job_id))["done"] == 2

    async def test_a_block_counts_once(self, bench: Bench) -> None:
        held = await lease(bench)
        await ingest(bench, Documents(TEXTS), held=held)
        first = await bench.counts(held.job_id)
        await ingest(bench, Documents(TEXTS), held=held)
        assert await bench.counts(held.job_id) == first
        assert first["done"] == 3

    async def test_the_usage_of_a_block_counts_once(
        self, bench: Bench, store: Store, clock: ManualClock
    ) -> None:
        held = await lease(bench)
        for _ in range(2):
            await ingest(bench, Documents(TEXTS), held=held)
        await ingest(bench, Documents(TEXTS))
        used = await store.call("HGETALL", keys.key("usage", WS, hour=str(clock.now_ms() // 3_600_000)))
        size = str(sum(map(len, TEXTS.values()))).encode()
        named = dict(zip(used[::2], used[1::2], strict=True))
        assert named == {b"i": size, f"i|o|{COLLECTION}".encode(): size, b"i|k|key_1": size}

    async def test_what_a_provider_embedded_counts_once_with_its_block(
        self, bench: Bench, store: Store, clock: ManualClock
    ) -> None:
        held, bench.price = await lease(bench), 2.5e-8
        revive = crash_at(bench, Documents(TEXTS), "committed")
        with pytest.raises(Crash):
            await ingest(bench, Documents(TEXTS), held=held)
        revive()
        await ingest(bench, Documents(TEXTS), held=held)
        bench.price = None
        await ingest(bench, Documents({"d": "seven"}))
        used = await usage_of(store, clock)
        for of in ("", f"|o|{COLLECTION}", "|k|key_1", "|m|words"):
            assert [used.get(f"{metric}{of}") for metric in "xyz"] == [70, 1500, 1], of
        spent = await store.call("HGETALL", keys.key("spend", WS, period=rfc3339(clock.now_ms())[:7]))
        assert dict(zip(spent[::2], spent[1::2], strict=True)) == {b"y": b"1500", b"y|k|key_1": b"1500"}

    async def test_what_was_embedded_for_a_clash_counts_too(
        self, bench: Bench, store: Store, clock: ManualClock
    ) -> None:
        bench.price = 1e-6
        await self.test_another_s_change_meanwhile_is_seen(bench)
        assert (await usage_of(store, clock))["x"] == 10 * len(bench.words.embedded) == 40

    async def test_a_document_listed_twice_counts_once_as_done(self, bench: Bench) -> None:
        held = await lease(bench)
        source = Documents({"a": "one"}, listed_twice=["a"])
        await ingest(bench, source, held=held)
        await ingest(bench, source, held=held, number=1)
        counts = await bench.counts(held.job_id)
        assert (counts["done"], counts["skipped"], counts["chunks"]) == (1, 3, 1)

    async def test_a_lost_driver_writes_nothing(self, bench: Bench) -> None:
        held = await lease(bench)
        (new,) = await bench.claim("d2", lost=True)
        with pytest.raises(JobLost):
            await ingest(bench, Documents(TEXTS), held=held)
        assert await bench.manifest() == {}
        await ingest(bench, Documents(TEXTS), held=new.lease)
        assert bench.stored() == 6

    async def test_a_cancelled_job_leaves_no_chunks(self, bench: Bench) -> None:
        held = await lease(bench)
        await ingest(bench, Documents({"a": "one"}), held=held)
        await bench.jobs.cancel(WS, held.job_id, 5)
        with pytest.raises(JobLost):
            await ingest(bench, Documents({"a": "one", "b": "two three"}), held=held, number=1)
        assert await bench.shown() == {"a": ["one"]}
        assert bench.stored() == 1

    async def test_work_under_way_stops_when_the_job_is_cancelled(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "HELD_EVERY_S", 0.01)
        held = await lease(bench)

        async def forever(texts: Any, used: Any) -> list[list[float]]:
            await bench.jobs.cancel(WS, held.job_id, 5)
            await asyncio.Event().wait()
            raise AssertionError

        bench.words.embed = forever  # type: ignore[method-assign]
        with pytest.raises(JobLost):
            await ingest(bench, Documents(TEXTS), held=held)

    async def test_vectors_that_have_moved(self, bench: Bench, store: Store) -> None:
        held = await lease(bench)
        await store.call("HSET", keys.key("collection", WS, id=COLLECTION), "live", "2")
        with pytest.raises(VectorsMoved):
            await ingest(bench, Documents(TEXTS), held=held)


STEPS = ("entries", "fetch", "parse", "embed", "upsert", "commit", "committed", "delete")


def crash_at(bench: Bench, source: Documents, step: str) -> Callable[[], None]:
    """The process dies there, once. Returns what brings all back to life."""
    tools = bench.tools

    def dying(action: Any, after: bool = False) -> Any:
        async def call(*args: Any) -> Any:
            if after:
                await action(*args)
            raise Crash(step)

        return call

    holders: dict[str, tuple[Any, str]] = {
        "entries": (bench.jobs, "entries"),
        "fetch": (source, "fetch"),
        "parse": (tools.parsers, "parse"),
        "embed": (bench.words, "embed"),
        "upsert": (bench.vectors, "upsert"),
        "commit": (bench.jobs, "commit"),
        "committed": (bench.jobs, "commit"),
        "delete": (bench.vectors, "delete"),
    }
    holder, name = holders[step]
    setattr(holder, name, dying(getattr(holder, name), after=step in ("committed", "upsert")))
    return lambda: delattr(holder, name)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("same_driver", [True, False])
async def test_a_crash_anywhere_and_a_second_run_come_to_the_same(
    bench: Bench, step: str, same_driver: bool
) -> None:
    await ingest(bench, Documents({"a": "old words here", "b": "three"}))
    held = await lease(bench)
    source = Documents(TEXTS | {"p": "poison"})
    revive = crash_at(bench, source, step)
    with pytest.raises(Crash):
        await ingest(bench, source, held=held)
    revive()
    if not same_driver:
        claims = await bench.claim("d2", lost=True)
        (held,) = [one.lease for one in claims if one.lease.job_id == held.job_id]
    await ingest(bench, source, held=held)
    await Writer(bench.tools, bench.order(held, source)).clear()
    assert await bench.shown() == {"a": ["one", "two"], "b": ["three"], "c": ["four", "five", "six"]}
    assert bench.stored() == 6
    counts = await bench.counts(held.job_id)
    assert (counts["done"], counts["skipped"], counts["failed"]) == (2, 1, 1)
    assert (counts["chunks"], counts["bytes"]) == (5, len("one two") + len("four five six"))
