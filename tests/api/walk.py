"""A walk over every route with the ids of something: what tests of the walls between workspaces have in common.

A new route is walked as soon as it is there. Where its path or query names something new, or it takes a body, the
walk fails until `Names` and `BODIES` say what to put there.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute

from kernel.assembly import Kernel
from kernel.ids import Prefix, is_id, new_id
from kernel.knowledge.contract import document_id
from serve_apps.routing import Route
from tests.api.conftest import HELLO, Client, take_in

SECRET = {"name": "Key", "type": "password", "value": "correct horse"}
HOOK = {"url": "https://example.com/hook", "events": ["agent.deleted"]}
DOCUMENT = {"type": "text", "location": "a.md", "text": "Something to find"}
PREFIXES: tuple[Prefix, ...] = (
    "agent",
    "exec",
    "key",
    "ws",
    "user",
    "col",
    "doc",
    "job",
    "wh",
    "evt",
    "cred",
)
KEPT_HEADERS = ("content-type", "content-length", "etag", "location", "link", "retry-after", "cache-control")
MADE_NEW = (
    (re.compile(r"cxk_[a-z]+_\w+"), "<token>"),
    (re.compile(r"whsec_[\w+/=]+"), "<secret>"),
    (re.compile(r"\b[a-z]+_[0-9A-HJKMNP-TV-Z]{26}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "<time>"),
)
"""What differs between two answers of the same meaning."""


@dataclass(frozen=True)
class Names:
    """What a path, query or body can name: all of one workspace."""

    agent_id: str
    execution_id: str
    key_id: str
    workspace_id: str
    user_id: str
    collection_id: str
    document_id: str
    job_id: str
    webhook_id: str
    delivery_id: str
    credential_id: str
    node_id: str = "hello"
    version: str = "1.0.0"

    @classmethod
    async def of(cls, client: Client, kernel: Kernel) -> "Names":
        """Real ones, of things that are made for it."""
        workspace = (await client.ok("GET", "/v1/me"))["workspace"]["id"]
        agent = await client.agent()
        ended = await client.ok("POST", f"/v1/agents/{agent}/execute?wait=20", {"input": {"name": "Ada"}})
        key = await client.ok("POST", "/v1/api-keys", {"name": "CI", "scopes": ["agents:read"]})
        path = f"/v1/workspaces/{workspace}/members"
        member = await client.ok("POST", path, {"name": "Ada", "role": "owner"})
        collection = await client.collection()
        job = await take_in(kernel, client, collection, DOCUMENT)
        document = document_id(collection, DOCUMENT["location"])
        webhook = (await client.ok("POST", "/v1/webhooks", HOOK))["id"]
        delivery = (await client.ok("POST", f"/v1/webhooks/{webhook}/test"))["id"]
        credential = (await client.ok("POST", "/v1/vault/credentials", SECRET))["id"]
        people = (key["id"], workspace, member["user_id"])
        return cls(agent, ended["id"], *people, collection, document, job, webhook, delivery, credential)

    def like(self) -> "Names":
        """As many that name nothing."""
        fresh = {
            name: new_id(value.split("_")[0]) for name, value in asdict(self).items() if is_any_id(value)
        }
        return replace(self, **fresh)


def is_any_id(text: str) -> bool:
    return any(is_id(prefix, text) for prefix in PREFIXES)


@dataclass(frozen=True)
class Step:
    """One request. `scopes`: what the route says it needs."""

    method: str
    route: str
    scopes: frozenset[str]
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None


def bodies(names: Names, own: str) -> dict[str, list[Any]]:
    """For each route that takes one; those that name things. own: the caller's own workspace."""
    key = {"name": "x", "scopes": ["agents:read"]}
    return {
        "POST /v1/agents": [{"name": "x", "flow": HELLO}],
        "POST /v1/agents/validate": [{"name": "x", "flow": HELLO}],
        "PATCH /v1/agents/{agent_id}": [{"name": "x"}],
        "POST /v1/agents/{agent_id}/rollback": [{"version": names.version}],
        "POST /v1/agents/{agent_id}/execute": [{"input": {"name": "x"}}],
        "POST /v1/executions": [{"flow": HELLO, "input": {"name": "x"}}],
        "POST /v1/stream-tickets": [{"execution_id": names.execution_id}],
        "POST /v1/api-keys": [
            key | {"workspace_id": names.workspace_id},
            key | {"user_id": names.user_id},
            key | {"workspace_id": names.workspace_id, "user_id": names.user_id},
            key | {"workspace_id": own, "agents": [names.agent_id]},
        ],
        "PATCH /v1/api-keys/{key_id}": [{"name": "x"}, {"agents": [names.agent_id]}],
        "POST /v1/api-keys/{key_id}/rotate": [None, {"overlap_ms": 0}],
        "POST /v1/workspaces": [{"name": "x"}],
        "PATCH /v1/workspaces/{workspace_id}": [{"name": "x"}, {"plan": "pro"}, {"status": "disabled"}],
        "POST /v1/workspaces/{workspace_id}/members": [
            {"name": "x", "role": "viewer"},
            {"user_id": names.user_id, "role": "owner"},
        ],
        "PATCH /v1/workspaces/{workspace_id}/members/{user_id}": [{"role": "viewer"}],
        "POST /v1/rag/collections": [{"name": "x"}],
        "PATCH /v1/rag/collections/{collection_id}": [{"name": "x"}],
        "POST /v1/rag/collections/{collection_id}/search": [{"query": "x"}],
        "POST /v1/rag/search": [
            {"query": "x"},
            {"query": "x", "collection_ids": [names.collection_id]},
        ],
        "POST /v1/rag/collections/{collection_id}/ingest": [{"sources": [DOCUMENT]}],
        "POST /v1/vault/credentials": [SECRET],
        "PATCH /v1/vault/credentials/{credential_id}": [{"name": "x"}],
        "POST /v1/vault/credentials/{credential_id}/rotate": [{"value": "x"}],
        "POST /v1/vault/tokens": [
            {"credential_ids": [names.credential_id], "reason": "x"},
            {"all": True, "key_id": names.key_id, "reason": "x"},
        ],
        "POST /v1/webhooks": [HOOK],
        "POST /v1/webhooks/signing-secret/rotate": [None],
        "PATCH /v1/webhooks/{webhook_id}": [{"events": ["*"]}],
        "POST /v1/webhooks/{webhook_id}/rotate-secret": [None, {"secret": "x"}],
        "PUT /v1/usage/budgets": [
            {"budgets": [{"scope": "agent", "id": names.agent_id, "period": "day", "amount": 1.0}]},
            {"budgets": [{"scope": "key", "id": names.key_id, "period": "day", "amount": 1.0}]},
        ],
    }


