"""Hours close, days move to files, and nothing is lost or counted twice, wherever it is cut off."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.settings import Metering
from kernel.clock import ManualClock, SystemClock, epoch_ms, rfc3339
from kernel.knowledge.spec import folder as collection_folder
from kernel.metering.ledger import Ledger
from kernel.metering.sampler import Sampler, objects_of
from kernel.storage import keys
from kernel.storage.counts import DAY, HOUR_MS, Counts
from kernel.storage.objects import ObjectStore
from kernel.storage.store import Store
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import UsageFiles
from tests.buckets import add_usage

pytestmark = pytest.mark.anyio

WS, OTHER = "ws_" + "0" * 26, "ws_" + "1" * 26
START = epoch_ms("2024-01-01T00:00:00Z")
FIRST = START // HOUR_MS
GRACE_S = 600
DAY_MS = 24 * HOUR_MS


class Cut(Exception):
    """The process ends here."""


class House:
    """A ledger over a store and a folder; `again` is the next process over the same."""

    def __init__(self, store: Store, clock: ManualClock, folder: Path):
        self.store, self.clock, self.folder = store, clock, folder
        self.objects = ObjectStore(folder)
        files = UsageFiles(self.objects)
        self.usage = UsageStore(store, files)
        self.ledger = Ledger(self.usage, files, clock, Metering(close_after_s=GRACE_S))

    def again(self) -> "House":
        return House(self.store, self.clock, self.folder)

    async def add(self, hour: int, ws: str = WS, **counts: int) -> None:
        await add_usage(self.store, ws, FIRST + hour, {f.replace("_", "|"): n for f, n in counts.items()})

    async def round_at(self, hours: float) -> None:
        self.clock.advance(START + int(hours * HOUR_MS) - self.clock.now_ms())
        await self.ledger.round()

    async def read(self, ws: str = WS) -> dict[int, Counts]:
        """All usage, by hours since START."""
        found: dict[int, Counts] = {}
        async for hours, part in self.usage.parts(ws, range(FIRST, FIRST + 40 * DAY)):
            for hour in part.totals.keys() & set(hours):
                assert hour - FIRST not in found
                found[hour - FIRST] = part.totals[hour]
        return found

    async def metered(self, ws: str = WS) -> int | None:
        """The oldest hour that is noted, since START."""
        score = await self.store.call("ZSCORE", keys.shard_key("metered", keys.shard_of(ws)), ws)
        return None if score is None else int(float(score)) - FIRST

    async def sample_at(self, hour: int) -> None:
        await self.usage.sample(WS, START + hour * HOUR_MS, 1, {})

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.parquet"))


async def no_vectors(workspace_id: str) -> dict[str, int]:
    return {}


@pytest.fixture
def house(store: Store, tmp_path: Path) -> House:
    return House(store, ManualClock(START), tmp_path)


def named(day: str, file: str, ws: str = WS) -> str:
    return f"usage/workspace={ws}/day={day}/{file}.parquet"


async def test_hours_are_written_once_they_are_closed(house: House) -> None:
    await house.add(0, e=1, t=2, e_a_x=1)
    await house.add(2, e=4)
    await house.round_at(1 + 1 / 7)
    assert house.files() == []
    await house.round_at(1 + 1 / 6)
    assert house.files() == [named("2024-01-01", "hour-00")]
    await house.round_at(3.5)
    assert house.files() == [named("2024-01-01", "hour-00"), named("2024-01-01", "hour-02")]
    rows = pq.read_table(house.folder / house.files()[0]).to_pylist()
    assert [(row["kind"], row["value"], row["executions"], row["tokens"]) for row in rows] == [
        ("total", "", 1, 2),
        ("agent", "x", 1, 0),
    ]
    assert rows[0]["hour"].isoformat() == "2024-01-01T00:00:00+00:00"
    assert await house.metered() == 0


async def test_a_day_becomes_one_file_and_leaves_redis(house: House) -> None:
    for hour in (0, 13, 23, 24):
        await house.add(hour, e=hour + 1, t=1, e_k_y=1)
    before = await house.read()
    await house.round_at(23.9)
    await house.round_at(24.1)
    assert named("2024-01-01", "day") not in house.files()
    await house.round_at(24.2)
    assert house.files() == [named("2024-01-01", "day")]
    assert await house.store.call("EXISTS", *(_bucket(hour) for hour in (0, 13, 23))) == 0
    assert await house.metered() == 24
    assert await house.read() == before
    assert await house.again().read() == before


async def test_a_workspace_with_nothing_left_is_not_looked_at(house: House) -> None:
    await house.add(5, e=1)
    await house.round_at(30)
    assert await house.metered() is None
    await house.add(31, e=1)
    await house.round_at(60)
    assert await house.metered() is None
    assert await house.read() == {5: Counts(executions=1), 31: Counts(executions=1)}


async def test_a_mark_without_a_bucket_goes(house: House) -> None:
    await house.store.call("ZADD", keys.shard_key("metered", keys.shard_of(WS)), FIRST, WS)
    await house.round_at(3)
    assert await house.metered() is None


async def test_many_days_at_once(house: House) -> None:
    days = (0, 1, 5, 20)
    for day in days:
        await house.add(day * DAY + 3, e=day + 1)
        await house.add(day * DAY + 3, OTHER, e=7)
    await house.round_at(30 * DAY)
    dates = ("2024-01-01", "2024-01-02", "2024-01-06", "2024-01-21")
    assert house.files() == sorted(named(date, "day", ws) for date in dates for ws in (WS, OTHER))
    assert await house.read() == {day * DAY + 3: Counts(executions=day + 1) for day in days}
    assert await house.read(OTHER) == {day * DAY + 3: Counts(executions=7) for day in days}


async def test_hours_before_the_first_noted_one_are_not_lost(house: House) -> None:
    """Two ends at the change of an hour may come in the other order."""
    await house.add(24, e=1)
    await house.add(23, e=2)
    assert await house.metered() == 24
    await house.round_at(49)
    assert house.files() == [named("2024-01-01", "day"), named("2024-01-02", "day")]
    assert await house.read() == {23: Counts(executions=2), 24: Counts(executions=1)}


class TestClosing:
    async def test_what_is_late_goes_to_the_first_open_hour(self, house: House) -> None:
        await house.sample_at(2)
        await house.round_at(3.5)
        for hour in (0, 2, 3, 4):
            await house.sample_at(hour)
        counted = {hour: counts.samples for hour, counts in (await house.read()).items()}
        assert counted == {2: 1, 3: 3, 4: 1}

    async def test_a_clock_that_goes_back_opens_nothing(self, house: House) -> None:
        await house.sample_at(2)
        await house.round_at(10.5)
        await house.round_at(4.5)
        await house.sample_at(8)
        assert set(await house.read()) == {2, 10}

    async def test_late_usage_after_a_day_has_moved(self, house: House) -> None:
        await house.sample_at(3)
        await house.round_at(26.5)
        await house.sample_at(20)
        assert set(await house.read()) == {3, 26}
        await house.round_at(50)
        assert set(await house.again().read()) == {3, 26}

    async def test_what_is_closed_already_is_not_written_again(self, house: House) -> None:
        await house.add(0, e=1)
        await house.round_at(2)
        changed = (house.folder / house.files()[0]).stat().st_mtime_ns
        await house.ledger.round()
        await house.again().ledger.round()
        assert (house.folder / house.files()[0]).stat().st_mtime_ns == changed


class TestCuts:
    async def test_a_round_may_end_anywhere(self, house: House) -> None:
        """Before and after each thing that a round does, it is cut off; the next process goes on from there."""
        cuts = 0
        for number in itertools.count():
            await house.store.call("FLUSHALL")
            await house.objects.delete_folder("usage")
            for hour in (1, 5, 30, 50):
                await house.add(hour, e=hour, e_a_x=1)
            await house.round_at(6.5)
            before = await house.read()
            cut = await _cut_at(house, number, lambda doomed: doomed.round_at(51.5))
            assert await house.again().read() == before
            await house.again().ledger.round()
            assert await house.again().read() == before
            assert house.files() == [
                named("2024-01-01", "day"),
                named("2024-01-02", "day"),
                named("2024-01-03", "hour-02"),
            ]
            assert await house.metered() == 50
            if not cut:
                break
            cuts += 1
        assert cuts > 12

    @pytest.mark.parametrize("step", ["bucket", "rolled"])
    async def test_two_processes_at_once(
        self, house: House, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """One is held up while it moves a day, and the other moves that day meanwhile."""
        for hour in (1, 5):
            await house.add(hour, e=hour)
        before, slow = await house.read(), house.again()
        take = getattr(slow.usage, step)

        async def held_up(*args: Any) -> Any:
            found = await take(*args)
            await house.ledger.round()
            return found

        monkeypatch.setattr(slow.usage, step, held_up)
        await slow.round_at(30)
        assert await house.again().read() == before
        assert house.files() == [named("2024-01-01", "day")]


async def _cut_at(house: House, number: int, act: Callable[[House], Awaitable[None]]) -> bool:
    """Whether it was: the act may have fewer steps."""
    doomed = house.again()
    steps = itertools.count()

    def cutting(do: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def step(*args: Any) -> Any:
            if next(steps) == number:
                raise Cut
            answer = await do(*args)
            if next(steps) == number:
                raise Cut
            return answer

        return step

    for name in ("put", "delete", "names"):
        setattr(doomed.objects, name, cutting(getattr(doomed.objects, name)))
    for name in ("close", "forget", "bucket"):
        setattr(doomed.usage, name, cutting(getattr(doomed.usage, name)))
    try:
        await act(doomed)
    except Cut:
        return True
    return False


@pytest.mark.parametrize("bad", [WS, OTHER])
async def test_one_bad_workspace_does_not_stop_the_others(house: House, bad: str) -> None:
    """Wherever in the order it comes."""
    good = OTHER if bad == WS else WS
    await house.add(0, ws=good, e=1)
    await house.add(0, ws=bad, e=1)
    await house.store.call("HSET", keys.key("usage", bad, hour=str(FIRST)), "t", "none")
    await house.round_at(30)
    assert house.files() == [named("2024-01-01", "day", good)]
    await house.store.call("HSET", keys.key("usage", bad, hour=str(FIRST)), "t", "2")
    await house.round_at(31)
    assert len(house.files()) == 2


class TestSampler:
    async def test_every_workspace_is_weighed(self, house: House) -> None:
        for ws in (WS, OTHER):
            await house.store.call("HSET", keys.key("workspace", ws), "name", "x")
        await house.objects.put(f"archive/{WS}/a.parquet", b"x" * 1_000)
        await house.objects.put(f"executions/{WS}/exec_1/deep/er", b"x" * 400)
        await house.objects.put(f"{collection_folder(WS, 'col_1', 'uploads')}/upload_1", b"x" * 60)
        await house.objects.put(f"{collection_folder(WS, 'col_1', 'jobs')}/job_1/sources", b"x" * 40)
        await house.objects.put(f"usage/workspace={WS}/day=2023-12-31/day.parquet", b"x" * 50)
        await house.objects.put(f"archive/{OTHER}/a.parquet", b"x" * 7)
        sampler = Sampler(house.usage, (objects_of(house.objects),), no_vectors, house.clock)
        await sampler.round()
        await house.objects.put(f"archive/{OTHER}/b.parquet", b"x" * 3)
        await sampler.round()
        assert await house.read() == {0: Counts(stored=3_100, samples=2)}
        assert await house.read(OTHER) == {0: Counts(stored=17, samples=2)}

    async def test_one_that_fails_does_not_keep_the_others_from_it(self, house: House) -> None:
        for ws in (WS, OTHER):
            await house.store.call("HSET", keys.key("workspace", ws), "name", "x")

        async def broken(workspace_id: str) -> int:
            if workspace_id == WS:
                raise ValueError("no numbers")
            return 3

        await Sampler(house.usage, (broken,), no_vectors, house.clock).round()
        assert (await house.read(), await house.read(OTHER)) == ({}, {0: Counts(stored=3, samples=1)})

    async def test_vectors_add_up_and_are_noted_by_collection(self, house: House) -> None:
        await house.store.call("HSET", keys.key("workspace", WS), "name", "x")
        await house.objects.put(f"archive/{WS}/a.parquet", b"x" * 100)

        async def vectors(workspace_id: str) -> dict[str, int]:
            return {"col_1": 40, "col_2": len(workspace_id)}

        sampler = Sampler(house.usage, (objects_of(house.objects),), vectors, house.clock)
        for _ in range(2):
            await sampler.round()
        assert (await house.read())[0].stored == 2 * (100 + 40 + len(WS))
        bucket = await house.usage.bucket(WS, FIRST)
        assert (bucket["b|o|col_1"], bucket["s|o|col_1"], bucket["b|o|col_2"]) == (80, 2, 2 * len(WS))

    async def test_the_weight_in_redis_is_near_what_it_takes(self, house: House) -> None:
        assert await house.usage.weigh(WS) == 0
        empty = await _used(house.store)
        count = 400
        for number in range(count):
            execution = f"exec_{number:026}"
            for name in ("executions", "execution", "nodes"):
                key = keys.key(name, WS, **({} if name == "executions" else {"id": execution}))
                if name == "executions":
                    await house.store.call("ZADD", key, 0, execution)
                else:
                    await house.store.call("HSET", key, "spec", "x" * 3_000)
        taken = await _used(house.store) - empty
        assert 0.7 * taken < await house.usage.weigh(WS) < 1.5 * taken

    async def test_collections_jobs_and_counts_weigh_too(self, house: House) -> None:
        await house.store.call("ZADD", keys.key("collections", WS), 0, "col_1")
        await house.store.call("ZADD", keys.key("jobs", WS), 0, "job_1")
        await house.store.call("ZADD", keys.shard_key("metered", keys.shard_of(WS)), FIRST, WS)
        today = SystemClock().now_ms()
        fields = [part for number in range(2_000) for part in (f"name {number:05}", "1" * 40)]
        for name, parts in [
            ("documents", {"id": "col_1"}),
            ("job_documents", {"id": "job_1", "outcome": "done"}),
            ("usage", {"hour": str(FIRST + 30)}),
            ("spend", {"period": rfc3339(today)[:10]}),
            ("spend", {"period": rfc3339(today - 25 * DAY_MS)[:7]}),
        ]:
            before, at = await house.usage.weigh(WS), keys.key(name, WS, **parts)
            await house.store.call("RPUSH" if name == "job_documents" else "HSET", at, *fields)
            taken = await house.store.call("MEMORY", "USAGE", at, "SAMPLES", 0)
            assert 0.8 * taken < await house.usage.weigh(WS) - before < 1.2 * taken, name


async def _used(store: Store) -> int:
    lines = (await store.call("INFO", "memory")).decode().splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith("used_memory_dataset:"))


def _bucket(hour: int) -> str:
    return keys.key("usage", WS, hour=str(FIRST + hour))
