"""After the retention time: out of Redis, into Parquet, and still found, listed, counted and deleted."""

from pathlib import Path

import pytest

from configs.settings import Retention
from kernel.clock import ManualClock
from kernel.executions.archivist import Archivist
from kernel.executions.lookup import Lookup
from kernel.ids import first_id_at
from kernel.paging import PageQuery
from kernel.storage import keys
from kernel.storage.archive import Archive, ArchivedExecution
from kernel.storage.executions import Creation, Ending, ExecutionStore
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import QueueStore
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26
HOUR_MS = 3_600_000


class Shelf:
    """Executions made at chosen times, and the archivist that moves them."""

    def __init__(self, store: Store, clock: ManualClock, folder: Path, batch: int = 100):
        self.store, self.clock = store, clock
        self.executions, self.queue = ExecutionStore(store), QueueStore(store)
        self.archive = Archive(store, ObjectStore(folder))
        self.lookup = Lookup(self.executions, self.archive)
        self.archivist = Archivist(
            self.executions, self.archive, clock, Retention(after_s=3600, gather_s=0, batch=batch)
        )

    async def ended(self, number: int, label: str = "") -> str:
        """One that ended now; `number` orders the ids."""
        execution_id = first_id_at("exec", 1_700_000_000_000 + number)
        labels = (label,) if label else ()
        await self.executions.create(
            Creation(
                WS, execution_id, "", "", b'{"n":1}', "normal", self.clock.now_ms(), b'{"e":1}', labels=labels
            )
        )
        (claim,) = await self.queue.claim(keys.shard_of(WS), "r", 60_000, 1)
        ending = Ending("completed", {"output": b"1", "tokens_used": b"7"})
        now = self.clock.now_ms()
        assert await self.executions.commit(
            WS, execution_id, claim.epoch, 1, now, [b'{"e":2}'], {"a": b"{}"}, ending
        )
        return execution_id

    async def ids(self, query: PageQuery = PageQuery(), **filters: str) -> tuple[list[str], int]:
        page = await self.lookup.page(WS, filters, "", "", query)
        return [row["id"] for row in page.items], page.total


@pytest.fixture
def shelf(store: Store, clock: ManualClock, tmp_path: Path) -> Shelf:
    return Shelf(store, clock, tmp_path)


async def test_young_executions_stay(shelf: Shelf) -> None:
    execution_id = await shelf.ended(1)
    await shelf.archivist.round()
    assert await shelf.executions.status(WS, execution_id) == "completed"


async def test_old_ones_leave_redis_and_read_the_same(shelf: Shelf) -> None:
    execution_id = await shelf.ended(1)
    before = await shelf.lookup.stored(WS, execution_id)
    events = await shelf.lookup.events(WS, execution_id, 0)
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    assert await shelf.store.call("KEYS", f"*{execution_id}*") == []
    assert await shelf.lookup.stored(WS, execution_id) == before
    assert await shelf.lookup.events(WS, execution_id, 0) == events
    assert await shelf.lookup.status(WS, execution_id) == "completed"
    assert await shelf.lookup.stored("ws_other", execution_id) is None


async def test_lists_run_over_both_places(shelf: Shelf) -> None:
    old = [await shelf.ended(number, "kind=old") for number in range(5)]
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    young = [await shelf.ended(number) for number in range(5, 8)]
    newest_first = [*reversed(young), *reversed(old)]
    assert await shelf.ids() == (newest_first, 8)
    assert await shelf.ids(PageQuery(2, 3)) == (newest_first[3:6], 8)
    assert await shelf.ids(PageQuery(1, 3, before=newest_first[4])) == (newest_first[5:], 8)
    assert await shelf.ids(status="completed") == (newest_first, 8)
    assert await shelf.ids(label="kind=old") == (list(reversed(old)), 5)
    assert await shelf.ids(label="kind=old", status="failed") == ([], 0)


async def test_a_straggler_keeps_its_place(shelf: Shelf) -> None:
    first, *others = [await shelf.ended(number) for number in range(3)]
    await shelf.store.call("ZREM", keys.shard_key("ended", keys.shard_of(WS)), f"{WS} {first}")
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    assert await shelf.ids() == ([*reversed(others), first], 3)
    assert await shelf.ids(PageQuery(1, 1, before=others[0])) == ([first], 3)


async def test_deleted_from_the_archive_is_gone(shelf: Shelf) -> None:
    kept, dropped = await shelf.ended(1), await shelf.ended(2)
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    found = await shelf.archive.find(WS, dropped)
    assert found is not None
    await shelf.archive.erase(WS, found)
    await shelf.archive.erase(WS, found)
    assert await shelf.lookup.stored(WS, dropped) is None
    assert await shelf.ids() == ([kept], 1)


async def test_small_batches_wait_for_company(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    shelf = Shelf(store, clock, tmp_path)
    patient = Archivist(
        shelf.executions, shelf.archive, clock, Retention(after_s=3600, gather_s=7200, batch=100)
    )
    await shelf.ended(1)
    clock.advance(2 * HOUR_MS)
    await patient.round()
    assert await shelf.archive.segments(WS) == []
    clock.advance(2 * HOUR_MS)
    await patient.round()
    assert len(await shelf.archive.segments(WS)) == 1


async def test_many_make_files_of_bounded_size(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    shelf = Shelf(store, clock, tmp_path, batch=3)
    ids = [await shelf.ended(number) for number in range(8)]
    clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    assert len(await shelf.archive.segments(WS)) == 3
    assert await shelf.ids() == (list(reversed(ids)), 8)


async def test_overlapping_files_hide_nothing(shelf: Shelf) -> None:
    """One that ran long ends in a file that begins before and ends after another's."""
    long_one = await shelf.ended(1)
    await shelf.store.call("ZREM", keys.shard_key("ended", keys.shard_of(WS)), f"{WS} {long_one}")
    middle = [await shelf.ended(number) for number in range(2, 5)]
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    last = await shelf.ended(9)
    await shelf.store.call("ZADD", keys.shard_key("ended", keys.shard_of(WS)), 1, f"{WS} {long_one}")
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    assert len(await shelf.archive.segments(WS)) == 2
    assert (await shelf.ids(PageQuery(1, 2)))[0] == [last, middle[2]]
    assert (await shelf.ids(PageQuery(1, 10, before=middle[1])))[0] == [middle[0], long_one]


async def test_deleted_while_it_is_being_moved_stays_deleted(shelf: Shelf) -> None:
    execution_id = await shelf.ended(1)
    stored = await shelf.executions.read(WS, execution_id)
    assert stored is not None
    await shelf.archive.write(WS, [ArchivedExecution(execution_id, stored, [])])
    assert await shelf.executions.delete(WS, execution_id)
    await shelf.archive.hide(WS, execution_id)
    assert await shelf.lookup.stored(WS, execution_id) is None
    assert await shelf.ids() == ([], 0)


async def test_far_past_the_end_is_empty_and_reads_nothing(shelf: Shelf) -> None:
    await shelf.ended(1)
    shelf.clock.advance(2 * HOUR_MS)
    await shelf.archivist.round()
    await shelf.ended(2)
    assert await shelf.ids(PageQuery(100_000_000, 100)) == ([], 2)
