"""The examples of the API reference on agents and executions, word for word, through curl."""

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

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


class Curl:
    def __init__(self, platform: Platform, base: str = "/v1"):
        self.base = f"http://127.0.0.1:{platform.port}{base}"
        self.key = platform.connection["api_key"]

    def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        command = [
            "curl",
            "-s",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
            "-H",
            f"Authorization: Bearer {self.key}",
        ]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        out = subprocess.run(
            [*command, self.base + path], capture_output=True, text=True, check=True, timeout=90
        )
        text, _, status = out.stdout.rpartition("\n")
        return int(status), json.loads(text) if text else None


@pytest.fixture(params=["/v1", "/api/v1"])
def curl(platform: Platform, request: pytest.FixtureRequest) -> Curl:
    return Curl(platform, request.param)


def test_list_agents(curl: Curl) -> None:
    status, body = curl("GET", "/agents")
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
    status, found = curl("GET", "/agents?page=1&limit=5&status=active&search=code")
    assert item["id"] in [one["id"] for one in found["agents"]]


def test_create_get_update_delete(curl: Curl) -> None:
    order = {
        "name": "My New Agent",
        "description": "Agent description",
        "flow": FLOW,
        "tags": ["tag1", "tag2"],
    }
    status, made = curl("POST", "/agents", order)
    assert status == 201
    status, shown = curl("GET", f"/agents/{made['id']}")
    assert status == 200
    assert shown["flow"] == FLOW
    assert shown["metadata"].items() >= {"version": "1.0.0", "tags": ["tag1", "tag2"]}.items()
    assert shown["metadata"]["author"].startswith("user_")
    status, updated = curl(
        "PATCH", f"/agents/{made['id']}", {"name": "Updated Name", "flow": {"nodes": FLOW["nodes"]}}
    )
    assert (status, updated["name"], updated["flow"]["edges"]) == (200, "Updated Name", FLOW["edges"])
    assert curl("DELETE", f"/agents/{made['id']}") == (204, None)
    status, gone = curl("GET", f"/agents/{made['id']}")
    assert (status, gone["error"]["code"]) == (404, "NOT_FOUND")


def test_execute_then_get(curl: Curl) -> None:
    status, body = curl("GET", "/agents?search=review")
    agent = next(one for one in body["agents"] if one["name"] == "Code Review Assistant")
    status, started = curl("POST", f"/agents/{agent['id']}/execute", ORDER)
    assert (status, started["status"]) == (202, "running")
    assert started["execution_id"].startswith("exec_")
    assert TIME.fullmatch(started["created_at"])
    events = subprocess.run(
        [
            "curl",
            "-sN",
            "-H",
            f"Authorization: Bearer {curl.key}",
            f"{curl.base}/executions/{started['execution_id']}/events",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert "execution.completed" in events
    status, shown = curl("GET", f"/executions/{started['execution_id']}")
    assert (status, shown["status"], shown["agent_id"]) == (200, "completed", agent["id"])
    assert shown["result"]["output"]
    assert shown["result"]["tokens_used"] > 0
    assert shown["duration_ms"] >= 0
    assert (
        shown["logs"][0].items()
        >= {"level": "info", "message": "Starting execution", "node_id": "entry"}.items()
    )


def test_a_model_without_a_key_says_what_to_store(curl: Curl) -> None:
    _, made = curl("POST", "/agents", {"name": "Keyless", "flow": FLOW})
    status, shown = curl("POST", f"/agents/{made['id']}/execute?wait=20", ORDER)
    assert (status, shown["status"]) == (200, "failed")
    assert "credential 'openai'" in shown["error"]["message"]
    assert shown["error"]["details"]["node_id"] == "llm1"


def test_the_error_of_the_reference(curl: Curl) -> None:
    nodes = [{"id": "llm1", "type": "llm", "config": {"model": "gpt-5", "prompt": "Review this code..."}}]
    status, body = curl(
        "POST", "/agents", {"name": "Wrong", "flow": {"nodes": nodes, "edges": FLOW["edges"]}}
    )
    assert status == 422
    assert body["error"]["code"] == "VALIDATION_ERROR"
    assert body["error"]["message"] == "Invalid agent configuration"
    assert body["error"]["details"]["field"] == "flow.nodes[0].config.model"
    assert body["error"]["details"]["reason"] == "Model 'gpt-5' is not supported"


def test_without_a_key(curl: Curl) -> None:
    curl.key = "YOUR_API_KEY"
    status, body = curl("GET", "/agents")
    assert (status, body["error"]["code"]) == (401, "AUTHENTICATION_ERROR")
