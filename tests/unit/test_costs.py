"""What executions cost: model calls and machines, by one arithmetic in their records, their bounds and the books."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from kernel.agents.flow import Resources
from kernel.clock import ManualClock, SystemClock
from kernel.errors import ProviderError
from kernel.executions.performer import Stop
from kernel.executions.placement import Begun, Done, Errand, Piece
from kernel.executions.record import NodeRecord, Totals, Use, parse_nodes
from kernel.metering.tariff import Tariff, micro
from kernel.models.seam import Tokens
from kernel.nodes.contract import Call, ModelUse, Outcome
from kernel.storage import keys
from kernel.storage.budgets import Budget, BudgetStore
from kernel.storage.store import Store
from tests.unit.test_performer import WS, Config, Stage, flow, spend

pytestmark = pytest.mark.anyio

TARIFF = Tariff(cpu_hour=3.6, gpu_hour=3600)
"""A thousandth of a USD for a CPU second, a USD for a GPU second."""
FAR = {"a": {"resources": {"num_gpus": 0.5}}}
ONE = flow(("entry", "a"))


class Elsewhere:
    """A place that does what a test says, for `seconds` of its clock."""

    def __init__(
        self, clock: ManualClock, seconds: float, error: Exception | None = None, done: Done | None = None
    ):
        self.clock, self.seconds, self.error, self.done = clock, seconds, error, done
        self.begun = asyncio.Event()

    async def run(self, errand: Errand, resources: Resources) -> AsyncGenerator[Piece]:
        yield Begun("far")
        self.clock.advance(round(self.seconds * 1000))
        self.begun.set()
        if self.error is not None:
            raise self.error
        if self.done is None:
            await asyncio.Event().wait()
        else:
            yield self.done


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    stage = Stage(store, tmp_path)
    stage.performer = replace(stage.performer, tariff=TARIFF)
    return stage


@pytest.fixture
def clock() -> ManualClock:
    """At a time that the store's own clock, which starts executions, agrees with."""
    return ManualClock(SystemClock().now_ms())


def at(stage: Stage, place: Elsewhere) -> None:
    stage.performer = replace(stage.performer, placement=place, clock=place.clock)


async def record(stage: Stage, execution_id: str) -> dict[str, bytes]:
    stored = await stage.executions.read(WS, execution_id)
    assert stored is not None
    told = Totals.of(parse_nodes(stored.nodes)).spent()
    assert orjson.loads(stored.record.get("spent", b"0")) == orjson.loads(told or b"0")
    return stored.record


async def test_machines_count_beside_models(stage: Stage, clock: ManualClock) -> None:
    async def work(call: Call, config: Config) -> Outcome:
        call.used(ModelUse("m", Tokens(3, 4), 0.25))
        return Outcome("x")

    stage.scene.acts = {"b": work}
    at(stage, Elsewhere(clock, 0, done=Done(Outcome("y"), cpu_seconds=2.0, gpu_seconds=1.5)))
    shown = await stage.run(flow(("entry", "a"), ("a", "b"), nodes=FAR))
    first, second = shown["nodes"]
    assert first["placed_on"]["node"] == "far"
    assert first["cost"] == pytest.approx(1.502, abs=1e-3)
    assert second["cost"] == pytest.approx(0.25, abs=1e-3)
    spent = orjson.loads((await record(stage, shown["id"]))["spent"])
    assert spent["c"] == micro(shown["result"]["cost"])
    assert (spent["t"], spent["g"], spent["m"]) == (7, 1500, {"m": [7, 250_000]})
    assert spent["p"] >= 2000


def test_a_flow_that_uses_nothing_to_speak_of_has_no_record_of_it() -> None:
    totals = Totals.of({"a": NodeRecord(status="completed", cpu_seconds=0.0004, machine_cost=0.0000004)})
    assert (totals.cost, totals.spent()) == (0.0, b"")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_gpu_is_paid_for_however_the_node_ends(stage: Stage, clock: ManualClock, status: str) -> None:
    error = ProviderError("broken") if status == "failed" else None
    at(stage, place := Elsewhere(clock, 60, error))
    execution_id = await stage.accept(flow(("entry", "a"), nodes=FAR), timeout=86_400_000)
    stop = Stop()
    task = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await place.begun.wait()
    if status == "cancelled":
        stop.cancel()
    await task
    shown = await stage.show(execution_id)
    assert (shown["status"], shown["nodes"][0]["placed_on"]["gpu_seconds"]) == (status, 30.0)
    assert shown["result"]["cost"] == pytest.approx(30, abs=0.01)
    assert orjson.loads((await record(stage, execution_id))["spent"])["g"] == 30_000


async def test_max_cost_counts_machines(stage: Stage, clock: ManualClock) -> None:
    stage.scene.acts = {"b": spend(1, 0.7)}
    at(stage, Elsewhere(clock, 0, done=Done(Outcome("y"), cpu_seconds=0.0, gpu_seconds=0.4)))
    value = flow(("entry", "a"), ("a", "b"), nodes=FAR)
    assert (await stage.run(value, max_cost=1.0))["error"]["details"] == {
        "limit": "budget",
        "max": 1.0,
        "node_id": "b",
    }
    assert (await stage.run(value, max_cost=1.2))["status"] == "completed"


