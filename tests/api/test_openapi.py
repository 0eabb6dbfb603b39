"""The document is complete, and the running server answers as it says."""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
import uvicorn
from fastapi.routing import APIWebSocketRoute
from hypothesis import HealthCheck, settings
from schemathesis import Case, checks
from schemathesis.specs.openapi import checks as described_as

from actors.runner import Runner
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.knowledge.contract import document_id
from serve_apps.api import create_app
from serve_apps.routing import Route
from tests.api.conftest import HELLO, work_off
from tests.platform import ROOT

DOCUMENT = create_app(Settings()).state.document.value
DESCRIBED = schemathesis.openapi.from_dict(DOCUMENT)
TEXT = {"type": "text", "location": "a.md", "text": "Something to find"}
SECRET = {"name": "Key", "type": "password", "value": "correct horse"}
LIMIT = re.compile(r'RateLimitError\(.*?"limit": "(\w+)"', re.DOTALL)
EXAMPLES = 25
"""Requests of each kind for each operation."""
HELD = [
    checks.not_a_server_error,
    described_as.status_code_conformance,
    described_as.content_type_conformance,
    described_as.response_schema_conformance,
    described_as.response_headers_conformance,
    described_as.allow_header_conformance,
]


class Served:
    """The API with a runner, in a thread and event loop of its own."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ready = threading.Event()
        self._server: uvicorn.Server | None = None
        self._kernel: asyncio.Future[Kernel] | None = None
        self.key = ""
        self.names: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Served":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(20)
        agent = self.post("/v1/agents", {"name": "Greeter", "flow": HELLO})["id"]
        collection = self.post("/v1/rag/collections", {"name": "docs"})["id"]
        self.names = {
            "agent_id": agent,
            "execution_id": self.post(f"/v1/agents/{agent}/execute?wait=20", {"input": {"name": "x"}})["id"],
            "workspace_id": self.post("/v1/workspaces", {"name": "Lab"})["id"],
            "node_id": "hello",
            "version": "1.0.0",
            "collection_id": collection,
            "credential_id": self.post("/v1/vault/credentials", SECRET)["id"],
            "document_id": document_id(collection, TEXT["location"]),
            "job_id": self.post(f"/v1/rag/collections/{collection}/ingest", {"sources": [TEXT]})["job_id"],
        }
        assert self._kernel is not None
        kernel = self._kernel.result()
        asyncio.run_coroutine_threadsafe(work_off(kernel), self._kernel.get_loop()).result(20)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(20)

    def post(self, path: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = httpx2.post(self.url + path, json=body, headers=headers, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    async def _run(self) -> None:
        started = self._kernel = asyncio.get_running_loop().create_future()

        @asynccontextmanager
        async def opening(settings: Settings) -> AsyncGenerator[Kernel]:
            async with Kernel.opened(settings) as kernel:
                started.set_result(kernel)
                yield kernel

        app = create_app(self._settings, opening)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        serving = asyncio.create_task(self._server.serve([self._listener]))
        kernel = await started
        await kernel.store.call("FLUSHALL")
        self.key = await kernel.access.bootstrap("test") or ""
        parts = (
            kernel.store,
            kernel.queue,
            kernel.performer("test"),
            kernel.subscriptions,
            kernel.settings.runner,
        )
        running = asyncio.create_task(Runner("runner-openapi", *parts).serve())
        self._ready.set()
        await serving
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(scope="module")
def served(valkey_url: str, milvus_url: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    home: Path = tmp_path_factory.mktemp("served")
    stores = {"store": {"url": valkey_url}, "vectors": {"url": milvus_url}}
    with Served(Settings(home=home, **stores, scripted_model=True, log_level="ERROR")) as served:
        yield served


def test_the_served_document_is_this_one(served: Served) -> None:
    assert httpx2.get(f"{served.url}/v1/openapi.json").json() == DOCUMENT
    assert httpx2.get(f"{served.url}/api/v1/openapi.json").json() == DOCUMENT


def test_everything_has_words_types_and_examples() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            at = f"{method} {path}"
            assert operation["summary"], at
            assert operation["description"], at
            assert operation["tags"], at
            for parameter in operation["parameters"]:
                assert "$ref" in parameter or (parameter["description"] and "example" in parameter), (
                    at,
                    parameter,
                )
            for status, answer in operation["responses"].items():
                assert "$ref" in answer or answer["description"] != "Successful Response", (at, status)
                for media in answer.get("content", {}).values():
                    assert "example" in media, (at, status)


def test_every_route_is_described() -> None:
    described = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    for route in create_app(Settings()).routes:
        if isinstance(route, Route):
            assert {(route.path, method) for method in route.methods} <= described
        elif isinstance(route, APIWebSocketRoute):
            assert (route.path, "GET") in described


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the server shares this process
@DESCRIBED.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: Case, served: Served) -> None:
    if case.method == "GET" or case.path.endswith(("/execute", "/cancel", "/retry", "/members", "/search")):
        asked = case.path_parameters or {}
        case.path_parameters = asked | {name: served.names[name] for name in served.names.keys() & asked}
    if case.path.endswith("/api-keys/{key_id}"):
        case.path_parameters["key_id"] = "key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"
    case.call_and_validate(
        served.url, headers={"authorization": f"Bearer {served.key}"}, checks=HELD, timeout=30
    )


def test_every_limit_that_can_be_reached_is_named() -> None:
    told = DOCUMENT["components"]["responses"]["RateLimitError"]["description"]
    files = [file for folder in ("kernel", "serve_apps") for file in (ROOT / folder).rglob("*.py")]
    named = {name for file in files for name in LIMIT.findall(file.read_text())}
    assert {"jobs", "ingest", "requests"} <= named
    assert [name for name in sorted(named) if f"`{name}`" not in told] == []
