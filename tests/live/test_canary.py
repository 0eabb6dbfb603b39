"""A secret is stored, used, and leaked by a flow in every way there is; then all that is kept is searched for it.

Searched are the store's files, objects and Parquet, all logs, Ray's session with its spilled objects, what a webhook
received, and every answer of the API but the one that may show it.
"""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from aiohttp import web

from cluster.layout import Home
from kernel.redaction import Redactor
from tests.platform import Platform

pytestmark = pytest.mark.anyio

CANARY = f"CANARY-{uuid4().hex}"
FIELD = f"FIELD-{uuid4().hex}"


class Elsewhere:
    """A server that sends back all it is sent, in several forms, and a receiver of webhooks."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.received: list[str] = []
        self.told = asyncio.Event()

    async def echo(self, request: web.Request) -> web.Response:
        body = await request.text()
        sent = f"{request.rel_url} {dict(request.headers)} {body}"
        self.seen.append(sent)
        shown = {"raw": sent, "base64": base64.b64encode(sent.encode()).decode(), "hex": sent.encode().hex()}
        status = int(request.query.get("status", "200"))
        return web.json_response(shown, status=status, headers={"x-echo": request.headers.get("x-key", "")})

    async def hook(self, request: web.Request) -> web.Response:
        self.received.append(await request.text())
        self.told.set()
        return web.Response()


@pytest.fixture
async def elsewhere() -> AsyncGenerator[tuple[Elsewhere, str]]:
    there = Elsewhere()
    app = web.Application()
    app.router.add_route("*", "/hook", there.hook)
    app.router.add_route("*", "/{path:.*}", there.echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield there, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def http(name: str, url: str, **more: Any) -> dict[str, Any]:
    config = {
        "method": "POST",
        "url": url,
        "headers": {"X-Key": "{{ secrets.canary }}", "Authorization": "Bearer {{ secrets.canary }}"},
        "body": {"password": "{{ secrets.canary-parts.password }}", "all": "{{ secrets.canary-parts }}"},
    }
    return {"id": name, "type": "http", "config": config | more.pop("config", {}), **more}


def leaking(url: str) -> dict[str, Any]:
    """Echoed into an output, into a template, into an error, into a URL, and from a node that runs elsewhere."""
    page = "{{ nodes.echo.output.body.raw }} {{ nodes.afar.output.headers }}"
    nodes = [
        http("echo", f"{url}/echo?key={{{{ secrets.canary }}}}"),
        http("afar", f"{url}/afar", resources={"num_cpus": 0.1}),
        http("fails", f"{url}/fails?status=500&key={{{{ secrets.canary }}}}", on_error={"default": "failed"}),
        http("lost", "http://127.0.0.1:1/{{ secrets.canary }}", on_error={"default": "lost"}),
        {"id": "page", "type": "template", "config": {"template": page}},
        {"id": "model", "type": "llm", "config": {"model": "scripted", "prompt": "Say {{ nodes.echo.output }}",
                                                    "script": {"reply": "I say nothing"}}},
    ]  # fmt: skip
    names = ("echo", "afar", "fails", "lost")
    edges = [{"source": "entry", "target": name} for name in names]
    edges += [{"source": "echo", "target": "page"}, {"source": "afar", "target": "page"}]
    edges += [{"source": "echo", "target": "model"}]
    return {"nodes": nodes, "edges": edges}


def forms() -> set[bytes]:
    redactor = Redactor()
    redactor.learn([CANARY, FIELD])
    return {form.encode() for form in redactor.forms}


def kept(platform: Platform) -> Iterator[Path]:
    """Every file of the installation and of its Ray."""
    for root in (platform.home, Home(platform.home).sockets):
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink():
                    yield path


async def test_a_secret_is_nowhere_but_where_it_is_used(
    platform: Platform, api: httpx2.AsyncClient, elsewhere: tuple[Elsewhere, str]
) -> None:
    there, url = elsewhere
    answers: list[str] = []

    async def ask(method: str, path: str, status: int, **more: Any) -> Any:
        answer = await api.request(method, path, **more)
        assert answer.status_code == status, answer.text
        answers.append(f"{answer.headers} {answer.text}")
        return answer.json() if answer.content else None

    plain = {"name": "canary", "type": "api_key", "value": CANARY, "tags": ["canary"]}
    credential = await ask(
        "POST", "/vault/credentials", 201, json=plain, headers={"Idempotency-Key": uuid4().hex}
    )
    parts = {"name": "canary-parts", "type": "custom", "value": {"user": "somebody-else", "password": FIELD}}
    await ask("POST", "/vault/credentials", 201, json=parts)
    await ask("POST", "/vault/credentials", 409, json=plain)
    await ask("POST", "/vault/credentials", 422, json=plain | {"name": "x", "type": CANARY[:3], "more": 1})
    await ask("PATCH", f"/vault/credentials/{credential['id']}", 422, json={"value": CANARY})
    await ask("POST", "/webhooks", 201, json={"url": f"{url}/hook", "events": ["execution.completed"]})

    prompt = {
        "nodes": [
            {"id": "a", "type": "llm", "config": {"model": "scripted", "prompt": "{{ secrets.canary }}"}}
        ]
    }
    await ask("POST", "/agents", 422, json={"name": "Told", "flow": prompt | {"edges": []}})
    agent = await ask("POST", "/agents", 201, json={"name": "Leaking", "flow": leaking(url)})
    order = {"input": {}, "options": {"labels": {"leak": "{{ secrets.canary }}"}}}
    done = await ask("POST", f"/agents/{agent['id']}/execute?wait=60", 200, json=order)
    assert done["status"] == "completed", done
    assert all(CANARY in sent for sent in there.seen), "it was used"
    assert {sent.split("?")[0].split()[0] for sent in there.seen} == {"/echo", "/afar", "/fails"}
    await ask("GET", f"/executions/{done['id']}", 200)
    async with api.stream("GET", f"/executions/{done['id']}/events") as events:
        answers.append((await events.aread()).decode())
    async with asyncio.timeout(20):
        await there.told.wait()

    collection = await ask("POST", "/rag/collections", 201, json={"name": f"canary-{uuid4().hex[:6]}"})
    source = {"type": "github", "location": f"{url}/org/repo", "credential_id": credential["id"]}
    job = await ask("POST", f"/rag/collections/{collection['id']}/ingest", 202, json={"sources": [source]})
    async with api.stream("GET", f"/rag/jobs/{job['job_id']}/events") as events:
        answers.append((await events.aread()).decode())
    state = await ask("GET", f"/rag/jobs/{job['job_id']}", 200)
    assert state["status"] in ("failed", "completed_with_errors"), state

    token = await ask("POST", "/vault/tokens", 201, json={"all": True, "reason": "canary", "ttl_s": 60})
    read = await api.get(f"/vault/credentials/{credential['id']}", headers={"X-Vault-Token": token["token"]})
    assert read.json()["value"] == CANARY
    for path in (
        "/vault/credentials",
        "/vault/audit",
        f"/vault/credentials/{credential['id']}/audit",
        "/usage/stats",
    ):
        await ask("GET", path, 200)
    pages = [
        str(api.base_url.copy_with(path=page)) for page in ("/", "/docs", "/v1/openapi.json", "/healthz")
    ]
    answers += [(await api.get(page)).text for page in pages]

    wanted = forms()
    shown = "\n".join([*answers, *there.received]).encode()
    assert [form for form in wanted if form in shown] == []
    assert any(b"Leaking" in path.read_bytes() for path in kept(platform)), "the search finds what is there"
    found = [str(path) for path in kept(platform) if any(form in path.read_bytes() for form in wanted)]
    assert found == []
