"""Agents over HTTP. What a flow may be is tested where it is decided."""

import asyncio
from typing import Any

import pytest

from actors.runner import Runner
from tests.api.conftest import HELLO, Client

pytestmark = pytest.mark.anyio

BODY = {"name": "Greeter", "description": "Says hello", "flow": HELLO, "tags": ["a", "b"]}


class TestCreate:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("POST", "/v1/agents", BODY)).status_code == 401

    async def test_shape(self, owner: Client) -> None:
        answer = await owner("POST", "/v1/agents", BODY)
        agent = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/v1/agents/{agent['id']}"
        assert agent["metadata"] == {
            "version": "1.0.0",
            "tags": ["a", "b"],
            "author": agent["metadata"]["author"],
        }
        assert (agent["status"], agent["execution_count"], agent["success_rate"]) == ("active", 0, None)
        read = await owner("GET", f"/v1/agents/{agent['id']}")
        assert read.json() == agent
        assert read.headers["etag"] == answer.headers["etag"]

    async def test_the_references_example_of_an_error(self, owner: Client) -> None:
        flow = {"nodes": [{"id": "llm1", "type": "llm", "config": {"model": "gpt-5", "prompt": "x"}}]}
        error = (await owner("POST", "/v1/agents", BODY | {"flow": flow})).json()["error"]
        assert error["message"] == "Invalid agent configuration"
        assert error["details"]["field"] == "flow.nodes[0].config.model"
        assert error["details"]["reason"] == "Model 'gpt-5' is not supported"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "  "}, "name"),
            ({"name": "x" * 129}, "name"),
            ({"name": "a\u202eb"}, "name"),
            ({"name": None}, "name"),
            ({"tags": "a"}, "tags"),
            ({"flow": {"nodes": []}}, "flow.nodes"),
            ({"flow": {"nodes": HELLO["nodes"] * 2}}, "flow.nodes[1].id"),
            (
                {"flow": {"nodes": HELLO["nodes"], "edges": [{"source": "hello", "target": "hello"}]}},
                "flow.edges[0]",
            ),
            (
                {"flow": {"nodes": HELLO["nodes"], "edges": [{"source": "x", "target": "hello"}]}},
                "flow.edges[0].source",
            ),
        ],
    )
    async def test_refusals_name_the_field(
        self, owner: Client, change: dict[str, object], field: str
    ) -> None:
        answer = await owner("POST", "/v1/agents", BODY | change)
        assert answer.status_code == 422
        assert answer.json()["error"]["details"]["field"].startswith(field), answer.text
        assert (await owner.ok("GET", "/v1/agents"))["agents"] == []


class TestGet:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        agent = await owner.agent()
        assert (await anonymous("GET", f"/v1/agents/{agent}")).status_code == 401
        foreign = await stranger("GET", f"/v1/agents/{agent}", headers={"x-request-id": "x"})
        unknown = await stranger(
            "GET", "/v1/agents/agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S", headers={"x-request-id": "x"}
        )
        assert foreign.status_code == 404
        assert foreign.content == unknown.content


class TestList:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        await owner.agent()
        assert (await anonymous("GET", "/v1/agents")).status_code == 401
        assert (await stranger.ok("GET", "/v1/agents"))["agents"] == []

    async def test_filters_combine(self, owner: Client) -> None:
        code = await owner.agent(name="Code reviewer", tags=["dev"])
        await owner.agent(name="Code writer", tags=["ops"])
        await owner.ok(
            "PATCH", f"/v1/agents/{await owner.agent(name='Coder', tags=['dev'])}", {"status": "inactive"}
        )
        found = await owner.ok("GET", "/v1/agents?search=cod&tag=dev&status=active")
        assert [agent["id"] for agent in found["agents"]] == [code]
        assert set(found["agents"][0]) == {
            *("id", "name", "description", "status", "created_at", "updated_at"),
            *("execution_count", "success_rate", "version", "tags"),
        }


class TestTag:
    async def test_a_run_changes_what_is_read_but_makes_no_edit_stale(
        self, owner: Client, runner: Runner
    ) -> None:
        agent = f"/v1/agents/{await owner.agent()}"
        tag = (await owner("GET", agent)).headers["etag"]
        assert (await owner("GET", agent, headers={"if-none-match": tag})).status_code == 304
        await owner.ok("POST", f"{agent}/execute?wait=20", {"input": {"name": "Ada"}})
        read = await owner("GET", agent, headers={"if-none-match": tag})
        assert (read.status_code, read.json()["execution_count"]) == (200, 1)
        changed = await owner("PATCH", agent, {"name": "One"}, headers={"if-match": tag})
        assert changed.status_code == 200
        assert (await owner("PATCH", agent, {"name": "Two"}, headers={"if-match": tag})).status_code == 409


class TestLargeFlows:
    async def test_they_are_checked_in_threads_side_by_side(self, owner: Client, runner: Runner) -> None:
        long = "x" * 400
        nodes = [node for n in range(30) for node in _of_each_language(n, long)]
        flow = {"nodes": nodes, "edges": [{"source": "entry", "target": node["id"]} for node in nodes]}
        made = await asyncio.gather(*(owner("POST", "/v1/agents", BODY | {"flow": flow}) for _ in range(8)))
        assert [answer.status_code for answer in made] == [201] * 8
        path = f"/v1/agents/{made[0].json()['id']}/execute?wait=30"
        ended = await owner.ok("POST", path, {"input": {"n": 1, "text": "x"}})
        assert ended["status"] == "completed"


