"""The platform's first run: the code reviewer of the API reference, over the public API like any client."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import httpx2

from cluster import printing
from cluster.failure import Refused
from cluster.layout import Connection

WIDTH = 76
INDENT = " " * 4
NAME = "Code Review Assistant"
MODEL = "smollm2-135m-instruct"
AGENT = {
    "name": NAME,
    "description": "Reviews code for bugs and best practices",
    "flow": {
        "nodes": [
            {
                "id": "llm1",
                "type": "llm",
                "config": {
                    "model": MODEL,
                    "prompt": (
                        "Review this code for bugs and best practices. Be brief.\n\n"
                        "```{{ input.language }}\n{{ input.code_snippet }}\n```"
                    ),
                },
            }
        ],
        "edges": [{"source": "entry", "target": "llm1"}],
    },
    "tags": ["development", "code-review"],
}
CALL = {
    "input": {"code_snippet": "function add(a, b) { return a + b }", "language": "javascript"},
    "options": {"timeout": 30000, "max_tokens": 2000},
}


def client(connection: Connection) -> httpx2.Client:
    return httpx2.Client(
        base_url=connection.base_url,
        headers={"Authorization": f"Bearer {connection.api_key}"},
        timeout=60,
        trust_env=False,
    )


def model_state(api: httpx2.Client) -> str:
    models = _json(api.get("/models"))["models"]
    found = next((model for model in models if model["id"] == MODEL), None)
    if found is None:
        return f"{MODEL} is not offered"
    return f"{MODEL} ready" if found["ready"] else f"{MODEL}: {found.get('missing', 'not ready')}"


def run(api: httpx2.Client) -> None:
    """Create the agent unless there is one of its name, run it, print what it says as it says it."""
    agent = _find(api) or _json(api.post("/agents", json=AGENT))["id"]
    printing.line(f"  {printing.PLAY} {NAME}  entry → llm1")
    execution = _json(api.post(f"/agents/{agent}/execute", json=CALL))["execution_id"]
    writer = Wrapped()
    for event in _events(api, execution):
        if event["type"] == "node.token":
            writer.write(event["data"]["text"])
    writer.close()
    _conclude(_json(api.get(f"/executions/{execution}")))


def _conclude(execution: dict[str, Any]) -> None:
    if execution["status"] != "completed":
        error = execution.get("error") or {}
        raise Refused(
            f"the first run ended {execution['status']}: {error.get('message', 'no reason given')}",
            f"the platform is up; look at GET /v1/executions/{execution['id']}",
        )
    seconds, tokens = execution["duration_ms"] / 1000, execution["result"]["tokens_used"]
    printing.line(f"  {printing.DONE} completed in {seconds:.1f} s, {tokens} tokens")


def _find(api: httpx2.Client) -> str | None:
    listed = _json(api.get("/agents", params={"search": NAME, "limit": 100}))["agents"]
    return next((agent["id"] for agent in listed if agent["name"] == NAME), None)


def _events(api: httpx2.Client, execution: str) -> Iterator[dict[str, Any]]:
    with api.stream("GET", f"/executions/{execution}/events") as answer:
        answer.raise_for_status()
        for event in httpx2.EventSource(answer):
            if event.data:
                yield json.loads(event.data)


def _json(answer: httpx2.Response) -> dict[str, Any]:
    if answer.status_code == 401:
        raise Refused("the key in connection.json is not valid any more", "make another: make key")
    if answer.is_error:
        raise Refused(
            f"the API answered {answer.status_code} to {answer.request.method} {answer.request.url.path}",
            f"it said: {textwrap.shorten(answer.text, 200)}",
        )
    body: dict[str, Any] = answer.json()
    return body


class Wrapped:
    """Prints text that arrives in pieces, each word once it is whole; the indentation of lines is kept."""

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    def write(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._put()
                self._end_line()
            elif character.isspace() and (self._column or self._word.strip()):
                self._put()
            else:
                self._word += character

    def close(self) -> None:
        self._put()
        self._end_line()

    def _put(self) -> None:
        if not self._word.strip():
            self._word = ""
            return
        if self._column and self._column + 1 + len(self._word) > WIDTH:
            self._end_line()
        space = " " if self._column else INDENT
        print(space + self._word, end="", flush=True)
        self._column += len(self._word) + (1 if self._column else 0)
        self._word = ""

    def _end_line(self) -> None:
        if self._column:
            print(flush=True)
        self._column = 0
