"""Who may have secrets used: whoever says where one is sent can read it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from kernel.assembly import Kernel
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

SECRET = {"name": "stripe", "type": "api_key", "value": "sk-0123456789abcdef"}


def flow(**config: Any) -> dict[str, Any]:
    http = {"url": "https://example.com/", "headers": {"Authorization": "Bearer {{ secrets.stripe }}"}}
    return {"nodes": [{"id": "h", "type": "http", "config": http | config}], "edges": []}


Key = Callable[..., Awaitable[Client]]


@pytest.fixture
def weak(kernel: Kernel, owner: Client) -> Key:
    async def made(*scopes: str) -> Client:
        return replace(owner, key=await limited(kernel.access, owner, scopes=list(scopes)))

    return made


@pytest.fixture
async def credential(owner: Client) -> str:
    return str((await owner("POST", "/v1/vault/credentials", SECRET)).json()["id"])


class TestFlows:
    async def test_take_a_key_that_may_read_secrets(self, owner: Client, weak: Key, credential: str) -> None:
        writer = await weak("agents:write", "agents:read", "executions:write", "vault:list")
        for method, path, body in (
            ("POST", "/v1/agents", {"name": "A", "flow": flow()}),
            ("POST", "/v1/agents/validate", {"name": "A", "flow": flow()}),
            ("POST", "/v1/executions", {"flow": flow(), "input": {}}),
        ):
            answer = await writer(method, path, body)
            assert answer.status_code == 403, path
            assert answer.json()["error"]["details"] == {"scope": "vault:read"}
            unknown = flow(headers={"A": "{{ secrets.nobody }}"})
            assert (await writer(method, path, body | {"flow": unknown})).status_code == 403, "tells no names"
        reader = await weak("agents:write", "vault:read")
        assert (await reader("POST", "/v1/agents", {"name": "A", "flow": flow()})).status_code == 201

    async def test_a_new_address_for_an_old_secret_takes_it_too(
        self, owner: Client, weak: Key, credential: str
    ) -> None:
        agent = (await owner("POST", "/v1/agents", {"name": "A", "flow": flow()})).json()["id"]
        writer = await weak("agents:write")
        elsewhere = {"flow": flow(url="https://example.org/")}
        assert (await writer("PATCH", f"/v1/agents/{agent}", elsewhere)).status_code == 403
        assert (await writer("PATCH", f"/v1/agents/{agent}", {"name": "B"})).status_code == 200
        assert (await owner("PATCH", f"/v1/agents/{agent}", elsewhere)).status_code == 200
        back = {"version": "1.0.0"}
        assert (await writer("POST", f"/v1/agents/{agent}/rollback", back)).status_code == 403

    async def test_used_by_and_what_becomes_of_it(self, owner: Client, credential: str) -> None:
        agent = (await owner("POST", "/v1/agents", {"name": "A", "flow": flow()})).json()["id"]
        path = f"/v1/vault/credentials/{credential}"
        told = (await owner("DELETE", path)).json()["error"]
        assert (told["code"], told["details"]["used_by"]) == ("CONFLICT", [{"type": "agent", "id": agent}])
        assert (await owner("PATCH", path, {"name": "other"})).status_code == 409
        assert (await owner("DELETE", f"{path}?force=true")).status_code == 204
        assert (await owner("GET", f"/v1/agents/{agent}")).json()["status"] == "error"

    async def test_an_inactive_agent_stays_so(self, owner: Client, credential: str) -> None:
        agent = (await owner("POST", "/v1/agents", {"name": "A", "flow": flow()})).json()["id"]
        await owner("PATCH", f"/v1/agents/{agent}", {"status": "inactive"})
        assert (await owner("DELETE", f"/v1/vault/credentials/{credential}?force=true")).status_code == 204
        assert (await owner("GET", f"/v1/agents/{agent}")).json()["status"] == "inactive"

    async def test_one_that_is_not_used_any_more_goes(self, owner: Client, credential: str) -> None:
        agent = (await owner("POST", "/v1/agents", {"name": "A", "flow": flow()})).json()["id"]
        plain = flow(headers={})
        assert (await owner("PATCH", f"/v1/agents/{agent}", {"flow": plain})).status_code == 200
        assert (await owner("DELETE", f"/v1/vault/credentials/{credential}")).status_code == 204


class TestSources:
    async def test_take_a_key_that_may_read_secrets(self, owner: Client, weak: Key, credential: str) -> None:
        made = await owner("POST", "/v1/rag/collections", {"name": "secret-sources"})
        path = f"/v1/rag/collections/{made.json()['id']}/ingest"
        source = {"type": "github", "location": "https://example.com/org/repo", "credential_id": credential}
        writer = await weak("rag:write")
        assert (await writer("POST", path, {"sources": [source]})).status_code == 403
        gone = source | {"credential_id": "cred_" + "0" * 26}
        told = (await owner("POST", path, {"sources": [gone]})).json()["error"]
        assert told["details"]["field"] == "sources[0].credential_id"
        assert (await owner("POST", path, {"sources": [source]})).status_code == 202
        used = (await owner("GET", f"/v1/vault/credentials/{credential}/metadata")).json()["used_by"]
        assert used == [{"type": "collection", "id": made.json()["id"]}]


async def test_models_are_ready_with_a_key_of_the_workspace(owner: Client, stranger: Client) -> None:
    async def ready(client: Client) -> bool:
        models = (await client("GET", "/v1/models")).json()["models"]
        return bool(next(one["ready"] for one in models if one["id"] == "gpt-4"))

    assert not await ready(owner)
    key = {
        "name": "OpenAI API Key",
        "type": "api_key",
        "value": "sk-0123456789",
        "tags": ["openai", "production"],
    }
    await owner("POST", "/v1/vault/credentials", key | {"environment": "production"})
    assert await ready(owner)
    assert not await ready(stranger)