def steps(app: FastAPI, names: Names, own: str) -> Iterator[Step]:
    """Every route of the API with these names; what lies below a workspace also with the caller's own."""
    known, listed = asdict(names), bodies(names, own)
    for route in app.routes:
        if not isinstance(route, Route) or route.scopes is None:
            continue
        missing = set(route.param_convertors) - set(known)
        assert not missing, f"{route.path}: say in Names what {missing} can be"
        places = [known]
        if {"workspace_id", "user_id"} <= set(route.param_convertors) or route.path.endswith("/members"):
            places.append(known | {"workspace_id": own})
        asked = [part.alias for part in _tree(route) if part.alias in known]
        query = {name: known[name] for name in asked}
        for method in sorted(route.methods or ()):
            what = f"{method} {route.path}"
            assert (what in listed) == (route.body_field is not None), f"{what}: say in bodies() what to send"
            for place in places:
                path = route.path.format(**place)
                for body in listed.get(what, [None]):
                    yield Step(method, what, frozenset(route.scopes), path, query, body)


def _tree(route: Route) -> Iterator[Any]:
    waiting = [route.dependant]
    while waiting:
        part = waiting.pop()
        waiting += part.dependencies
        yield from part.query_params


async def take(client: Client, step: Step) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers, as far as they say anything of what was asked for."""
    answer = await client(
        step.method, step.path, step.body, params=step.query, headers={"x-request-id": "walk"}
    )
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    return answer.status_code, answer.text, headers


def masked(text: str, names: Names) -> str:
    """Without what must differ: the names that were asked for, and what is made anew each time."""
    for name, value in asdict(names).items():
        if is_any_id(value):
            text = text.replace(value, f"<{name}>")
    for pattern, word in MADE_NEW:
        text = pattern.sub(word, text)
    return text


def sockets(app: FastAPI) -> list[APIWebSocketRoute]:
    return [route for route in app.routes if isinstance(route, APIWebSocketRoute)]


async def refused_upgrade(app: FastAPI, client: Client, path: str) -> tuple[int, str]:
    """Status and body of a WebSocket that is refused before it opens."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {client.key}".encode()), (b"x-request-id", b"walk")]
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "ws",
        "headers": headers,
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("api.test", 80),
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    body = b"".join(part.get("body", b"") for part in sent)
    return sent[0]["status"], body.decode()