async def test_a_takeover_forgets_no_machine_time(stage: Stage, clock: ManualClock) -> None:
    """Neither of the nodes that ended, nor of the earlier attempts of one that had begun."""
    at(stage, Elsewhere(clock, 0, done=Done(Outcome("y"), cpu_seconds=0.0, gpu_seconds=0.25)))
    stage.scene.acts = {"b": spend(1, 0.5)}
    execution_id = await stage.accept(flow(("entry", "a"), ("a", "b"), nodes=FAR), max_cost=1.0)
    claim = await stage.claim()
    begun = NodeRecord(status="running", attempt=1, gpu_seconds=0.5, machine_cost=0.5)
    journal = {"a": begun.encode()}
    assert await stage.executions.commit(WS, execution_id, claim.epoch, claim.seq, 5, [b"{}"], journal)
    await stage.lose()
    await stage.performer.perform(await stage.claim("r2"), Stop())
    shown = await stage.show(execution_id)
    assert shown["nodes"][0]["placed_on"]["gpu_seconds"] == 0.75
    assert shown["error"]["details"]["limit"] == "budget"
    assert shown["result"]["cost"] == pytest.approx(0.75, abs=1e-3)


async def test_what_failed_attempts_used_is_kept_while_the_next_one_waits(stage: Stage) -> None:
    waiting = asyncio.Event()

    async def busy(call: Call, config: Config) -> Outcome:
        call.used(ModelUse("m", Tokens(1, 4), 0.5))
        waiting.set()
        raise ProviderError("busy", None, 3600.0, True)

    stage.scene.acts = {"a": busy}
    retry = {"a": {"retry": {"max_attempts": 5, "backoff_ms": 0}}}
    execution_id = await stage.accept(flow(("entry", "a"), nodes=retry))
    stop = Stop()
    task = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await waiting.wait()
    async with asyncio.timeout(20):
        while not (await stage.show(execution_id))["tokens"]:  # noqa: ASYNC110  the store tells nobody
            await asyncio.sleep(0.005)
    await stage.lose()
    stop.lose()
    await task
    assert await stage.executions.cancel(WS, execution_id, 9, b"{}") == "cancelled"
    fields = await record(stage, execution_id)
    assert (fields["tokens_used"], float(fields["cost"])) == (b"5", pytest.approx(0.5, abs=1e-3))


async def test_a_budget_stops_the_call_that_could_pass_what_it_left(stage: Stage, store: Store) -> None:
    budget = Budget("workspace", "", "month", 600_000, (), hard_stop=True)
    await BudgetStore(store).replace(WS, 1, "", [budget])
    stage.performer = replace(stage.performer, tariff=Tariff())
    stage.scene.acts = {"a": spend(1, 0.4), "b": spend(1, 0.3)}
    shown = await stage.run(flow(("entry", "a"), ("a", "b")), max_cost=5.0)
    assert (shown["status"], shown["result"]["cost"]) == ("failed", 0.4)
    assert shown["error"]["details"] == {"limit": "budget", "max": 0.6, "node_id": "b"}
    assert "budget" in shown["error"]["message"]


async def test_a_retry_does_not_pay_again_for_what_it_takes_over(stage: Stage, store: Store) -> None:
    paid = Use(model="m", input=1, output=2, cached=0, cost=0.5)
    done = NodeRecord(
        status="completed", output="a", uses=(paid,), machine_cost=0.5, gpu_seconds=1.0, reused=True
    )
    stage.scene.acts = {"b": spend(1, 0.2)}
    stage.performer = replace(stage.performer, tariff=Tariff())
    execution_id = await stage.accept(flow(("entry", "a"), ("a", "b")), max_cost=0.25)
    await store.call("HSET", keys.key("nodes", WS, id=execution_id), "a", done.encode())
    await stage.performer.perform(await stage.claim(), Stop())
    shown = await stage.show(execution_id)
    assert (shown["status"], shown["result"]) == ("completed", {"output": 1, "tokens_used": 2, "cost": 0.2})
    spent: dict[str, Any] = orjson.loads((await record(stage, execution_id))["spent"])
    assert (spent["t"], spent["c"], spent["g"]) == (2, 200_000, 0)


def test_what_is_unknown_stays_unknown() -> None:
    uses = (
        Use(model="m", input=1, output=2, cached=0, cost=None),
        Use(model="n", input=4, output=0, cached=0, cost=0.1),
    )
    spent = orjson.loads(
        Totals.of({"a": NodeRecord(status="completed", uses=uses, machine_cost=1.0)}).spent()
    )
    assert spent == {
        "t": 7,
        "c": None,
        "k": 1_100_000,
        "p": 0,
        "g": 0,
        "m": {"m": [3, None], "n": [4, 100_000]},
    }
