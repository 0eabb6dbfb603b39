"""Executions walked from claim to end on a real store: order, journal, takeover, failures, limits."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from kernel.agents.flow import Flow
from kernel.clock import SystemClock
from kernel.errors import Problem, ProviderError
from kernel.executions.order import Options, Spec
from kernel.executions.performer import LOST_PROBLEM, Performer, Stop, lost_event
from kernel.executions.placement import Here
from kernel.executions.record import parse_nodes, shown
from kernel.ids import new_id
from kernel.metering.tariff import Tariff
from kernel.models.seam import ChatModel, ChatRequest, Finish, ModelInfo, TextDelta, Tokens
from kernel.nodes.contract import Call, ModelUse, Outcome
from kernel.nodes.llm import LlmNode
from kernel.nodes.sandbox import Sandbox
from kernel.storage import keys
from kernel.storage.executions import Creation, ExecutionStore
from kernel.storage.objects import ObjectStore
from kernel.storage.queue import Claim, QueueStore
from kernel.storage.store import Store
from tests.calls import KnownSecrets

pytestmark = pytest.mark.anyio

WS = "ws_" + "0" * 26


class Config(BaseModel):
    say: Any = None


class Scene:
    """A node type whose behaviour each test writes: `acts[node id](call, config)`."""

    name = "scene"
    title = "Does what a test says"
    config = Config
    example: Mapping[str, Any] = MappingProxyType({})
    source_fields: frozenset[str] = frozenset()
    secret_fields = frozenset({"say"})

    def __init__(self) -> None:
        self.acts: dict[str, Callable[[Call, Config], Awaitable[Outcome]]] = {}
        self.calls: list[str] = []

    def check(self, config: Config, models: Any) -> list[Problem]:
        return []

    def branches(self, config: Config) -> None:
        return None

    def references(self, config: Config) -> list[Any]:
        return []

    async def run(self, config: Config, call: Call) -> Outcome:
        self.calls.append(call.node_id)
        act = self.acts.get(call.node_id)
        return (
            await act(call, config)
            if act
            else Outcome(config.say if config.say is not None else call.node_id)
        )


class Stage:
    """A store, a scene and a performer, and short ways to use them."""

    def __init__(self, store: Store, folder: Path):
        self.store, self.executions, self.queue = store, ExecutionStore(store), QueueStore(store)
        self.scene = Scene()
        self.objects = ObjectStore(folder)
        self.secrets = KnownSecrets()
        self.node_types = types = dict[str, Any](scene=self.scene)
        self.performer = Performer(
            *(self.executions, _NoAgents(), self.objects, types),
            *(SystemClock(), 5, "here", Here(types, self.secrets, "elsewhere"), Tariff(), self.secrets),
            OrderedDict(),
        )

    async def accept(
        self, flow: dict[str, Any], value: Any = None, day: int | None = None, **options: Any
    ) -> str:
        """day: tokens of a day."""
        execution_id = new_id("exec")
        spec = Spec(
            agent_id=None,
            agent_version=None,
            flow=flow,
            input=value,
            options=Options(**options),
            created_by="key",
        )
        text = spec.model_dump_json().encode()
        await self.executions.create(
            Creation(
                *(WS, execution_id, "", "", text, "normal", 1, b'{"type":"started"}'), tokens_per_day=day
            )
        )
        return execution_id

    async def claim(self, runner: str = "r1") -> Claim:
        (claim,) = await self.queue.claim(keys.shard_of(WS), runner, 60_000, 1)
        return claim

    async def lose(self) -> None:
        await self.queue.reclaim(5, LOST_PROBLEM, lost_event(1), 2**53)

    async def run(self, flow: dict[str, Any], value: Any = None, **options: Any) -> dict[str, Any]:
        execution_id = await self.accept(flow, value, **options)
        await self.performer.perform(await self.claim(), Stop())
        return await self.show(execution_id)

    async def show(self, execution_id: str) -> dict[str, Any]:
        stored = await self.executions.read(WS, execution_id)
        assert stored is not None
        output = orjson.loads(stored.record.get("output", b"null"))
        return shown(execution_id, stored.record, parse_nodes(stored.nodes), output)

    async def types(self, execution_id: str) -> list[str]:
        events = await self.executions.events(WS, execution_id, 1)
        assert [event.seq for event in events] == list(range(2, len(events) + 2))
        return [orjson.loads(event.body)["type"] for event in events]


class _NoAgents:
    async def flow(self, workspace_id: str, agent_id: str, version: str) -> dict[str, Any]:
        raise AssertionError("these executions are inline")


@pytest.fixture
def stage(store: Store, tmp_path: Path) -> Stage:
    return Stage(store, tmp_path)


def flow(*edges: tuple[str, str], nodes: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    names = dict.fromkeys(name for edge in edges for name in edge if name not in ("entry", "exit"))
    more = nodes or {}
    made = [{"id": name, "type": "scene", "config": {}} | more.get(name, {}) for name in names]
    value = {"nodes": made, "edges": [{"source": source, "target": target} for source, target in edges]}
    Flow.model_validate(value)
    return value


DIAMOND = flow(("entry", "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"))


async def test_one_node_gives_its_value(stage: Stage) -> None:
    shown = await stage.run(
        flow(("entry", "a"), nodes={"a": {"config": {"say": "{{ input.text }}"}}}), {"text": "hi"}
    )
    assert shown["status"] == "completed"
    assert shown["result"] == {"output": "hi", "tokens_used": 0, "cost": 0}
    assert await stage.types(shown["id"]) == ["node.started", "node.completed", "execution.completed"]
    assert [line["node_id"] for line in shown["logs"]] == ["entry", "a", "a"]


async def test_outputs_reach_later_nodes(stage: Stage) -> None:
    shown = await stage.run(
        flow(
            ("entry", "a"),
            ("a", "b"),
            nodes={"a": {"config": {"say": [1]}}, "b": {"config": {"say": "{{ nodes.a.output[0] }}"}}},
        )
    )
    assert shown["result"]["output"] == 1


async def test_several_ends_give_an_object(stage: Stage) -> None:
    shown = await stage.run(flow(("entry", "a"), ("a", "b"), ("a", "c")))
    assert shown["result"]["output"] == {"b": "b", "c": "c"}


async def test_independent_nodes_run_at_once(stage: Stage) -> None:
    met = asyncio.Barrier(2)

    async def meet(call: Call, config: Config) -> Outcome:
        async with asyncio.timeout(5):
            await met.wait()
        return Outcome(call.node_id)

    stage.scene.acts = {"b": meet, "c": meet}
    assert (await stage.run(DIAMOND))["status"] == "completed"


async def test_a_failure_names_its_node_and_stops_the_rest(stage: Stage) -> None:
    async def fail(call: Call, config: Config) -> Outcome:
        raise ProviderError("The provider is out of order", {"provider_status": 500})

    async def forever(call: Call, config: Config) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    stage.scene.acts = {"b": fail, "c": forever}
    shown = await stage.run(DIAMOND)
    assert shown["status"] == "failed"
    assert shown["error"]["code"] == "PROVIDER_ERROR"
    assert shown["error"]["details"] == {"provider_status": 500, "node_id": "b"}
    assert {node["id"]: node["status"] for node in shown["nodes"]} == {
        "a": "completed",
        "b": "failed",
        "c": "cancelled",
    }
    assert (await stage.types(shown["id"]))[-1] == "execution.failed"


async def test_a_bug_in_a_node_is_an_internal_error(stage: Stage) -> None:
    async def crash(call: Call, config: Config) -> Outcome:
        raise KeyError("secret text")

    stage.scene.acts = {"a": crash}
    shown = await stage.run(flow(("entry", "a")))
    assert shown["error"]["code"] == "INTERNAL_ERROR"
    assert "secret text" not in str(shown)


async def test_default_stands_in_for_a_failure(stage: Stage) -> None:
    async def fail(call: Call, config: Config) -> Outcome:
        raise ProviderError("no")

    stage.scene.acts = {"a": fail}
    shown = await stage.run(
        flow(
            ("entry", "a"),
            ("a", "b"),
            nodes={"a": {"on_error": {"default": 7}}, "b": {"config": {"say": "{{ nodes.a.output }}"}}},
        )
    )
    assert (shown["status"], shown["result"]["output"]) == ("completed", 7)
    assert "node.failed" in await stage.types(shown["id"])


async def test_goto_takes_over_and_the_usual_way_is_skipped(stage: Stage) -> None:
    async def fail(call: Call, config: Config) -> Outcome:
        raise ProviderError("no")

    stage.scene.acts = {"a": fail}
    flow_ = flow(
        ("entry", "a"),
        ("a", "b"),
        ("b", "exit"),
        ("rescue", "exit"),
        nodes={"a": {"on_error": {"goto": "rescue"}}},
    )
    shown = await stage.run(flow_)
    statuses = {node["id"]: node["status"] for node in shown["nodes"]}
    assert statuses == {"a": "failed", "b": "skipped", "rescue": "completed"}
    assert shown["status"] == "completed"


async def test_only_retryable_failures_are_tried_again(stage: Stage) -> None:
    async def fail(call: Call, config: Config) -> Outcome:
        raise ProviderError("busy", None, None, call.attempt < 2)

    stage.scene.acts = {"a": fail}
    shown = await stage.run(
        flow(("entry", "a"), nodes={"a": {"retry": {"max_attempts": 5, "backoff_ms": 0}}})
    )
    assert stage.scene.calls == ["a", "a"]
    assert shown["nodes"][0]["attempt"] == 2
    assert (await stage.types(shown["id"])).count("node.retry") == 1


async def test_takeover_runs_no_finished_node_again(stage: Stage) -> None:
    gone = asyncio.Event()

    async def vanish(call: Call, config: Config) -> Outcome:
        if not gone.is_set():
            gone.set()
            await asyncio.Event().wait()
        return Outcome(call.idempotency_key)

    stage.scene.acts = {"d": vanish}
    execution_id = await stage.accept(DIAMOND)
    stop = Stop()
    first = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await gone.wait()
    await stage.lose()
    await stage.performer.perform(await stage.claim("r2"), Stop())
    stop.lose()
    await first
    shown = await stage.show(execution_id)
    assert (shown["status"], shown["result"]["output"]) == ("completed", f"{execution_id}:d")
    assert sorted(stage.scene.calls) == ["a", "b", "c", "d", "d"]
    types = await stage.types(execution_id)
    assert types.count("execution.completed") == 1
    assert types.count("node.completed") == 4


async def test_a_fenced_runner_writes_nothing(stage: Stage) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause(call: Call, config: Config) -> Outcome:
        reached.set()
        await go_on.wait()
        return Outcome("late")

    stage.scene.acts = {"a": pause}
    execution_id = await stage.accept(flow(("entry", "a")))
    late = asyncio.create_task(stage.performer.perform(await stage.claim(), Stop()))
    await reached.wait()
    await stage.lose()
    go_on.set()
    await late
    assert (await stage.show(execution_id))["status"] == "running"


async def test_timeout_stops_the_node(stage: Stage) -> None:
    stopped = asyncio.Event()

    async def hang(call: Call, config: Config) -> Outcome:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    stage.scene.acts = {"a": hang}
    shown = await stage.run(flow(("entry", "a")), timeout=30)
    assert (shown["status"], shown["nodes"][0]["status"]) == ("timed_out", "timed_out")
    assert stopped.is_set()


async def test_cancel_stops_the_node(stage: Stage) -> None:
    begun = asyncio.Event()

    async def hang(call: Call, config: Config) -> Outcome:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    stage.scene.acts = {"a": hang}
    execution_id = await stage.accept(flow(("entry", "a")))
    stop = Stop()
    task = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await begun.wait()
    stop.cancel()
    await task
    assert (await stage.show(execution_id))["status"] == "cancelled"
    assert (await stage.types(execution_id))[-1] == "execution.cancelled"


class Slow:
    """Models that say one piece and then nothing more; a dollar for a million tokens."""

    def __init__(self) -> None:
        self.said = asyncio.Event()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        yield TextDelta("12345678")
        self.said.set()
        await asyncio.Event().wait()

    def credential(self, model_id: str) -> str | None:
        return None

    def chat(self, model_id: str, key: str | None = None) -> tuple[ChatModel, str]:
        return self, model_id

    def cost(self, model_id: str, tokens: Tokens) -> float:
        return (tokens.input + tokens.output) / 1e6

    def check(self, model_id: str) -> None: ...

    def list(self) -> list[ModelInfo]:
        return []


@pytest.fixture
def slow(stage: Stage) -> Slow:
    """What answers on this stage."""
    models = Slow()
    stage.node_types["llm"] = LlmNode(models, Sandbox())
    return models


ASKING = flow(("entry", "a"), nodes={"a": {"type": "llm", "config": {"model": "m", "prompt": "four"}}})
CUT_OFF = {"m": {"input": 1, "output": 2, "cached": 0}}


async def paid(stage: Stage, execution_id: str) -> None:
    """What was said before the end is in the record, the usage and the spend."""
    stored = await stage.executions.read(WS, execution_id)
    assert stored is not None
    assert stored.record["tokens_used"] == b"3"
    assert orjson.loads(stored.record["spent"])["m"] == {"m": [3, 3]}
    assert (await stage.show(execution_id))["tokens"] == CUT_OFF
    hour = int(stored.record["completed_at"]) // 3_600_000
    bucket = await stage.store.call("HMGET", keys.key("usage", WS, hour=str(hour)), "t", "t|m|m", "c|m|m")
    assert bucket == [b"3", b"3", b"3"]
    for period in await stage.store.call("KEYS", f"*{WS}:spend:*"):
        assert await stage.store.call("HMGET", period, "t", "c") == [b"3", b"3"]


async def test_what_was_said_before_a_timeout_is_paid(stage: Stage, slow: Slow) -> None:
    shown = await stage.run(ASKING, timeout=30)
    assert (shown["status"], slow.said.is_set()) == ("timed_out", True)
    await paid(stage, shown["id"])


@pytest.mark.parametrize("beside", [False, True])
async def test_what_was_said_before_a_cancel_is_paid(stage: Stage, slow: Slow, beside: bool) -> None:
    """Alone, and as one of several nodes that run at once."""
    edges = [("entry", "a"), ("entry", "b")] if beside else [("entry", "a")]
    execution_id = await stage.accept(flow(*edges, nodes={"a": ASKING["nodes"][-1]}))
    stop = Stop()
    task = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await slow.said.wait()
    stop.cancel()
    await task
    assert (await stage.show(execution_id))["status"] == "cancelled"
    await paid(stage, execution_id)


def spend(tokens: int, cost: float | None) -> Callable[[Call, Config], Awaitable[Outcome]]:
    async def act(call: Call, config: Config) -> Outcome:
        left = call.output_tokens_left()
        call.admit_cost(cost)
        used = tokens if left is None else min(tokens, left)
        call.used(ModelUse("m", Tokens(1, used), cost))
        return Outcome(used)

    return act


async def test_tokens_and_cost_add_up(stage: Stage) -> None:
    stage.scene.acts = {"a": spend(10, 0.25), "b": spend(5, 0.5)}
    shown = await stage.run(flow(("entry", "a"), ("a", "b")))
    assert shown["result"]["tokens_used"] == 17
    assert shown["result"]["cost"] == 0.75
    assert shown["tokens"] == {"m": {"input": 2, "output": 15, "cached": 0}}


async def test_an_unknown_price_makes_the_cost_unknown(stage: Stage) -> None:
    stage.scene.acts = {"a": spend(10, 0.25), "b": spend(5, None)}
    assert (await stage.run(flow(("entry", "a"), ("a", "b"))))["result"]["cost"] is None


async def test_max_tokens_bounds_the_whole_execution(stage: Stage) -> None:
    stage.scene.acts = {"a": spend(10, 0.0), "b": spend(10, 0.0), "c": spend(10, 0.0)}
    shown = await stage.run(flow(("entry", "a"), ("a", "b"), ("b", "c")), max_tokens=15)
    assert [node["tokens"] for node in shown["nodes"] if node["status"] == "completed"] == [11, 6]
    assert shown["error"]["details"] == {"limit": "tokens", "max": 15, "node_id": "c"}


@pytest.mark.parametrize("far", [False, True])
async def test_what_is_left_of_the_day_bounds_input_and_output(stage: Stage, far: bool) -> None:
    async def ask(call: Call, config: Config) -> Outcome:
        left = call.output_tokens_left(6)
        assert left is not None
        call.used(ModelUse("m", Tokens(6, min(left, 10)), 0.0))
        return Outcome(left)

    stage.scene.acts = {"a": ask, "b": ask, "c": ask}
    node = {"resources": {"num_cpus": 1}} if far else {}
    value = flow(("entry", "a"), ("a", "b"), ("b", "c"), nodes={"a": node, "b": node, "c": node})
    shown = await stage.run(value, day=30)
    assert [node["output"] for node in shown["nodes"] if node["status"] == "completed"] == [24, 8]
    assert shown["result"]["tokens_used"] == 30
    assert shown["error"]["details"]["limit"] == "tokens"
    assert (shown["error"]["details"]["node_id"], shown["nodes"][-1]["attempt"]) == ("c", 1)
    assert shown["error"]["retryable"] is False


async def test_max_cost_stops_before_the_call_that_would_pass_it(stage: Stage) -> None:
    stage.scene.acts = {"a": spend(1, 0.4), "b": spend(1, 0.7)}
    shown = await stage.run(flow(("entry", "a"), ("a", "b")), max_cost=1.0)
    assert shown["error"]["details"]["limit"] == "budget"
    assert shown["result"]["cost"] == 0.4


async def test_large_outputs_leave_redis(stage: Stage, store: Store) -> None:
    async def large(call: Call, config: Config) -> Outcome:
        return Outcome("x" * 200_000)

    stage.scene.acts = {"a": large}
    shown = await stage.run(
        flow(("entry", "a"), ("a", "b"), nodes={"b": {"config": {"say": "{{ nodes.a.output }}"}}})
    )
    assert shown["status"] == "completed"
    assert shown["nodes"][0]["output"] is None
    assert shown["nodes"][0]["output_link"].endswith("/nodes/a")
    stored = await stage.executions.read(WS, shown["id"])
    assert stored is not None
    assert sum(len(text) for text in (*stored.nodes.values(), *stored.record.values())) < 10_000
    data = await stage.objects.get(stored.record["output_ref"].decode())
    assert orjson.loads(data) == "x" * 200_000


async def test_tokens_are_gathered_and_keep_their_order(stage: Stage) -> None:
    async def chat(call: Call, config: Config) -> Outcome:
        for number in range(50):
            call.token(str(number))
        return Outcome("done")

    stage.scene.acts = {"a": chat}
    shown = await stage.run(flow(("entry", "a")))
    events = [orjson.loads(event.body) for event in await stage.executions.events(WS, shown["id"], 1)]
    assert [event["data"]["text"] for event in events if event["type"] == "node.token"] == [
        str(n) for n in range(50)
    ]


async def test_a_node_with_resources_runs_elsewhere(stage: Stage) -> None:
    async def speak(call: Call, config: Config) -> Outcome:
        call.token("piece")
        call.log("info", "line")
        return Outcome(config.say)

    stage.scene.acts = {"a": speak}
    node = {"config": {"say": "{{ input }}"}, "resources": {"num_gpus": 0.5}}
    shown = await stage.run(flow(("entry", "a"), nodes={"a": node}), "far")
    assert shown["result"]["output"] == "far"
    assert shown["nodes"][0]["placed_on"]["node"] == "elsewhere"
    assert shown["nodes"][0]["placed_on"]["gpu_seconds"] > 0
    assert "line" in [line["message"] for line in shown["logs"]]
    assert "node.token" in await stage.types(shown["id"])


async def test_limits_go_along_with_a_node_elsewhere(stage: Stage) -> None:
    stage.scene.acts = {"a": spend(10, 0.0), "b": spend(10, 0.0), "c": spend(10, 0.0)}
    far = {"resources": {"num_cpus": 1}}
    nodes = {"a": far, "b": far, "c": far}
    shown = await stage.run(flow(("entry", "a"), ("a", "b"), ("b", "c"), nodes=nodes), max_tokens=15)
    assert [node["tokens"] for node in shown["nodes"] if node["status"] == "completed"] == [11, 6]
    assert shown["error"]["details"]["limit"] == "tokens"
    assert shown["error"]["details"]["node_id"] == "c"


async def test_nodes_side_by_side_share_what_is_left(stage: Stage) -> None:
    both = asyncio.Barrier(2)

    async def careful(call: Call, config: Config) -> Outcome:
        left = call.output_tokens_left()
        await both.wait()
        assert left is not None
        call.used(ModelUse("m", Tokens(0, left), 0.0))
        return Outcome(left)

    stage.scene.acts = {"b": careful, "c": careful}
    shown = await stage.run(DIAMOND, max_tokens=11)
    assert shown["status"] == "completed"
    assert shown["result"]["tokens_used"] == 11


async def test_nodes_elsewhere_share_it_too(stage: Stage) -> None:
    both = asyncio.Barrier(2)

    async def greedy(call: Call, config: Config) -> Outcome:
        left = call.output_tokens_left()
        await both.wait()
        assert left is not None
        call.used(ModelUse("m", Tokens(0, left), 0.0))
        return Outcome(left)

    stage.scene.acts = {"b": greedy, "c": greedy}
    far = {"resources": {"num_cpus": 1}}
    value = flow(("entry", "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), nodes={"b": far, "c": far})
    shown = await stage.run(value, max_tokens=11)
    assert (shown["status"], shown["result"]["tokens_used"]) == ("completed", 11)


async def test_what_failed_attempts_used_is_billed_once_each(stage: Stage) -> None:
    async def misfit(call: Call, config: Config) -> Outcome:
        call.used(ModelUse("m", Tokens(1, 4), 0.5))
        if call.attempt < 3:
            raise ProviderError("does not fit", None, None, True)
        return Outcome("fits")

    stage.scene.acts = {"a": misfit}
    retry = {"a": {"retry": {"max_attempts": 5, "backoff_ms": 0}}}
    shown = await stage.run(flow(("entry", "a"), nodes=retry), max_cost=10.0)
    assert shown["result"] == {"output": "fits", "tokens_used": 15, "cost": 1.5}


async def test_a_failure_that_was_paid_for_is_told_with_its_cost(stage: Stage) -> None:
    async def misfit(call: Call, config: Config) -> Outcome:
        call.used(ModelUse("m", Tokens(1, 4), 0.5))
        raise ProviderError("does not fit")

    stage.scene.acts = {"a": misfit}
    shown = await stage.run(flow(("entry", "a")))
    assert (shown["status"], shown["result"]["cost"], shown["nodes"][0]["cost"]) == ("failed", 0.5, 0.5)


async def test_an_output_that_cannot_be_stored_fails_its_node_once(stage: Stage) -> None:
    async def deep(call: Call, config: Config) -> Outcome:
        value: Any = []
        for _ in range(2000):
            value = [value]
        return Outcome(value)

    stage.scene.acts = {"a": deep}
    shown = await stage.run(flow(("entry", "a")))
    assert (shown["status"], shown["error"]["code"]) == ("failed", "NODE_ERROR")
    assert stage.scene.calls == ["a"]


async def test_cancelled_before_the_takeover_leaves_no_node_running(stage: Stage) -> None:
    begun = asyncio.Event()

    async def hang(call: Call, config: Config) -> Outcome:
        call.used(ModelUse("m", Tokens(1, 4), 0.5))
        call.log("info", "here")
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    stage.scene.acts = {"b": hang}
    execution_id = await stage.accept(flow(("entry", "a"), ("a", "b")))
    stop = Stop()
    first = asyncio.create_task(stage.performer.perform(await stage.claim(), stop))
    await begun.wait()
    while (await stage.show(execution_id))["nodes"][-1]["id"] != "b":  # noqa: ASYNC110  the store tells nobody
        await asyncio.sleep(0)
    assert await stage.executions.cancel(WS, execution_id, 9, b"{}") == "cancelling"
    await stage.lose()
    stop.lose()
    await first
    await stage.performer.perform(await stage.claim("r2"), Stop())
    shown = await stage.show(execution_id)
    assert (shown["status"], [node["status"] for node in shown["nodes"]]) == (
        "cancelled",
        ["completed", "cancelled"],
    )
    assert stage.scene.calls == ["a", "b"]


async def test_a_stalled_runner_cannot_replace_a_large_result(stage: Stage) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def large(call: Call, config: Config) -> Outcome:
        if not reached.is_set():
            reached.set()
            await go_on.wait()
            return Outcome("old" * 50_000)
        return Outcome("new" * 50_000)

    stage.scene.acts = {"a": large}
    execution_id = await stage.accept(flow(("entry", "a")))
    late = asyncio.create_task(stage.performer.perform(await stage.claim(), Stop()))
    await reached.wait()
    await stage.lose()
    await stage.performer.perform(await stage.claim("r2"), Stop())
    go_on.set()
    await late
    stored = await stage.executions.read(WS, execution_id)
    assert stored is not None
    data = await stage.objects.get(stored.record["output_ref"].decode())
    assert orjson.loads(data) == "new" * 50_000


CANARY = "CANARY-7f3a9c21"


async def stored(stage: Stage, execution_id: str) -> bytes:
    """All that is stored of an execution."""
    kept = await stage.executions.read(WS, execution_id)
    assert kept is not None
    events = await stage.executions.events(WS, execution_id, 0)
    return b"\n".join([*kept.record.values(), *kept.nodes.values(), *(event.body for event in events)])


async def test_a_node_gets_its_secret_and_nothing_keeps_it(stage: Stage) -> None:
    """Output, log, tokens in pieces, a retry's error: what is stored has a mark instead."""
    stage.secrets.values["K"] = CANARY
    seen: list[Any] = []

    async def leak(call: Call, config: Config) -> Outcome:
        seen.append(config.say)
        call.log("info", f"I log {config.say}")
        for letter in f"<{config.say}>":
            call.token(letter)
        if call.attempt == 1:
            raise ProviderError(f"I fail with {config.say}", {"echo": [config.say]}, None, True)
        return Outcome({"echo": config.say, "in": f"x{config.say}y"})

    stage.scene.acts = {"a": leak}
    retry = {"max_attempts": 2, "backoff_ms": 1}
    nodes = {"a": {"config": {"say": "key {{ secrets.K }}"}, "retry": retry}}
    shown = await stage.run(flow(("entry", "a"), nodes=nodes))
    assert seen == [f"key {CANARY}"] * 2
    assert shown["result"]["output"] == {"echo": "key [secret]", "in": "xkey [secret]y"}
    everything = await stored(stage, shown["id"])
    assert CANARY.encode() not in everything
    assert b"I log key [secret]" in everything
    assert b"I fail with key [secret]" in everything


