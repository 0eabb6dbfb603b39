"""Executions over HTTP."""

import pytest

from actors.runner import Runner
from kernel.assembly import Kernel
from kernel.storage import keys
from tests.api.conftest import FOREVER, HELLO, Client, limited

pytestmark = pytest.mark.anyio

NOBODYS = "exec_01JZ8XJ4T2QK5V9W3M7N6P1R8S"


class TestExecute:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        agent = await owner.agent()
        assert (await anonymous("POST", f"/v1/agents/{agent}/execute", {"input": 1})).status_code == 401
        assert (await stranger("POST", f"/v1/agents/{agent}/execute", {"input": 1})).status_code == 404

    async def test_answer(self, owner: Client) -> None:
        agent = await owner.agent()
        answer = await owner("POST", f"/v1/agents/{agent}/execute", {"input": {"name": "Ada"}})
        started = answer.json()
        path = f"/v1/executions/{started['execution_id']}"
        assert answer.status_code == 202
        assert answer.headers["location"] == path
        assert set(started) == {"execution_id", "status", "created_at", "links"}
        assert started["status"] == "running"
        assert started["links"] == {
            "self": path,
            "stream": f"{path}/stream",
            "events": f"{path}/events",
            "cancel": f"{path}/cancel",
        }

    async def test_wait(self, owner: Client, runner: Runner) -> None:
        agent = await owner.agent()
        answer = await owner("POST", f"/v1/agents/{agent}/execute?wait=20", {"input": {"name": "Ada"}})
        assert answer.status_code == 200
        assert answer.json()["result"]["output"] == "Hello Ada"
        assert answer.json() == await owner.ok("GET", f"/v1/executions/{answer.json()['id']}")

    async def test_a_wait_that_is_too_short(self, owner: Client, runner: Runner) -> None:
        agent = await owner.agent(FOREVER)
        answer = await owner("POST", f"/v1/agents/{agent}/execute?wait=1", {"input": 1})
        assert answer.status_code == 202
        assert answer.json()["status"] == "running"

    @pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", ""])
    async def test_waits_that_are_none(self, owner: Client, wait: str) -> None:
        answer = await owner("POST", f"/v1/agents/{await owner.agent()}/execute?wait={wait}", {"input": 1})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "wait")

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"timeout": 0}, "options.timeout"),
            ({"timeout": -1}, "options.timeout"),
            ({"timeout": 1_000_000_000}, "options.timeout"),
            ({"timeout": "10"}, "options.timeout"),
            ({"timeout": True}, "options.timeout"),
            ({"timeout": None}, "options.timeout"),
            ({"max_tokens": -1}, "options.max_tokens"),
            ({"max_cost": -0.1}, "options.max_cost"),
            ({"priority": "urgent"}, "options.priority"),
            ({"version": "9.9.9"}, "options.version"),
            ({"labels": {"a": {}}}, "options.labels.a"),
            ({"labels": {f"l{n}": "x" for n in range(51)}}, "options.labels"),
            ({"webhook": "x"}, "options.webhook"),
        ],
    )
    async def test_options_that_are_refused(
        self, owner: Client, options: dict[str, object], field: str
    ) -> None:
        agent = await owner.agent()
        answer = await owner("POST", f"/v1/agents/{agent}/execute", {"input": 1, "options": options})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)
        assert (await owner.ok("GET", "/v1/executions"))["executions"] == []

    async def test_input_is_checked_against_the_agents_schema(self, owner: Client) -> None:
        schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
        agent = await owner.agent(input_schema=schema)
        answer = await owner("POST", f"/v1/agents/{agent}/execute", {"input": {"name": 5}})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "input.name")

    async def test_input_that_is_too_large(self, owner: Client) -> None:
        agent = await owner.agent()
        answer = await owner("POST", f"/v1/agents/{agent}/execute", {"input": "x" * 1_000_001})
        assert answer.status_code == 413

    async def test_a_large_body_is_refused_unread(self, owner: Client) -> None:
        for path, most in ((f"/v1/agents/{NOBODYS}/execute", 1_065_536), ("/v1/executions", 2_114_112)):
            for size, status in ((most, 422), (most + 1, 413)):
                headers = {"content-type": "application/json"}
                answer = await owner("POST", path, content=b"x" * size, headers=headers)
                assert answer.status_code == status

    async def test_many_wrong_labels_are_one_error(self, owner: Client) -> None:
        order = {"flow": HELLO, "options": {"labels": {f"!{n}": 1 for n in range(51)}}}
        error = (await owner("POST", "/v1/executions", order)).json()["error"]["details"]
        assert error["errors"] == [
            {"field": "options.labels", "reason": "must have at most 50 items, not 51"}
        ]

    async def test_a_plan_that_is_gone_counts_as_the_basic_one(self, owner: Client, kernel: Kernel) -> None:
        who = await kernel.access.authenticate(owner.key or "")
        await kernel.store.call("HSET", keys.key("workspace", who.workspace_id), "plan", "gone")
        kernel.access._authentication.forget_all()
        for _ in range(10):
            await owner.execution(FOREVER)
        refused = await owner("POST", "/v1/executions", {"flow": FOREVER})
        assert refused.json()["error"]["details"] == {"limit": "concurrent", "max": 10}

    async def test_an_inactive_agent(self, owner: Client) -> None:
        agent = await owner.agent()
        await owner.ok("PATCH", f"/v1/agents/{agent}", {"status": "inactive"})
        assert (await owner("POST", f"/v1/agents/{agent}/execute", {"input": 1})).status_code == 409

    async def test_more_at_once_than_the_plan_allows(self, stranger: Client) -> None:
        agent = await stranger.agent()
        for _ in range(10):
            await stranger.ok("POST", f"/v1/agents/{agent}/execute", {"input": {"name": "x"}})
        answer = await stranger("POST", f"/v1/agents/{agent}/execute", {"input": {"name": "x"}})
        assert answer.status_code == 429
        assert answer.json()["error"]["details"]["limit"] == "concurrent"
        assert answer.json()["error"]["retryable"]


