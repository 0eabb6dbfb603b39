"""What an end counts, in the step that ends it: usage of its hour, spend of its day and month, and free slots."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from actors.supervisor import Supervisor
from kernel.executions.performer import LOST_PROBLEM, lost_event
from kernel.executions.record import NodeRecord, Totals, Use
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.archive import Archive, ArchivedExecution, Span
from kernel.storage.executions import Creation, Ending, ExecutionStore
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import Claim, QueueStore
from kernel.storage.store import Store

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26
HOUR_MS = 3_600_000
NOW = 1_764_072_000_000
"""2025-11-25 12:00 UTC."""
LATER = 2 * NOW
"""When leases have ended."""
SPENT = {"t": 12, "c": 1500, "p": 3, "g": 0, "m": {"m1": [12, 1000]}}


class Desk:
    """Executions of one workspace, and what is counted of them."""

    def __init__(self, store: Store):
        self.store, self.executions, self.queue = store, ExecutionStore(store), QueueStore(store)

    async def accept(self, agent: str = "", key: str = "key_1", **more: Any) -> str:
        execution_id = new_id("exec")
        if agent:
            await self.store.call(
                "HSET", keys.key("agent", WS, id=agent), "version", "1.0.0", "status", "active"
            )
        order = (WS, execution_id, agent, "", b"{}", "normal", NOW, b"{}")
        await self.executions.create(Creation(*order, key_id=key, **more))  # type: ignore[arg-type]
        return execution_id

    async def claim(self) -> Claim:
        (claim,) = await self.queue.claim(keys.shard_of(WS), "r1", 60_000, 1)
        return claim

    async def end(
        self, claim: Claim, spent: Any = None, status: Any = "completed", at: int = NOW, **facts: bytes
    ) -> bool:
        told = {"tokens_used": b"0"} | facts | ({"spent": orjson.dumps(spent)} if spent is not None else {})
        where = (WS, claim.execution_id, claim.epoch, claim.seq, at)
        return await self.executions.commit(*where, [b"{}"], {}, Ending(status, told))

    async def journal(self, claim: Claim, nodes: Mapping[str, bytes]) -> None:
        where = (WS, claim.execution_id, claim.epoch, claim.seq, NOW)
        assert await self.executions.commit(*where, [b"{}"], nodes)

    async def lose(self, most: int = 5) -> None:
        await self.queue.reclaim(most, LOST_PROBLEM, lost_event(NOW), LATER)

    async def ended(self, spent: Any = None, at: int = NOW, **order: Any) -> str:
        execution_id = await self.accept(**order)
        assert await self.end(await self.claim(), spent, at=at)
        return execution_id

    async def usage(self, hour: int = NOW // HOUR_MS) -> dict[str, int]:
        return await self.counts("usage", hour=str(hour))

    async def spend(self, period: str) -> dict[str, int]:
        return await self.counts("spend", period=period)

    async def counts(self, name: str, **parts: str) -> dict[str, int]:
        flat = await self.store.call("HGETALL", keys.key(name, WS, **parts))
        return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}

    async def slots(self) -> int:
        return int(await self.store.call("SCARD", keys.key("active", WS)))


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


async def test_all_that_was_used_is_counted_by_all_it_belongs_to(desk: Desk) -> None:
    await desk.ended(SPENT, agent="agent_1", labels=("team=a|b", "x=y"))
    each = {"e": 1, "t": 12, "c": 1500, "p": 3}
    tails = ("", "|a|agent_1", "|k|key_1", "|l|team=a|b", "|l|x=y")
    expected = {metric + tail: count for tail in tails for metric, count in each.items()}
    assert await desk.usage() == expected | {"t|m|m1": 12, "c|m|m1": 1000}
    spent = {"t": 12, "c": 1500, "c|a|agent_1": 1500, "c|k|key_1": 1500}
    assert (await desk.spend("2025-11-25"), await desk.spend("2025-11")) == (spent, spent)


async def test_the_workspace_is_known_to_have_usage(desk: Desk) -> None:
    await desk.ended()
    metered = keys.shard_key("metered", keys.shard_of(WS))
    assert await desk.store.call("ZSCORE", metered, WS) == str(NOW // HOUR_MS).encode()


async def test_what_used_nothing_is_only_counted(desk: Desk) -> None:
    await desk.ended()
    assert await desk.usage() == {"e": 1, "e|k|key_1": 1, "e|l|": 1}
    assert await desk.store.call("KEYS", "*spend*") == []


async def test_sums_add_up(desk: Desk) -> None:
    for _ in range(3):
        await desk.ended(SPENT)
    usage = await desk.usage()
    assert (usage["e"], usage["t"], usage["c"], usage["c|m|m1"]) == (3, 36, 4500, 3000)
    assert await desk.spend("2025-11") == {"t": 36, "c": 4500, "c|k|key_1": 4500}


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out"])
async def test_every_end_counts_and_frees_its_slot(desk: Desk, status: str) -> None:
    await desk.accept()
    assert await desk.slots() == 1
    assert await desk.end(await desk.claim(), SPENT, status)
    assert ((await desk.usage())["t"], await desk.slots()) == (12, 0)
    assert await desk.queue.free_leaked_slots() == []


async def test_an_unknown_cost_is_counted_as_one(desk: Desk) -> None:
    await desk.ended({"t": 5, "c": None, "p": 0, "g": 7, "m": {"m1": [2, 30], "m2": [3, None]}})
    each = {"e": 1, "t": 5, "u": 1, "g": 7}
    expected = {metric + tail: count for tail in ("", "|k|key_1", "|l|") for metric, count in each.items()}
    assert await desk.usage() == expected | {"t|m|m1": 2, "c|m|m1": 30, "t|m|m2": 3, "u|m|m2": 1}
    assert await desk.spend("2025-11") == {"t": 5}


async def test_of_an_unknown_cost_the_known_part_counts(desk: Desk) -> None:
    nodes = {
        "a": NodeRecord(status="completed", uses=(call(4, 50.0), call(2, None, "m2")), machine_cost=0.25)
    }
    totals = Totals.of(nodes)
    assert totals.cost is None
    spent = orjson.loads(totals.spent())
    assert (spent["c"], spent["k"]) == (None, 50_250_000)
    execution_id = await desk.ended(spent, agent="agent_1")
    usage = await desk.usage()
    assert (usage["c"], usage["u"], usage["c|a|agent_1"], usage["c|k|key_1"]) == (
        *(50_250_000, 1),
        *(50_250_000, 50_250_000),
    )
    assert (await desk.spend("2025-11-25"))["c|a|agent_1"] == 50_250_000
    await desk.executions.delete(WS, execution_id)
    assert (await desk.counts("removed"))["2025-11-25|c"] == 50_250_000


async def test_a_repeated_end_counts_once(desk: Desk) -> None:
    await desk.accept()
    claim = await desk.claim()
    assert await desk.end(claim, SPENT)
    assert await desk.end(claim, SPENT)
    assert (await desk.usage())["e"] == 1


async def test_a_runner_that_was_shut_out_counts_nothing(desk: Desk) -> None:
    await desk.accept()
    claim = await desk.claim()
    await desk.lose()
    assert not await desk.end(claim, SPENT)
    assert await desk.usage() == {}


def call(tokens: int, cost: float | None, model: str = "m1") -> Use:
    return Use(model=model, input=1, output=tokens - 1, cached=0, cost=cost)


NODES = {
    "a": NodeRecord(
        status="completed",
        output={"uses": [1]},
        uses=(call(10, 0.0000014), call(5, 0.25, "m2")),
        cpu_seconds=0.5,
        machine_cost=0.0000052,
    ),
    "b": NodeRecord(status="running", uses=(call(7, 0.5),), cpu_seconds=0.0304, gpu_seconds=2.5),
    "c": NodeRecord(status="skipped"),
    "d": NodeRecord(
        status="completed", uses=(call(100, 9.0),), cpu_seconds=50, machine_cost=1.0, reused=True
    ),
}


async def given_up(desk: Desk, nodes: Mapping[str, NodeRecord]) -> dict[str, bytes]:
    """The record of an execution that was lost once too often when its journal said that."""
    execution_id = await desk.accept()
    await desk.journal(await desk.claim(), {name: node.encode() for name, node in nodes.items()})
    await desk.lose(most=1)
    stored = await desk.executions.read(WS, execution_id)
    assert stored is not None
    return stored.record


async def test_what_was_lost_too_often_counts_by_its_journal(desk: Desk) -> None:
    record, totals = await given_up(desk, NODES), Totals.of(NODES)
    assert (record["status"], record["error"]) == (b"failed", LOST_PROBLEM)
    assert orjson.loads(record["spent"]) == orjson.loads(totals.spent())
    assert (int(record["tokens_used"]), float(record["cost"])) == (22, 0.750007)
    assert (totals.tokens_used, totals.cost) == (22, 0.750007)
    usage = await desk.usage(LATER // HOUR_MS)
    assert {name: usage[name] for name in ("e", "t", "c", "p", "g")} == {
        "e": 1,
        "t": 22,
        "c": 750_007,
        "p": 530,
        "g": 2500,
    }
    assert (usage["t|m|m1"], usage["c|m|m1"], usage["t|m|m2"]) == (17, 500_001, 5)
    assert await desk.slots() == 0


async def test_an_unknown_price_in_the_journal(desk: Desk) -> None:
    nodes = {"a": NodeRecord(status="running", uses=(call(4, None), call(2, 0.1, "m2")))}
    record = await given_up(desk, nodes)
    assert "cost" not in record
    assert orjson.loads(record["spent"]) == orjson.loads(Totals.of(nodes).spent())
    usage = await desk.usage(LATER // HOUR_MS)
    assert (usage["t"], usage["u"], usage["c|m|m2"], usage["c"]) == (6, 1, 100_000, 100_000)


async def test_cancelled_in_the_queue_after_a_takeover(desk: Desk) -> None:
    execution_id = await desk.accept()
    await desk.journal(await desk.claim(), {"a": NODES["a"].encode()})
    await desk.lose()
    assert await desk.executions.cancel(WS, execution_id, NOW, b"{}") == "cancelled"
    stored = await desk.executions.read(WS, execution_id)
    assert stored is not None
    assert (stored.record["tokens_used"], stored.record["cost"]) == (b"15", b"0.250007")
    assert ((await desk.usage())["c"], await desk.slots()) == (250_007, 0)


async def test_cancelled_before_it_ran(desk: Desk) -> None:
    execution_id = await desk.accept()
    await desk.executions.cancel(WS, execution_id, NOW, b"{}")
    stored = await desk.executions.read(WS, execution_id)
    assert stored is not None
    assert (stored.record["tokens_used"], float(stored.record["cost"])) == (b"0", 0.0)
    assert "spent" not in stored.record
    assert await desk.usage() == {"e": 1, "e|k|key_1": 1, "e|l|": 1}


JUNK: tuple[Any, ...] = (
    None,
    7,
    "text",
    [],
    {"t": "12", "c": {}, "p": [1], "g": True, "m": 3},
    {"t": -5, "c": 1e300, "p": -0.5, "m": {"m1": 3, "m2": ["x", None], "m3": []}},
    {"m": [[1, 2]]},
)


@pytest.mark.parametrize("junk", JUNK)
async def test_a_fact_that_makes_no_sense_counts_nothing_and_stops_no_end(desk: Desk, junk: Any) -> None:
    execution_id = await desk.accept()
    assert await desk.end(await desk.claim(), spent=junk)
    assert await desk.executions.status(WS, execution_id) == "completed"
    usage = await desk.usage()
    assert (usage["e"], usage.get("t"), usage.get("c"), await desk.slots()) == (1, None, None, 0)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[" * 5000,
        b'{"uses":7,"cpu_seconds":"x","gpu_seconds":null,"machine_cost":-1}',
        b'{"uses":[null,[],{"model":{}},{"model":"m"},{"model":"m","input":"9","cost":"1"}]}',
    ],
)
async def test_a_journal_that_makes_no_sense_stops_no_end(desk: Desk, text: bytes) -> None:
    execution_id = await desk.accept()
    await desk.journal(await desk.claim(), {"a": text, "b": NODES["b"].encode()})
    await desk.lose(most=1)
    assert await desk.executions.status(WS, execution_id) == "failed"
    assert ((await desk.usage(LATER // HOUR_MS))["t"], await desk.slots()) == (7, 0)


async def test_counts_that_cannot_be_added_to_stop_no_end(desk: Desk) -> None:
    await desk.store.call("SET", keys.key("usage", WS, hour=str(NOW // HOUR_MS)), "not a hash")
    execution_id = await desk.ended(SPENT)
    assert (await desk.executions.status(WS, execution_id), await desk.slots()) == ("completed", 0)


async def test_a_full_store_still_counts(desk: Desk) -> None:
    await desk.accept()
    await desk.store.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        assert await desk.end(await desk.claim(), SPENT)
        assert (await desk.usage())["c"] == 1500
    finally:
        await desk.store.call("CONFIG", "SET", "maxmemory", "0")


async def test_an_hour_counts_a_thousand_labels(desk: Desk) -> None:
    for number in range(20):
        await desk.ended(labels=tuple(f"n={number * 50 + one}" for one in range(50)))
    await desk.ended({"t": 3, "c": 0, "p": 0, "g": 0, "m": {}}, labels=("n=7", "n=new", "n=newer"))
    usage = await desk.usage()
    assert (usage["e|l|n=7"], usage["t|l|n=7"], usage["e|l|(other)"], usage["t|l|(other)"]) == (2, 3, 1, 3)
    assert len([name for name in usage if name.startswith("e|l|")]) == 1001
    await desk.ended(at=NOW + HOUR_MS, labels=("n=new",))
    assert (await desk.usage(NOW // HOUR_MS + 1))["e|l|n=new"] == 1


async def test_an_end_in_a_closed_hour_counts_in_the_first_open_one(desk: Desk) -> None:
    hour = NOW // HOUR_MS
    await desk.store.call("SET", keys.key("usage_closed", WS), hour + 1)
    await desk.ended(SPENT)
    assert await desk.usage() == {}
    usage = await desk.usage(hour + 2)
    assert (usage["e"], usage["c"], usage["n"]) == (1, 1500, 1)
    assert (await desk.spend("2025-11-25"))["c"] == 1500


@pytest.mark.parametrize(
    "moment",
    [
        "1970-01-01T00:00:00",
        "2000-02-29T23:59:59.999",
        "2000-03-01T00:00:00",
        "2023-12-31T23:59:59.999",
        "2024-01-01T00:00:00",
        "2024-02-29T12:00:00",
        "2100-02-28T23:59:59",
        "2100-03-01T00:00:00",
        "2400-02-29T00:00:00",
        "9999-12-31T23:59:59.999",
    ],
)
async def test_days_and_months_are_those_of_utc(desk: Desk, moment: str) -> None:
    at = round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)
    await desk.ended(SPENT, at=at)
    names = {name.decode().rpartition("spend:")[2] for name in await desk.store.call("KEYS", "*:spend:*")}
    assert names == {moment[:10], moment[:7]}


async def test_spend_is_forgotten_some_time_after_its_period(desk: Desk) -> None:
    await desk.ended(SPENT)
    days = [
        await desk.store.call("TTL", keys.key("spend", WS, period=period)) / 86_400
        for period in ("2025-11-25", "2025-11")
    ]
    assert days == pytest.approx([3, 40], abs=0.01)


class TestRemoved:
    async def test_a_deleted_execution_leaves_what_it_had_counted(self, desk: Desk) -> None:
        for spent, at in ((SPENT, NOW), (None, NOW), (SPENT | {"c": None}, NOW + 86_400_000)):
            await desk.executions.delete(WS, await desk.ended(spent, at=at))
        assert await desk.counts("removed") == {
            "2025-11-25|e": 2,
            "2025-11-25|t": 12,
            "2025-11-25|c": 1500,
            "2025-11-26|e": 1,
            "2025-11-26|t": 12,
        }

    async def test_one_that_moves_to_the_archive_is_not_deleted(self, desk: Desk, tmp_path: Path) -> None:
        execution_id = await desk.ended(SPENT)
        stored = await desk.executions.read(WS, execution_id)
        assert stored is not None
        archive, archived = (
            Archive(desk.store, ObjectStore(tmp_path)),
            ArchivedExecution(execution_id, stored, []),
        )
        await archive.write(WS, [archived])
        await desk.executions.delete(WS, execution_id, archived=True)
        assert await desk.counts("removed") == {}
        await archive.erase(WS, archived)
        await archive.erase(WS, archived)
        assert await desk.counts("removed") == {"2025-11-25|e": 1, "2025-11-25|t": 12, "2025-11-25|c": 1500}
        assert await archive.count(WS, {}, Span()) == 0


class TestSweeper:
    async def test_leaked_slots_are_found_and_freed(self, desk: Desk) -> None:
        ended, running = await desk.ended(), await desk.accept()
        gone = [new_id("exec") for _ in range(600)]
        await desk.store.call("SADD", keys.key("active", WS), ended, *gone)
        found = await desk.queue.free_leaked_slots()
        assert sorted(found) == sorted((WS, name) for name in (ended, *gone))
        assert await desk.store.call("SMEMBERS", keys.key("active", WS)) == [running.encode()]
        assert await desk.queue.free_leaked_slots() == []

    async def test_the_supervisor_tells_of_them(self, desk: Desk) -> None:
        supervisor: Any = SimpleNamespace(queue=desk.queue)
        await desk.store.call("SADD", keys.key("active", WS), leaked := new_id("exec"))
        await desk.accept()
        with capture_logs() as lines:
            await Supervisor.sweep(supervisor)
            await Supervisor.sweep(supervisor)
        (line,) = lines
        assert (line["log_level"], line["count"], line["first"]) == ("error", 1, [(WS, leaked)])

    async def test_it_looks_only_where_slots_may_be_held(self, desk: Desk) -> None:
        busy = keys.shard_key("busy", keys.shard_of(WS))
        await desk.accept()
        await desk.queue.free_leaked_slots()
        assert await desk.store.call("SMEMBERS", busy) == [WS.encode()]
        await desk.end(await desk.claim())
        assert await desk.queue.free_leaked_slots() == []
        assert await desk.store.call("SMEMBERS", busy) == []

    async def test_a_queued_and_a_lost_one_keep_theirs(self, desk: Desk) -> None:
        await desk.accept()
        await desk.accept()
        await desk.claim()
        await desk.lose()
        assert (await desk.queue.free_leaked_slots(), await desk.slots()) == ([], 2)
