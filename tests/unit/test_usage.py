"""Usage added up: totals, parts, groups and money, from Redis, from files, and across the border between them."""

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.settings import Metering
from kernel.clock import ManualClock, epoch_ms
from kernel.errors import ValidationError
from kernel.metering import export
from kernel.metering import usage as showing
from kernel.metering.ledger import Ledger
from kernel.metering.period import Granularity, Period
from kernel.metering.tariff import Tariff
from kernel.metering.usage import GroupBy, Usage
from kernel.storage import keys
from kernel.storage import usage as storing
from kernel.storage.counts import HOUR_MS, Counts, by_kind
from kernel.storage.objects import ObjectStore
from kernel.storage.store import Store
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import UsageFiles
from tests.buckets import add_usage

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26
TARIFF = Tariff(storage_gb_month=730.0, million_calls=1.0)
"""A GB for an hour costs a dollar, and so does a million calls."""
START = epoch_ms("2024-01-01T00:00:00Z")
FIRST = START // HOUR_MS
DAYS = 4


class Shelf:
    """A workspace's usage, and all that reads and moves it."""

    def __init__(self, store: Store, folder: Path):
        self.store, self.folder = store, folder
        self.files = UsageFiles(ObjectStore(folder))
        self.stored = UsageStore(store, self.files)
        self.usage = Usage(self.stored, TARIFF)
        self.clock = ManualClock(START)
        self.ledger = Ledger(self.stored, self.files, self.clock, Metering(close_after_s=0))

    async def add(self, hour: int, **counts: int) -> None:
        """hour: since START. In names, `_` stands for `|`."""
        named = {field.replace("_", "|"): count for field, count in counts.items()}
        await add_usage(self.store, WS, FIRST + hour, named)

    async def roll(self, hours: int) -> None:
        """So many hours are over: their days go into files."""
        self.clock.advance(START + hours * HOUR_MS - self.clock.now_ms())
        await self.ledger.round()

    async def stats(
        self, hours: int = DAYS * 24, granularity: Granularity = "day", by: GroupBy | None = None
    ) -> dict[str, Any]:
        return await self.usage.stats(WS, Period(START, START + hours * HOUR_MS, granularity), by)

    async def groups(self, by: GroupBy) -> dict[str | None, dict[str, Any]]:
        return {group["value"]: group for group in (await self.stats(by=by))["groups"]}


@pytest.fixture
def shelf(store: Store, tmp_path: Path) -> Shelf:
    return Shelf(store, tmp_path)


async def test_nothing_is_zero(shelf: Shelf) -> None:
    stats = await shelf.stats()
    assert list(stats) == ["period", "usage", "costs", "granularity", "series"]
    assert set(stats["usage"].values()) == {0}
    assert stats["costs"] == {"total": 0, "breakdown": {"compute": 0, "storage": 0, "api": 0}}
    assert len(stats["series"]) == DAYS
    assert (await shelf.stats(0))["series"] == []


async def test_totals_are_the_sum_of_the_parts(shelf: Shelf) -> None:
    for hour in range(0, 96, 7):
        await shelf.add(hour, e=hour, t=10 * hour, c=100 * hour, p=1500, g=250, r=3, n=1, i=5_000_000)
    for granularity in ("hour", "day", "week", "month"):
        stats = await shelf.stats(granularity=granularity)
        for name, total in stats["usage"].items():
            assert sum(part["usage"][name] for part in stats["series"]) == pytest.approx(total), name
        costs = [part["costs"]["total"] for part in stats["series"]]
        assert sum(costs) == pytest.approx(stats["costs"]["total"])
    executions = sum(range(0, 96, 7))
    assert stats["usage"] == {
        "executions": executions,
        "tokens": 10 * executions,
        "storage_mb": 0,
        "api_calls": 42,
        "cpu_seconds": 21.0,
        "gpu_seconds": 3.5,
        "ingested_mb": 70.0,
        "unpriced_executions": 0,
        "late_executions": 14,
        "embedding_tokens": 0,
        "unpriced_embeddings": 0,
    }
    assert stats["costs"]["breakdown"] == {
        "compute": round(executions / 10_000, 6),
        "storage": 0,
        "api": 0.000042,
    }


