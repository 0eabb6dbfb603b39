"""Agents and executions through the client, and the example of the API reference."""

import asyncio
from typing import Any

import pytest

from actors.runner import Runner
from codexos import NotFoundError, UnprocessableEntityError, WaitTimeoutError
from codexos.types.events import ExecutionCompleted, NodeToken
from tests.api.conftest import FOREVER, HELLO, Client
from tests.api.test_streams import CHATTY, HELLO_EVENTS

pytestmark = pytest.mark.anyio

EXAMPLE = """\
from codexos import Client

client = Client(api_key="YOUR_API_KEY")

# List agents
agents = client.agents.list()

# Execute an agent
result = client.agents.execute(
    agent_id="agent_abc123",
    input={"text": "Hello world"}
)
"""


async def test_the_example_of_the_reference(
    base_url: str, key: str, owner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await owner.agent()
    monkeypatch.setenv("CODEXOS_BASE_URL", base_url)
    names: dict[str, Any] = {}
    text = EXAMPLE.replace("YOUR_API_KEY", key).replace("agent_abc123", agent)
    await asyncio.to_thread(exec, text, names)
    names["client"].close()
    assert [one.id for one in names["agents"].items] == [agent]
    assert names["result"].status == "running"
    assert names["result"].execution_id.startswith("exec_")
    shown = await owner.ok("GET", f"/v1/executions/{names['result'].id}")
    assert shown["input"] == {"text": "Hello world"}


class TestAgents:
    async def test_create_get_update_delete(self, client: Any) -> None:
        made = await client.agents.create(name="Greeter", flow=HELLO, tags=["a"], input_schema={})
        assert (made.name, made.version, made.tags, made.success_rate) == ("Greeter", "1.0.0", ["a"], None)
        assert made.created_at.utcoffset().total_seconds() == 0
        assert made.raw["metadata"]["author"] == made.metadata.author
        changed = await client.agents.update(made.id, name="Other", input_schema=None)
        assert (changed.name, changed.tags, changed.input_schema) == ("Other", ["a"], None)
        assert (await client.agents.get(made.id)) == changed
        await client.agents.delete(made.id)
        with pytest.raises(NotFoundError):
            await client.agents.get(made.id)

    async def test_everything_wrong_is_told(self, client: Any) -> None:
        nodes = [{"id": "one", "type": "llm", "config": {"model": "gpt-5", "prompt": "x"}}]
        with pytest.raises(UnprocessableEntityError) as caught:
            await client.agents.create(name="", flow={"nodes": nodes})
        assert caught.value.code == "VALIDATION_ERROR"
        assert {one["field"] for one in caught.value.errors} >= {"name"}
        assert str(caught.value.request_id) in str(caught.value)

    async def test_iterating_goes_over_all_pages(self, client: Any, owner: Client) -> None:
        made = [await owner.agent(name=f"A{number}") for number in range(5)]
        page = await client.agents.list(limit=2)
        assert ([one.id for one in page.items], page.total) == (made[:2:-1], 5)
        assert [one.id async for one in page] == made[::-1]
        assert [one.id async for one in client.agents.list(limit=2)] == made[::-1]
        following = await page.next_page()
        assert [one.id for one in following.items] == made[2:0:-1]
        last = await following.next_page()
        assert (last.has_next_page, await last.next_page()) == (False, None)

    async def test_filters_stay_on_further_pages(self, client: Any, owner: Client) -> None:
        wanted = [await owner.agent(tags=["x"]) for _ in range(3)]
        await owner.agent()
        assert [one.id async for one in client.agents.list(limit=1, tag="x")] == wanted[::-1]

    @pytest.mark.parametrize("name", ["", ".", "..", "agent_1/versions"])
    async def test_ids_that_lead_elsewhere(self, client: Any, name: str) -> None:
        with pytest.raises(ValueError, match="must not be empty"):
            await client.agents.delete(name)


class TestExecutions:
    async def test_execute_and_wait_in_one_call(self, client: Any, owner: Client, runner: Runner) -> None:
        agent = await owner.agent()
        options = {"timeout": 30_000, "labels": {"team": "core"}}
        ended = await client.agents.execute(agent, {"name": "Ada"}, options, wait=20)
        assert (ended.status, ended.result.output, ended.agent_id) == ("completed", "Hello Ada", agent)
        assert ended.labels == {"team": "core"}
        assert ended.nodes[0].placed_on.cpu_seconds >= 0

    async def test_wait_follows_it_to_its_end(self, client: Any, owner: Client, runner: Runner) -> None:
        started = await client.executions.create(flow=CHATTY)
        assert not started.has_ended
        ended = await client.executions.wait(started.id, timeout=20)
        assert (ended.status, ended.id) == ("completed", started.id)
        assert (await client.executions.wait(started.id)) == ended

    async def test_waiting_ends_and_the_execution_goes_on(self, client: Any) -> None:
        started = await client.executions.create(flow=FOREVER)
        with pytest.raises(WaitTimeoutError):
            await client.executions.wait(started.id, timeout=0.1)
        assert (await client.executions.get(started.id)).status == "running"

    async def test_its_failure(self, client: Any, runner: Runner) -> None:
        script = {"model": "scripted", "prompt": "x", "script": {"fail": ["500"]}}
        failed = await client.executions.create(
            flow={"nodes": [{"id": "bad", "type": "llm", "config": script}]}, wait=20
        )
        assert (failed.status, failed.error.details["node_id"]) == ("failed", "bad")

    async def test_events(self, client: Any, runner: Runner) -> None:
        started = await client.executions.create(flow=HELLO, input={"name": "Ada"})
        async with client.executions.stream(started.id) as stream:
            events = [event async for event in stream]
        assert [event.type for event in events] == HELLO_EVENTS
        assert [event.seq for event in events] == [1, 2, 3, 4]
        assert isinstance(events[-1], ExecutionCompleted)
        assert events[-1].result.output == "Hello Ada"
        assert [event.seq async for event in client.executions.stream(started.id, after=2)] == [3, 4]
        assert [event async for event in client.executions.stream(started.id, after=4)] == []

    async def test_tokens_as_they_come(self, client: Any, runner: Runner) -> None:
        started = await client.executions.create(flow=CHATTY)
        text = ""
        async with client.executions.stream(started.id) as stream:
            async for event in stream:
                text += event.text if isinstance(event, NodeToken) else ""
        assert text == (await client.executions.get(started.id)).result.output

    async def test_leaving_a_stream_early(self, client: Any, runner: Runner) -> None:
        started = await client.executions.create(flow=CHATTY)
        async with client.executions.stream(started.id) as stream:
            async for event in stream:
                assert event.seq == 1
                break
        assert stream.seq == 1

    async def test_lists_and_nodes(self, client: Any, runner: Runner) -> None:
        ended = await client.executions.create(
            flow=HELLO, input={"name": "Ada"}, options={"labels": {"a": "b"}}, wait=20
        )
        await client.executions.create(flow=HELLO, input={}, wait=20)
        found = [one.id async for one in client.executions.list(label="a=b", started_after=ended.created_at)]
        assert found == [ended.id]
        assert (await client.executions.list(started_before=ended.created_at)).items == []
        node = await client.executions.node(ended.id, "hello")
        assert (node.output, node.logs[0].level) == ("Hello Ada", "info")

    async def test_cancel_retry_delete(self, client: Any) -> None:
        started = await client.executions.create(flow=FOREVER)
        cancelled = await client.executions.cancel(started.id)
        assert cancelled.status == "cancelled"
        again = await client.executions.retry(started.id, start="start")
        assert (await client.executions.get(again.id)).retry_of == started.id
        await client.executions.delete(started.id)
        with pytest.raises(NotFoundError):
            await client.executions.get(started.id)


class TestTheRest:
    async def test_me_models_workspaces_usage(self, client: Any) -> None:
        me = await client.me()
        assert me.workspace.plan
        assert "scripted" in [model.id for model in await client.models.list()]
        made = await client.workspaces.create(name="Lab")
        assert made.id in [one.id async for one in client.workspaces.list()]
        stats = await client.usage.stats(granularity="month", group_by="agent")
        assert stats.period.start < stats.period.end
        assert (stats.usage.executions, stats.groups[0].value) == (0, None)

    async def test_api_keys(self, client: Any) -> None:
        made = await client.api_keys.create(name="CI", scopes=["agents:read"], agents=[])
        assert made.key.startswith("cxk_")
        assert made.key not in repr(made)
        changed = await client.api_keys.update(made.id, name="Build", agents=None)
        assert (changed.name, changed.agents) == ("Build", None)
        assert made.id in [one.id async for one in client.api_keys.list()]
        await client.api_keys.revoke(made.id)
        assert made.id not in [one.id async for one in client.api_keys.list()]

    async def test_any_route_and_its_headers(self, client: Any, owner: Client) -> None:
        agent = await owner.agent()
        answer = await client.request("get", f"/agents/{agent}")
        assert (answer.status_code, answer.json()["id"]) == (200, agent)
        again = await client.request(
            "GET", f"/agents/{agent}", headers={"If-None-Match": answer.headers["etag"]}
        )
        assert again.status_code == 304
        assert client.limits.plan == answer.headers["x-ratelimit-plan"]
