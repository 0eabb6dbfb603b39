"""A runner in this process, on a real store: it claims, loses, drains and cancels as it should."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from actors.runner import Runner
from actors.supervisor import wanted_runners
from configs.settings import Runner as RunnerSettings
from kernel.nodes.contract import Call, Outcome
from kernel.storage import keys
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions
from tests.unit.test_performer import WS, Config, Stage, flow

pytestmark = pytest.mark.anyio

ONE = flow(("entry", "a"))


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


@pytest.fixture
async def runner(stage: Stage, store: Store) -> AsyncGenerator[Runner]:
    subscriptions = Subscriptions(store)
    settings = RunnerSettings(lease_ms=60_000, heartbeat_ms=20)
    runner = Runner("r1", store, stage.queue, stage.performer, subscriptions, settings)
    serving = asyncio.create_task(runner.serve())
    yield runner
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await subscriptions.close()


async def ended(stage: Stage, execution_id: str) -> str:
    async with asyncio.timeout(20):
        while (status := str((await stage.show(execution_id))["status"])) == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return status


class Hanging:
    """Hangs the first time it is called."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __call__(self, call: Call, config: Config) -> Outcome:
        if not self.begun.is_set():
            self.begun.set()
            await asyncio.Event().wait()
        return Outcome("again")


async def test_it_performs_what_is_queued(stage: Stage, runner: Runner) -> None:
    ids = [await stage.accept(ONE) for _ in range(5)]
    assert [await ended(stage, execution_id) for execution_id in ids] == ["completed"] * 5


async def test_work_that_it_lost_and_claimed_again_is_held_once(stage: Stage, runner: Runner) -> None:
    stage.scene.acts = {"a": (act := Hanging())}
    execution_id = await stage.accept(ONE)
    await act.begun.wait()
    await stage.lose()
    assert await ended(stage, execution_id) == "completed"
    assert stage.scene.calls == ["a", "a"]
    async with asyncio.timeout(20):
        while runner.held:  # noqa: ASYNC110  the last task takes itself out
            await asyncio.sleep(0.005)
    stored = await stage.executions.read(WS, execution_id)
    assert stored is not None
    assert int(stored.record["deliveries"]) == 2


async def test_a_cancel_whose_message_was_lost_is_found_at_the_next_heartbeat(
    stage: Stage, runner: Runner, store: Store
) -> None:
    stage.scene.acts = {"a": (act := Hanging())}
    execution_id = await stage.accept(ONE)
    await act.begun.wait()
    runner.subscriptions.unlisten("cx1:orders:r1", runner._order)
    await stage.executions.cancel(WS, execution_id, 9, b"{}")
    assert await ended(stage, execution_id) == "cancelled"


async def test_a_claim_whose_answer_was_lost_is_given_back(stage: Stage, runner: Runner) -> None:
    """The store says that the runner holds it, the runner has never heard of it."""
    runner.settings = RunnerSettings(lease_ms=60_000, heartbeat_ms=20, capacity=1)
    stage.scene.acts = {"a": (act := Hanging())}
    await stage.accept(ONE)
    await act.begun.wait()
    unheard = await stage.accept(ONE)
    assert (await stage.claim("r1")).execution_id == unheard
    async with asyncio.timeout(20):
        while not (given := await stage.queue.claim(keys.shard_of(WS), "r2", 60_000, 1)):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert given[0].execution_id == unheard


async def test_it_shows_that_it_lives(stage: Stage, runner: Runner) -> None:
    async with asyncio.timeout(20):
        while not await stage.queue.live_runners(0):  # noqa: ASYNC110  its first heartbeat
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("now", "queued", "held", "wanted"),
    [(1, 0, 0, 1), (1, 10, 50, 1), (1, 10, 80, 2), (3, 10, 300, 3), (2, 0, 10, 1), (2, 0, 90, 2)],
)
def test_the_pool_grows_with_what_waits_and_shrinks_when_it_idles(
    now: int, queued: int, held: int, wanted: int
) -> None:
    assert wanted_runners(now, most=3, capacity=100, queued=queued, held=held) == wanted