class TestInline:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("POST", "/v1/executions", {"flow": HELLO})).status_code == 401

    async def test_runs_a_flow_that_is_not_stored(self, owner: Client, runner: Runner) -> None:
        execution = await owner.ok("GET", f"/v1/executions/{await owner.ended()}")
        assert (execution["agent_id"], execution["result"]["output"]) == (None, "Hello Ada")
        assert (await owner.ok("GET", "/v1/agents"))["agents"] == []

    async def test_is_checked_like_a_stored_one(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/executions", {"flow": {"nodes": []}, "input": 1})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "flow.nodes")


class TestGet:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        execution = await owner.execution()
        for path in (f"/v1/executions/{execution}", f"/v1/executions/{execution}/nodes/hello"):
            assert (await anonymous("GET", path)).status_code == 401
            assert (await stranger("GET", path)).status_code == 404

    async def test_queued(self, owner: Client) -> None:
        execution = await owner.ok("GET", f"/v1/executions/{await owner.execution()}")
        assert (execution["status"], execution["phase"], execution["queue_position"]) == (
            "running",
            "queued",
            1,
        )
        assert execution["result"] is None

    async def test_an_ended_one_has_a_steady_tag(self, owner: Client, runner: Runner) -> None:
        path = f"/v1/executions/{await owner.ended()}"
        one, other = await owner("GET", path), await owner("GET", path)
        assert one.headers["etag"] == other.headers["etag"]
        assert (await owner("GET", path, headers={"if-none-match": one.headers["etag"]})).status_code == 304

    async def test_a_node(self, owner: Client, runner: Runner) -> None:
        execution = await owner.ended()
        node = await owner.ok("GET", f"/v1/executions/{execution}/nodes/hello")
        assert (node["id"], node["status"], node["output"]) == ("hello", "completed", "Hello Ada")
        assert (await owner("GET", f"/v1/executions/{execution}/nodes/other")).status_code == 404


class TestList:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        await owner.execution()
        assert (await anonymous("GET", "/v1/executions")).status_code == 401
        assert (await stranger.ok("GET", "/v1/executions"))["executions"] == []

    async def test_filters(self, owner: Client) -> None:
        agent = await owner.agent()
        body = {"input": {"name": "x"}, "options": {"labels": {"team": "core"}}}
        wanted = (await owner.ok("POST", f"/v1/agents/{agent}/execute", body))["execution_id"]
        await owner.execution()
        for query in (
            f"agent_id={agent}",
            "label=team=core",
            f"label=team=core&agent_id={agent}&status=running",
        ):
            found = await owner.ok("GET", f"/v1/executions?{query}")
            assert [execution["id"] for execution in found["executions"]] == [wanted], query
        assert (await owner.ok("GET", "/v1/executions?started_before=2024-01-15T10:00:00Z"))[
            "executions"
        ] == []
        assert (
            len(
                (await owner.ok("GET", "/v1/executions?started_after=2024-01-15T10:00:00%2B01:00"))[
                    "executions"
                ]
            )
            == 2
        )

    @pytest.mark.parametrize(
        "query",
        [
            "started_after=1700000000",
            "started_after=2024-02-30T00:00:00Z",
            "started_after=2024-01-01T00:00:00",
            "started_after=2024-01-01",
            "status=done",
            "label=x",
        ],
    )
    async def test_filters_that_are_none(self, owner: Client, query: str) -> None:
        answer = await owner("GET", f"/v1/executions?{query}")
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, query.split("=")[0])


