"""The examples of the API reference on agents and executions, word for word, over HTTP."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.platform import Platform

FLOW = {
    "nodes": [{"id": "llm1", "type": "llm", "config": {"model": "gpt-4", "prompt": "Review this code..."}}],
    "edges": [{"source": "entry", "target": "llm1"}],
}
ORDER = {
    "input": {"code_snippet": "function add(a, b) { return a + b }", "language": "javascript"},
    "options": {"timeout": 30000, "max_tokens": 2000},
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Api:
    """Sends what the reference's examples send, and nothing more."""

    def __init__(self, platform: Platform, base: str = "/v1"):
        self.base = f"http://127.0.0.1:{platform.port}{base}"
        self.key = platform.connection["api_key"]

    def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        answer = self.send(method, path, body)
        return answer.status_code, answer.json() if answer.content else None

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body)
        return httpx2.request(method, self.base + path, headers=headers, content=content, timeout=90)


@pytest.fixture(params=["/v1", "/api/v1"])
def api(platform: Platform, request: pytest.FixtureRequest) -> Api:
    return Api(platform, request.param)


def test_list_agents(api: Api) -> None:
    status, body = api("GET", "/agents")
    assert status == 200
    (item,) = [one for one in body["agents"] if one["name"] == "Code Review Assistant"]
    assert (
        item.items()
        >= {"description": "Reviews code for bugs and best practices", "status": "active"}.items()
    )
    assert item["id"].startswith("agent_")
    assert TIME.fullmatch(item["created_at"])
    assert item["execution_count"] >= 1
    assert 0 <= item["success_rate"] <= 1
    assert body["pagination"].items() >= {"page": 1, "limit": 20}.items()
    status, found = api("GET", "/agents?page=1&limit=5&status=active&search=code")
    assert item["id"] in [one["id"] for one in found["agents"]]


def test_create_get_update_delete(api: Api) -> None:
    order = {
        "name": "My New Agent",
        "description": "Agent description",
        "flow": FLOW,
        "tags": ["tag1", "tag2"],
    }
    status, made = api("POST", "/agents", order)
    assert status == 201
    status, shown = api("GET", f"/agents/{made['id']}")
    assert status == 200
    assert shown["flow"] == FLOW
    assert shown["metadata"].items() >= {"version": "1.0.0", "tags": ["tag1", "tag2"]}.items()
    assert shown["metadata"]["author"].startswith("user_")
    status, updated = api(
        "PATCH", f"/agents/{made['id']}", {"name": "Updated Name", "flow": {"nodes": FLOW["nodes"]}}
    )
    assert (status, updated["name"], updated["flow"]["edges"]) == (200, "Updated Name", FLOW["edges"])
    assert api("DELETE", f"/agents/{made['id']}") == (204, None)
    status, gone = api("GET", f"/agents/{made['id']}")
    assert (status, gone["error"]["code"]) == (404, "NOT_FOUND")


def test_execute_then_get(api: Api) -> None:
    status, body = api("GET", "/agents?search=review")
    agent = next(one for one in body["agents"] if one["name"] == "Code Review Assistant")
    status, started = api("POST", f"/agents/{agent['id']}/execute", ORDER)
    assert (status, started["status"]) == (202, "running")
    assert started["execution_id"].startswith("exec_")
    assert TIME.fullmatch(started["created_at"])
    events = api.send("GET", f"/executions/{started['execution_id']}/events").text
    assert "execution.completed" in events
    status, shown = api("GET", f"/executions/{started['execution_id']}")
    assert (status, shown["status"], shown["agent_id"]) == (200, "completed", agent["id"])
    assert shown["result"]["output"]
    assert shown["result"]["tokens_used"] > 0
    assert shown["duration_ms"] >= 0
    assert (
        shown["logs"][0].items()
        >= {"level": "info", "message": "Starting execution", "node_id": "entry"}.items()
    )


def test_a_model_without_a_key_says_what_to_store(api: Api) -> None:
    _, made = api("POST", "/agents", {"name": "Keyless", "flow": FLOW})
    status, shown = api("POST", f"/agents/{made['id']}/execute?wait=20", ORDER)
    assert (status, shown["status"]) == (200, "failed")
    assert "credential 'openai'" in shown["error"]["message"]
    assert shown["error"]["details"]["node_id"] == "llm1"


def test_the_error_of_the_reference(api: Api) -> None:
    nodes = [{"id": "llm1", "type": "llm", "config": {"model": "gpt-5", "prompt": "Review this code..."}}]
    status, body = api("POST", "/agents", {"name": "Wrong", "flow": {"nodes": nodes, "edges": FLOW["edges"]}})
    assert status == 422
    assert body["error"]["code"] == "VALIDATION_ERROR"
    assert body["error"]["message"] == "Invalid agent configuration"
    assert body["error"]["details"]["field"] == "flow.nodes[0].config.model"
    assert body["error"]["details"]["reason"] == "Model 'gpt-5' is not supported"


def test_without_a_key(api: Api) -> None:
    api.key = "YOUR_API_KEY"
    status, body = api("GET", "/agents")
    assert (status, body["error"]["code"]) == (401, "AUTHENTICATION_ERROR")