async def test_files_that_were_written_before_something_was_counted_have_none_of_it(shelf: Shelf) -> None:
    await shelf.add(0, e=3, t=5, e_a_x=3)
    await shelf.roll(48)
    path = next(shelf.folder.rglob("day.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["embedded", "embedded_cost"]), path)
    stats = await shelf.stats(by="agent")
    assert (stats["usage"]["executions"], stats["usage"]["embedding_tokens"]) == (3, 0)
    assert stats["groups"][0]["usage"]["tokens"] == 0


async def test_hours_count_where_they_begin(shelf: Shelf) -> None:
    await shelf.add(0, e=1)
    await shelf.add(1, e=10)
    half = HOUR_MS // 2
    stats = await shelf.usage.stats(WS, Period(START + half, START + HOUR_MS + half, "hour"))
    assert [part["usage"]["executions"] for part in stats["series"]] == [0, 10]


class TestStorage:
    async def test_is_the_mean_of_the_means_of_sampled_hours(self, shelf: Shelf) -> None:
        await shelf.add(0, b=30_000_000, s=3)
        await shelf.add(1, b=40_000_000, s=1)
        await shelf.add(5, e=1)
        stats = await shelf.stats(granularity="hour")
        assert stats["usage"]["storage_mb"] == 25
        assert [part["usage"]["storage_mb"] for part in stats["series"][:3]] == [10, 40, 0]

    async def test_costs_by_the_hour(self, shelf: Shelf) -> None:
        await shelf.add(0, b=3_000_000_000, s=3)
        await shelf.add(30, b=500_000_000, s=1)
        stats = await shelf.stats()
        assert stats["costs"] == {"total": 1.5, "breakdown": {"compute": 0, "storage": 1.5, "api": 0}}
        assert [part["costs"]["total"] for part in stats["series"]] == [1, 0.5, 0, 0]


class TestUnknownCosts:
    async def test_all_unknown_is_null(self, shelf: Shelf) -> None:
        await shelf.add(0, e=2, u=2, r=1_000_000)
        stats = await shelf.stats()
        costs = {"total": None, "breakdown": {"compute": None, "storage": 0, "api": 1}}
        assert stats["costs"] == stats["series"][0]["costs"] == costs
        assert stats["series"][1]["costs"]["total"] == 0

    async def test_some_unknown_are_counted_beside_what_is_known(self, shelf: Shelf) -> None:
        await shelf.add(0, e=2, u=1, c=1_250_000)
        stats = await shelf.stats()
        assert (stats["costs"]["total"], stats["usage"]["unpriced_executions"]) == (1.25, 1)

    async def test_a_model_without_a_price_is_null(self, shelf: Shelf) -> None:
        await shelf.add(0, e=2, t=9, c=50, u=1, t_m_free=4, t_m_new=5, u_m_new=1)
        groups = await shelf.groups("model")
        assert groups["free"]["costs"]["breakdown"]["compute"] == 0
        assert groups["new"]["costs"] == {
            "total": None,
            "breakdown": {"compute": None, "storage": 0, "api": 0},
        }


class TestLoad:
    @pytest.mark.parametrize(("by", "hours"), [(None, 96), ("agent", 6), ("label", 2)])
    async def test_a_script_reads_as_many_hours_as_others_can_wait_for(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, by: GroupBy | None, hours: int
    ) -> None:
        read: list[int] = []
        run = shelf.store.run

        async def counted(script: str, *args: Any) -> Any:
            read.append(args[3] - args[2] + 1)
            return await run(script, *args)

        monkeypatch.setattr(shelf.store, "run", counted)
        await shelf.stats(by=by)
        assert max(read) == hours
        assert sum(read) == 96

    async def test_two_grouped_reads_at_once(self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        now = most = 0
        parts = shelf.stored.parts

        async def watched(*args: Any) -> Any:
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            async for part in parts(*args):
                yield part
            now -= 1

        monkeypatch.setattr(shelf.stored, "parts", watched)
        await asyncio.gather(*(shelf.stats(by="agent") for _ in range(5)))
        assert (now, most) == (0, 2)
        await asyncio.gather(*(shelf.stats() for _ in range(5)))
        assert most == 5


class TestGroups:
    async def test_are_dearest_first_with_the_rest_as_null(self, shelf: Shelf) -> None:
        await shelf.add(0, e=10, c=600, t=60, r=7, e_a_x=2, c_a_x=100, t_a_x=10, e_a_y=3, c_a_y=300)
        await shelf.add(40, e=5, c=50, e_a_x=5, c_a_x=50)
        stats = await shelf.stats(by="agent")
        assert list(stats)[-2:] == ["group_by", "groups"]
        found = [(group["value"], group["usage"]["executions"]) for group in stats["groups"]]
        assert found == [("y", 3), (None, 5), ("x", 7)]
        x, rest = stats["groups"][2], stats["groups"][1]
        assert x["costs"]["total"] == 0.00015
        assert (x["usage"]["tokens"], x["usage"]["api_calls"], x["usage"]["storage_mb"]) == (10, None, None)
        assert (rest["usage"]["tokens"], rest["usage"]["api_calls"]) == (50, 7)

    @pytest.mark.parametrize("by", ["agent", "key", "model", "label", "collection"])
    async def test_sum_up_to_the_total(self, shelf: Shelf, by: GroupBy) -> None:
        letter = showing.KINDS[by].letter
        for hour in (0, 30, 90):
            own = {"t": 40, "c": 400} if by != "collection" else {"x": 40, "y": 400_000, "b": 10, "s": 1}
            counts = {"e": 9, "t": 90, "c": 900, "r": 4, "b": 100, "s": 1, "x": 50, "y": 500_000}
            await shelf.add(hour, **counts, **{f"{name}_{letter}_v": count for name, count in own.items()})
        stats = await shelf.stats(by=by)
        for name in ("tokens", "api_calls", "executions", "embedding_tokens", "storage_mb"):
            of_groups = sum(group["usage"][name] or 0 for group in stats["groups"])
            assert of_groups == pytest.approx(stats["usage"][name]), name
        total = sum(group["costs"]["total"] for group in stats["groups"])
        assert total == pytest.approx(stats["costs"]["total"])

    @pytest.mark.parametrize("rolled", [False, True])
    async def test_collections_have_what_they_took_in_embedded_and_store(
        self, shelf: Shelf, rolled: bool
    ) -> None:
        """A sample an hour stands for the others of the hour, also where hours of a day are added up at once."""
        for hour, samples in ((0, 1), (1, 3), (2, 0)):
            of = {
                "b_o_x": 2_000_000_000 * samples,
                "s_o_x": samples,
                "b": 3_000_000_000 * samples,
                "s": samples,
            }
            await shelf.add(hour, i=7_000_000, i_o_x=5_000_000, x=30, y=9_000, x_o_x=20, y_o_x=6_000, **of)
        if rolled:
            await shelf.roll(48)
        groups = await shelf.groups("collection")
        usage, costs = groups["x"]["usage"], groups["x"]["costs"]
        assert (usage["ingested_mb"], usage["embedding_tokens"], usage["storage_mb"]) == (15, 60, 2000)
        assert costs == {"total": 4.000018, "breakdown": {"compute": 0.000018, "storage": 4, "api": 0}}
        assert (usage["executions"], usage["tokens"]) == (None, None)
        assert groups[None]["usage"]["storage_mb"] == 1000
        assert groups[None]["costs"]["total"] == 2.000009

    async def test_embeddings_by_model_stand_beside_the_tokens_of_executions(self, shelf: Shelf) -> None:
        await shelf.add(0, t=5, c=50, x=4, y=2_000, t_m_chat=5, c_m_chat=50, x_m_ada=4, y_m_ada=2_000)
        await shelf.add(1, x=3, z=1, x_m_new=3, z_m_new=1)
        stats, groups = await shelf.stats(by="model"), await shelf.groups("model")
        assert (stats["usage"]["tokens"], stats["usage"]["embedding_tokens"]) == (5, 7)
        assert (stats["costs"]["total"], stats["usage"]["unpriced_embeddings"]) == (0.000052, 1)
        assert groups["ada"]["usage"]["embedding_tokens"] == 4
        assert groups["ada"]["costs"]["total"] == 0.000002
        assert groups["new"]["costs"]["total"] is None

    async def test_keys_have_their_calls(self, shelf: Shelf) -> None:
        await shelf.add(0, r=10, r_k_one=7)
        groups = await shelf.groups("key")
        assert (groups["one"]["usage"]["api_calls"], groups[None]["usage"]["api_calls"]) == (7, 3)
        assert groups["one"]["costs"]["breakdown"]["api"] == 0.000007

    async def test_an_execution_counts_for_each_label_and_those_without_any_apart(self, shelf: Shelf) -> None:
        both = {"e|l|team=a": 4, "e|l|run=1": 4, "e|l|": 3}
        await add_usage(shelf.store, WS, FIRST, {"e": 7} | both)
        groups = await shelf.groups("label")
        counted = {value: group["usage"]["executions"] for value, group in groups.items()}
        assert counted == {"team=a": 4, "run=1": 4, None: 3}

    async def test_values_may_look_like_fields(self, shelf: Shelf) -> None:
        await add_usage(shelf.store, WS, FIRST, {"e": 2, "e|l|x=|a|b": 1, "e|l|*=[é]": 1, "e|a|agent": 2})
        assert set(await shelf.groups("label")) == {"x=|a|b", "*=[é]"}
        assert set(await shelf.groups("agent")) == {"agent"}

    async def test_only_so_many_have_a_name(self, shelf: Shelf) -> None:
        many = {f"e|l|n={number}": 1 + number for number in range(1_500)}
        await add_usage(shelf.store, WS, FIRST, {"e": 2_000_000, "e|l|(other)": 5, "e|l|": 1} | many)
        groups = await shelf.groups("label")
        assert len(groups) == 1_002
        assert "n=499" not in groups
        assert groups["(other)"]["usage"]["executions"] == 5 + sum(range(1, 501))
        assert groups[None]["usage"]["executions"] == 1

    async def test_memory_is_bounded_while_adding_up(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(showing, "MOST_KEPT", 10)
        for hour in (0, 30, 60):
            once = {f"e|l|id={hour + number}": 1 for number in range(8)}
            await add_usage(shelf.store, WS, FIRST + hour, {"e": 8, "e|l|big=1": 8, "c|l|big=1": 8} | once)
        groups = await shelf.groups("label")
        assert groups["big=1"]["usage"]["executions"] == 24
        assert sum(group["usage"]["executions"] for group in groups.values()) == 48
        assert len(groups) <= 12


class TestFiles:
    """The same questions, answered from files."""

    async def fill(self, shelf: Shelf) -> None:
        for hour in range(DAYS * 24):
            if hour % 24 != 5 and hour // 24 != 1:
                await shelf.add(
                    hour,
                    **{"e": 5, "t": 50 + hour, "c": hour, "u": 1, "n": 1, "b": 3_000_001, "s": 3, "r": 9},
                    **{"e_a_x": 2, "c_a_x": 1, "e_a_y": 1, "r_k_k1": 9, "t_m_gpt-4": 20, "e_l_team=ü": 1},
                )

    @pytest.mark.parametrize("granularity", ["hour", "day", "week", "month"])
    async def test_answers_do_not_change_when_days_move(self, shelf: Shelf, granularity: Granularity) -> None:
        await self.fill(shelf)
        asked = [(hours, by) for hours in (96, 61) for by in (None, "agent", "key", "model", "label")]
        before = [await shelf.stats(hours, granularity, by) for hours, by in asked]
        period = Period(START + 5 * HOUR_MS, START + 61 * HOUR_MS, granularity)
        rows = await shelf.usage.rows(WS, period, "agent")
        await shelf.roll(80)
        assert await shelf.stored.rolled(WS) == FIRST + 72
        for _ in range(2):
            assert [await shelf.stats(hours, granularity, by) for hours, by in asked] == before
            assert await shelf.usage.rows(WS, period, "agent") == rows

    async def test_days_in_memory_are_bounded(self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        await self.fill(shelf)
        await shelf.roll(96)
        before = await shelf.stats()
        monkeypatch.setattr("kernel.storage.usage_files.KEPT_BYTES", 40_000)
        files = UsageFiles(shelf.files._objects)
        usage = Usage(UsageStore(shelf.store, files), TARIFF)
        assert await usage.stats(WS, Period(START, START + 96 * HOUR_MS)) == before
        assert 0 < files._size <= 40_000
        assert files._size == sum(day.size for day in files._days.values())

    async def test_a_reader_races_the_move(self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between two steps of one reader a day goes from Redis to its file, again and again."""
        await self.fill(shelf)
        expected = await shelf.stats(by="agent")
        monkeypatch.setattr(storing, "GROUPED_AT_ONCE", 7)
        reads = shelf.stored._recent
        moved = iter((24, 49, 77, 96))

        async def meanwhile(*asked: Any) -> Any:
            answer = await reads(*asked)
            if (hours := next(moved, None)) is not None:
                await shelf.roll(hours)
            return answer

        monkeypatch.setattr(shelf.stored, "_recent", meanwhile, raising=False)
        assert await shelf.stats(by="agent") == expected
        assert await shelf.stored.rolled(WS) == FIRST + 96

    async def test_readers_beside_the_ledger(self, shelf: Shelf) -> None:
        await self.fill(shelf)
        expected = await shelf.stats(granularity="hour", by="agent")

        async def read() -> None:
            for _ in range(10):
                assert await shelf.stats(granularity="hour", by="agent") == expected

        await asyncio.gather(read(), read(), shelf.roll(96))


class TestExport:
    async def rows(self, shelf: Shelf, by: GroupBy | None = None) -> list[dict[str, str]]:
        data = export.file(await shelf.usage.rows(WS, self.period, by), by is not None, "csv")
        return list(csv.DictReader(io.StringIO(data.decode(), newline="")))

    period = Period(START, START + 48 * HOUR_MS, "day")

    async def test_a_row_for_each_part(self, shelf: Shelf) -> None:
        await shelf.add(0, e=1, t=2, c=3_000_000)
        rows = await self.rows(shelf)
        assert len(rows) == 2
        assert list(rows[0]) == ["start", "end", *showing.SOURCES, "compute", "storage", "api", "total"]
        assert (rows[0]["start"], rows[0]["end"]) == ("2024-01-01T00:00:00.000Z", "2024-01-02T00:00:00.000Z")
        assert (rows[0]["executions"], rows[0]["total"], rows[1]["executions"]) == ("1", "3.0", "0")

    async def test_a_row_for_each_group_that_used_something(self, shelf: Shelf) -> None:
        await shelf.add(0, e=3, c=3, e_a_x=1, c_a_x=3)
        await shelf.add(24, e=1, e_a_y=1, u=1, u_a_y=1)
        rows = await self.rows(shelf, "agent")
        found = [(row["start"][:10], row["group"], row["executions"], row["total"]) for row in rows]
        assert found == [
            ("2024-01-01", "x", "1", "3e-06"),
            ("2024-01-01", "", "2", "0.0"),
            ("2024-01-02", "y", "1", ""),
        ]

    async def test_formulas_are_text(self, shelf: Shelf) -> None:
        labels = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", 'a"b,c=1', "plain=1"]
        await add_usage(shelf.store, WS, FIRST, {f"e|l|{label}": 1 for label in labels} | {"e": 8})
        found = {row["group"] for row in await self.rows(shelf, "label")}
        assert found == {"'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", 'a"b,c=1', "plain=1"}

    @pytest.mark.parametrize("by", [None, "label"])
    async def test_parquet_holds_the_same(self, shelf: Shelf, by: GroupBy | None) -> None:
        await add_usage(shelf.store, WS, FIRST, {"e": 4, "c": 5_000_000, "e|l|=1": 1, "b": 8_000_000, "s": 2})
        rows = await shelf.usage.rows(WS, self.period, by)
        table = pq.read_table(io.BytesIO(export.file(rows, by is not None, "parquet"))).to_pylist()
        assert len(table) == len(rows) == 2
        first = table[0]
        assert (int(first["start"].timestamp() * 1000), first["executions"], first["total"]) == (
            START,
            3 if by else 4,
            5.004,
        )
        if by:
            assert [row["group"] for row in table] == [None, "=1"]

    async def test_no_rows_are_a_table_too(self, shelf: Shelf) -> None:
        table = pq.read_table(io.BytesIO(export.file([], True, "parquet")))
        assert table.num_rows == 0
        assert table.column_names[2] == "group"

    async def test_too_many_rows_are_refused(self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(showing, "MOST_ROWS", 5)
        for hour in range(6):
            await shelf.add(hour, e=1, e_a_x=1)
        period = Period(START, START + 24 * HOUR_MS, "hour")
        assert len(await shelf.usage.rows(WS, self.period, "agent")) == 1
        with pytest.raises(ValidationError) as refused:
            await shelf.usage.rows(WS, period, "agent")
        assert refused.value.details["field"] == "granularity"

    def test_the_name_says_the_days(self) -> None:
        assert export.file_name(self.period, "parquet") == "usage-2024-01-01-2024-01-03.parquet"


class TestCounts:
    def test_what_is_not_known_is_not_lost_unseen(self) -> None:
        with pytest.raises(ValueError, match="metrics: zz"):
            by_kind([("e", 1), ("zz", 2)])
        with pytest.raises(ValueError, match="kind: q"):
            by_kind([("e|q|x", 1)])

    def test_a_rest_is_never_below_zero(self) -> None:
        assert Counts(executions=1, tokens=5).minus(Counts(executions=2, tokens=3)) == Counts(tokens=2)


async def test_workspaces_are_found_by_their_record(shelf: Shelf) -> None:
    names = {f"ws_{number:026}" for number in range(40)}
    for name in names:
        await shelf.store.call("HSET", keys.key("workspace", name), "name", "x")
    fake = keys.key("executions_by", WS, field="label", value="x=:ws_1:workspace")
    await shelf.store.call("ZADD", fake, 0, "x")
    assert {name async for name in shelf.stored.workspaces()} == names