class TestCancel:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        execution = await owner.execution()
        assert (await anonymous("POST", f"/v1/executions/{execution}/cancel")).status_code == 401
        assert (await stranger("POST", f"/v1/executions/{execution}/cancel")).status_code == 404

    async def test_before_it_runs_and_twice(self, owner: Client) -> None:
        execution = await owner.execution()
        for _ in range(2):
            answer = await owner("POST", f"/v1/executions/{execution}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert (await owner.ok("GET", f"/v1/executions/{execution}"))["status"] == "cancelled"

    async def test_while_it_runs(self, owner: Client, runner: Runner) -> None:
        execution = await owner.execution(FOREVER)
        answer = await owner("POST", f"/v1/executions/{execution}/cancel")
        assert answer.status_code in (200, 202)

    async def test_after_its_end(self, owner: Client, runner: Runner) -> None:
        answer = await owner("POST", f"/v1/executions/{await owner.ended()}/cancel")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")


class TestRetry:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        execution = await owner.execution()
        assert (await anonymous("POST", f"/v1/executions/{execution}/retry")).status_code == 401
        assert (await stranger("POST", f"/v1/executions/{execution}/retry")).status_code == 404

    async def test_from_the_start(self, owner: Client, runner: Runner) -> None:
        first = await owner.ended()
        answer = await owner("POST", f"/v1/executions/{first}/retry?from=start")
        assert answer.status_code == 202
        again = await owner.ok("GET", answer.headers["location"])
        assert again["retry_of"] == first
        assert again["id"] != first

    async def test_refusals(self, owner: Client) -> None:
        execution = await owner.execution()
        assert (await owner("POST", f"/v1/executions/{execution}/retry")).status_code == 409
        assert (await owner("POST", f"/v1/executions/{execution}/retry?from=end")).status_code == 422
        assert (await owner("POST", f"/v1/executions/{NOBODYS}/retry")).status_code == 404

    async def test_an_inline_flow_needs_the_right_to_write_one(
        self, owner: Client, kernel: Kernel, runner: Runner
    ) -> None:
        ended = await owner.ended()
        key = await limited(kernel.access, owner, scopes=["executions:read", "executions:write"])
        weak = Client(owner.http, key)
        answer = await weak("POST", f"/v1/executions/{ended}/retry?from=start")
        assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"scope": "agents:write"})


class TestDelete:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        execution = await owner.execution()
        assert (await anonymous("DELETE", f"/v1/executions/{execution}")).status_code == 401
        assert (await stranger("DELETE", f"/v1/executions/{execution}")).status_code == 404

    async def test_only_after_its_end_and_unchanged(self, owner: Client) -> None:
        path = f"/v1/executions/{await owner.execution()}"
        tag = (await owner("GET", path)).headers["etag"]
        assert (await owner("DELETE", path)).status_code == 409
        await owner.ok("POST", f"{path}/cancel")
        assert (await owner("DELETE", path, headers={"if-match": tag})).status_code == 409
        assert (await owner("DELETE", path)).status_code == 204
        assert (await owner("GET", path)).status_code == 404


async def test_inline_flows_need_the_right_to_write_agents(kernel: Kernel, owner: Client) -> None:
    key = Client(owner.http, await limited(kernel.access, owner, scopes=["executions:write"]))
    assert (await key("POST", "/v1/executions", {"flow": HELLO, "input": 1})).status_code == 403
