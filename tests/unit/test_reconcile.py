"""What usage counts and what executions say is compared by day, wherever either is kept."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import reconcile as command
from cluster.__main__ import NOT_RUNNING, app
from cluster.failure import Refused
from configs.settings import Metering, Retention
from kernel.clock import ManualClock, epoch_ms
from kernel.executions.archivist import Archivist
from kernel.executions.lookup import Lookup
from kernel.ids import first_id_at
from kernel.metering import reconcile
from kernel.metering.ledger import Ledger
from kernel.metering.reconcile import Comparison, Reconciler, Sum
from kernel.storage import keys
from kernel.storage.archive import Archive
from kernel.storage.counts import HOUR_MS
from kernel.storage.executions import Creation, Ending, ExecutionStore
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import QueueStore
from kernel.storage.store import Store
from kernel.storage.usage import UsageStore
from kernel.storage.usage_files import UsageFiles
from tests.buckets import add_usage

pytestmark = pytest.mark.anyio

WS, OTHER = "ws_" + "0" * 26, "ws_" + "1" * 26
START = epoch_ms("2024-01-10T00:00:00Z")


class Office:
    """Executions that end at chosen times, and all that moves and compares them."""

    def __init__(self, store: Store, clock: ManualClock, folder: Path):
        self.store, self.clock, objects = store, clock, ObjectStore(folder)
        self.executions, self.queue = ExecutionStore(store), QueueStore(store)
        self.archive = Archive(store, objects)
        self.archivist = Archivist(self.executions, self.archive, clock, Retention(after_s=3600, gather_s=0))
        files = UsageFiles(objects)
        self.usage = UsageStore(store, files)
        self.ledger = Ledger(self.usage, files, clock, Metering())
        self.reconciler = Reconciler(self.usage, self.executions, self.archive, clock)
        self._made = 0

    async def ended(
        self, ms: int, tokens: int = 7, cost: int | None = 1_500, workspace: str = WS, known: int = 0
    ) -> str:
        """cost: millionths of a USD; known: the part of one that is not."""
        await self.store.call("HSET", keys.key("workspace", workspace), "name", "x")
        self._made += 1
        execution_id = first_id_at("exec", START + self._made)
        await self.executions.create(
            Creation(workspace, execution_id, "", "", b'{"n":1}', "normal", ms, b'{"e":1}')
        )
        (claim,) = await self.queue.claim(keys.shard_of(workspace), "r", 60_000, 1)
        spent = {"t": tokens, "c": cost, "p": 0, "g": 0, "m": {}, "k": known}
        facts = {"output": b"1", "tokens_used": str(tokens).encode(), "spent": json.dumps(spent).encode()}
        facts |= {} if cost is None else {"cost": str(cost / 1e6).encode()}
        ending = Ending("completed", facts)
        assert await self.executions.commit(
            workspace, execution_id, claim.epoch, 1, ms, [b'{"e":2}'], {}, ending
        )
        return execution_id

    async def delete(self, execution_id: str) -> None:
        if not await self.executions.delete(WS, execution_id):
            archived = await self.archive.find(WS, execution_id)
            assert archived is not None
            await self.archive.erase(WS, archived)

    async def at(self, hours: float) -> None:
        self.clock.advance(START + int(hours * HOUR_MS) - self.clock.now_ms())

    async def compare(self, days: int = 3, workspace: str = WS) -> list[Comparison]:
        return await self.reconciler.compare(workspace, days)


@pytest.fixture
def office(store: Store, tmp_path: Path) -> Office:
    return Office(store, ManualClock(START), tmp_path)


def summary(found: Sequence[Comparison]) -> list[tuple[str, Sum, bool]]:
    return [(one.first, one.executions, one.equal) for one in found]


async def test_equal_wherever_they_are(office: Office) -> None:
    early = [await office.ended(START + hour * HOUR_MS, hour, hour) for hour in (0, 5, 30)]
    early.append(await office.ended(START + 31 * HOUR_MS, 0, None, known=12))
    await office.at(50)
    await office.archivist.round()
    await office.ledger.round()
    kept = await office.ended(START + 49 * HOUR_MS, cost=None, known=4)
    assert await office.executions.status(WS, early[0]) is None
    assert await office.executions.status(WS, kept) == "completed"
    await add_usage(office.store, WS, START // HOUR_MS + 49, {"x": 70, "y": 9_000, "z": 1, "x|m|ada": 70})
    expected = [
        ("2024-01-10", Sum(2, 5, 5), True),
        ("2024-01-11", Sum(2, 30, 42), True),
        ("2024-01-12", Sum(1, 7, 4), True),
    ]
    assert summary(await office.compare()) == expected
    for execution_id in (*early[1:], kept):
        await office.delete(execution_id)
    assert summary(await office.compare()) == expected


async def test_days_before_are_left_out(office: Office) -> None:
    await office.ended(START)
    await office.at(25)
    assert summary(await office.compare(days=1)) == [("2024-01-11", Sum(), True)]


@pytest.mark.parametrize(("field", "name"), [("e", "executions"), ("t", "tokens"), ("c", "cost")])
async def test_a_difference_is_found_by_day_and_workspace(office: Office, field: str, name: str) -> None:
    await office.ended(START)
    await office.ended(START + 30 * HOUR_MS)
    await office.ended(START + 30 * HOUR_MS, workspace=OTHER)
    await office.at(31)
    await add_usage(office.store, WS, START // HOUR_MS + 30, {field: 1})
    found = [one for ws in (WS, OTHER) for one in await office.compare(2, ws)]
    (wrong,) = [one for one in found if not one.equal]
    assert (wrong.workspace_id, wrong.first) == (WS, "2024-01-11")
    assert getattr(wrong.usage, name) == getattr(wrong.executions, name) + 1


async def test_what_is_not_counted_is_found(office: Office) -> None:
    execution_id = await office.ended(START)
    await office.store.call("DEL", keys.key("usage", WS, hour=str(START // HOUR_MS)))
    assert [one.equal for one in await office.compare(1)] == [False]
    await office.delete(execution_id)
    assert [one.equal for one in await office.compare(1)] == [False]


async def test_late_ends_count_on_the_next_day(office: Office) -> None:
    await office.ended(START)
    await office.at(24.5)
    await office.ledger.round()
    await office.ended(START + 23 * HOUR_MS)
    (both,) = await office.compare(2)
    assert (both.first, both.last, both.usage, both.equal) == (
        "2024-01-10",
        "2024-01-11",
        Sum(2, 14, 3_000),
        True,
    )
    await add_usage(office.store, WS, START // HOUR_MS + 24, {"t": 1})
    assert [one.equal for one in await office.compare(2)] == [False]


async def test_copies_in_both_places_count_once(office: Office) -> None:
    execution_id = await office.ended(START)
    archived = await office.archivist._read(WS, execution_id)
    assert archived is not None
    await office.archive.write(WS, [archived])
    await office.ended(START)
    assert summary(await office.compare(1)) == [("2024-01-10", Sum(2, 14, 3_000), True)]
    assert await Lookup(office.executions, office.archive).status(WS, execution_id) == "completed"


class TestMeanwhile:
    """Things happen between two looks: they are no difference, and hide none."""

    def between(
        self, office: Office, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], after: str
    ) -> None:
        take = getattr(Reconciler, after)

        async def look(*args: Any) -> Any:
            found = await take(*args)
            monkeypatch.undo()
            await act()
            return found

        monkeypatch.setattr(Reconciler, after, look)

    @pytest.mark.parametrize("after", ["_counted", "_removed", "_ended"])
    @pytest.mark.parametrize("wrong", [0, 1])
    async def test_an_end_and_a_deletion(
        self, office: Office, monkeypatch: pytest.MonkeyPatch, after: str, wrong: int
    ) -> None:
        first = await office.ended(START)
        await add_usage(office.store, WS, START // HOUR_MS, {"t": 100 * wrong})

        async def act() -> None:
            await office.ended(START)
            await office.delete(first)

        self.between(office, monkeypatch, act, after)
        assert [one.equal for one in await office.compare(1)] == [not wrong]

    async def test_a_move_to_the_archive(self, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reconcile, "PAGE", 2)
        for hour in range(6):
            await office.ended(START + hour * HOUR_MS)
        await office.at(10)
        pages = office.executions.page

        async def page(*args: Any) -> Any:
            found = await pages(*args)
            await office.archivist.round()
            return found

        monkeypatch.setattr(ExecutionStore, "page", lambda _, *args: page(*args))
        assert summary(await office.compare(1)) == [("2024-01-10", Sum(6, 42, 9_000), True)]


class TestCommand:
    async def test_a_difference_is_named(self, office: Office, capsys: pytest.CaptureFixture[str]) -> None:
        await office.ended(START)
        await office.ended(START, workspace=OTHER)
        await add_usage(office.store, OTHER, START // HOUR_MS, {"e": 2_000})
        found = await command.compared(office.reconciler, 1, None)
        command.show(found)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[1][:3] == [WS, "1", "1"]
        assert lines[1][-1] == "equal"
        assert lines[2][-3:] == ["✗", "1", "differ"]
        assert lines[-1] == [OTHER, "2024-01-10", "executions", "2,001", "1"]

    async def test_one_workspace(self, office: Office) -> None:
        await office.ended(START)
        await office.ended(START, workspace=OTHER)
        found = await command.compared(office.reconciler, 2, OTHER)
        assert [(one.workspace_id, one.equal) for one in found] == [(OTHER, True)] * 2
        with pytest.raises(Refused, match="no workspace ws_x"):
            await command.compared(office.reconciler, 1, "ws_x")

    def test_it_needs_a_running_platform(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CODEXOS_HOME", str(tmp_path))
        with pytest.raises(SystemExit) as ended:
            app(["reconcile", "--days", "2", "--json"])
        assert ended.value.code == NOT_RUNNING
        assert "not running" in capsys.readouterr().err