def _of_each_language(n: int, long: str) -> list[dict[str, Any]]:
    configs = {
        "template": {"template": f"{{{{ input.n }}}} {long}"},
        "condition": {"expression": f"input.n == 1 && input.text != '{long}'"},
        "transform": {"expression": f"[input.n, '{long}']"},
        "llm": {
            "model": "scripted",
            "prompt": long,
            "response_schema": {"type": "integer"},
            "script": {"reply": "1"},
        },
    }
    return [{"id": f"{kind}{n}", "type": kind, "config": config} for kind, config in configs.items()]


class TestPatch:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        agent = await owner.agent()
        assert (await anonymous("PATCH", f"/v1/agents/{agent}", {"name": "x"})).status_code == 401
        assert (await stranger("PATCH", f"/v1/agents/{agent}", {"name": "x"})).status_code == 404

    async def test_partial(self, owner: Client) -> None:
        agent = await owner.agent(description="kept")
        changed = await owner.ok("PATCH", f"/v1/agents/{agent}", {"name": "Updated Name"})
        assert (changed["name"], changed["description"], changed["version"]) == (
            "Updated Name",
            "kept",
            "1.0.1",
        )

    async def test_a_stale_tag_changes_nothing(self, owner: Client) -> None:
        agent = await owner.agent()
        stale = (await owner("GET", f"/v1/agents/{agent}")).headers["etag"]
        fresh = (
            await owner("PATCH", f"/v1/agents/{agent}", {"name": "One"}, headers={"if-match": stale})
        ).headers["etag"]
        for method, body in (("PATCH", {"name": "Two"}), ("DELETE", None)):
            answer = await owner(method, f"/v1/agents/{agent}", body, headers={"if-match": stale})
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "CONFLICT")
        assert (await owner.ok("GET", f"/v1/agents/{agent}"))["name"] == "One"
        assert (await owner("DELETE", f"/v1/agents/{agent}", headers={"if-match": fresh})).status_code == 204

    @pytest.mark.parametrize("field", ["id", "created_at", "version", "metadata", "execution_count"])
    async def test_what_never_changes_is_refused(self, owner: Client, field: str) -> None:
        answer = await owner("PATCH", f"/v1/agents/{await owner.agent()}", {field: "x"})
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


class TestDelete:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        agent = await owner.agent()
        assert (await anonymous("DELETE", f"/v1/agents/{agent}")).status_code == 401
        assert (await stranger("DELETE", f"/v1/agents/{agent}")).status_code == 404

    async def test_then_it_is_gone(self, owner: Client) -> None:
        agent = await owner.agent()
        answer = await owner("DELETE", f"/v1/agents/{agent}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await owner("GET", f"/v1/agents/{agent}")).status_code == 404
        assert (await owner("POST", f"/v1/agents/{agent}/execute", {"input": 1})).status_code == 404


class TestValidate:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("POST", "/v1/agents/validate", BODY)).status_code == 401

    async def test_tells_everything_and_stores_nothing(self, owner: Client) -> None:
        assert await owner.ok("POST", "/v1/agents/validate", BODY) == {"valid": True, "errors": []}
        verdict = await owner.ok("POST", "/v1/agents/validate", {"flow": {"nodes": []}, "colour": "red"})
        assert not verdict["valid"]
        assert {"name", "colour"} <= {error["field"] for error in verdict["errors"]}
        assert (await owner.ok("GET", "/v1/agents"))["agents"] == []

    async def test_a_body_that_is_no_agent_at_all(self, owner: Client) -> None:
        verdict = await owner.ok("POST", "/v1/agents/validate", {f"field{n}": n for n in range(50)})
        assert not verdict["valid"]

    async def test_tells_the_first_fifty(self, owner: Client) -> None:
        flow = {"nodes": [{"id": f"n{n}", "type": "nothing"} for n in range(60)]}
        verdict = await owner.ok("POST", "/v1/agents/validate", {"name": "x", "flow": flow})
        assert len(verdict["errors"]) == 50


class TestVersions:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        agent = await owner.agent()
        for path in (f"/v1/agents/{agent}/versions", f"/v1/agents/{agent}/versions/1.0.0"):
            assert (await anonymous("GET", path)).status_code == 401
            assert (await stranger("GET", path)).status_code == 404

    async def test_history_and_rollback(self, owner: Client) -> None:
        agent = await owner.agent()
        flow = {"nodes": [{"id": "other", "type": "template", "config": {"template": "Bye"}}]}
        await owner.ok("PATCH", f"/v1/agents/{agent}", {"flow": flow | {"edges": []}})
        back = await owner.ok("POST", f"/v1/agents/{agent}/rollback", {"version": "1.0.0"})
        assert (back["version"], back["flow"]) == ("1.2.0", HELLO)
        listed = (await owner.ok("GET", f"/v1/agents/{agent}/versions"))["versions"]
        assert [version["version"] for version in listed] == ["1.2.0", "1.1.0", "1.0.0"]
        page = await owner("GET", f"/v1/agents/{agent}/versions?limit=2&page=2")
        assert [version["version"] for version in page.json()["versions"]] == ["1.0.0"]
        assert "next_cursor" not in page.json()
        assert (await owner("GET", f"/v1/agents/{agent}/versions?cursor=x")).status_code == 422
        old = await owner.ok("GET", f"/v1/agents/{agent}/versions/1.1.0")
        assert old["flow"]["nodes"][0]["id"] == "other"
        assert (await owner("GET", f"/v1/agents/{agent}/versions/9.0.0")).status_code == 404
        assert (await owner("POST", f"/v1/agents/{agent}/rollback", {"version": "9.0.0"})).status_code == 422