async def test_a_crash_tells_no_secret(stage: Stage) -> None:
    stage.secrets.values["K"] = CANARY

    async def crash(call: Call, config: Config) -> Outcome:
        raise KeyError(config.say)

    stage.scene.acts = {"a": crash}
    with capture_logs() as logs:
        shown = await stage.run(flow(("entry", "a"), nodes={"a": {"config": {"say": "{{ secrets.K }}"}}}))
    assert shown["error"]["code"] == "INTERNAL_ERROR"
    assert "KeyError" in str(logs)
    assert CANARY not in str(logs)
    assert CANARY.encode() not in await stored(stage, shown["id"])


async def test_a_node_elsewhere_resolves_its_secret_there(stage: Stage) -> None:
    stage.secrets.values["K"] = {"user": "u-canary-1", "password": CANARY}

    async def leak(call: Call, config: Config) -> Outcome:
        call.log("info", f"{config.say}")
        assert config.say == CANARY
        return Outcome(config.say)

    stage.scene.acts = {"a": leak}
    nodes = {"a": {"config": {"say": "{{ secrets.K.password }}"}, "resources": {"num_cpus": 1}}}
    shown = await stage.run(flow(("entry", "a"), nodes=nodes))
    assert shown["result"]["output"] == "[secret]"
    assert CANARY.encode() not in await stored(stage, shown["id"])


async def test_a_secret_that_is_gone_fails_the_node(stage: Stage) -> None:
    shown = await stage.run(flow(("entry", "a"), nodes={"a": {"config": {"say": "{{ secrets.K }}"}}}))
    assert (shown["status"], shown["error"]["message"]) == ("failed", "There is no secret named 'K'")
