"""Without a valid key nothing is reached; with one, only what it is for."""

import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from starlette.routing import Route as AnyRoute

from kernel.access.scopes import Scope
from kernel.assembly import Kernel
from kernel.clock import ManualClock
from kernel.errors import RateLimitError
from serve_apps.deps import caller
from serve_apps.gate import MAX_BAD_KEYS, WINDOW_MS, BadKeys
from serve_apps.routing import Route
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

PUBLIC = {"/healthz", "/readyz", "/v1/openapi.json", "/", "/docs", "/docs/errors", "/docs/style.css"}
ANY_KEY = {"GET /v1/me", "GET /v1/workspaces", "GET /v1/workspaces/{workspace_id}"}
"""What a key may do whatever its scopes are."""
UNKNOWN = "cxk_dev_01JZ8XJ4T2QK5V9W3M7N6P1R8S_" + "a" * 43


async def test_every_route_names_the_scopes_it_needs(app: FastAPI) -> None:
    open_to_all, to_any_key = set(), set()
    for route in app.routes:
        if isinstance(route, Route) and route.scopes is not None:
            assert set(route.scopes) <= set(Scope)
            if not route.scopes:
                to_any_key |= {f"{method} {route.path}" for method in route.methods}
        elif isinstance(route, APIWebSocketRoute):
            assert [
                part.own_oauth_scopes for part in route.dependant.dependencies if part.call is caller
            ] != [[]]
        else:
            assert isinstance(route, AnyRoute)
            open_to_all.add(route.path)
    assert open_to_all == PUBLIC
    assert to_any_key == ANY_KEY


async def test_anonymous_callers_reach_no_route(
    app: FastAPI, anonymous: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_apps.gate.MAX_BAD_KEYS", 1_000)
    for route in app.routes:
        if isinstance(route, Route) and route.path not in PUBLIC:
            for method in route.methods:
                answer = await anonymous(method, route.path.replace("{", "").replace("}", ""))
                assert answer.status_code == 401, (method, route.path)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "AUTHENTICATION_ERROR"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer  x",
        "bearer",
        "Basic eDp5",
        "Bearer x y",
        "Token x",
        f"Bearer {UNKNOWN}",
        "Bearer ключ",
    ],
)
async def test_headers_that_are_no_key(anonymous: Client, header: str) -> None:
    answer = await anonymous("GET", "/v1/me", headers={"authorization": header.encode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AUTHENTICATION_ERROR")


async def test_the_scheme_is_not_case_sensitive(owner: Client, anonymous: Client) -> None:
    for scheme in ("bearer", "BEARER"):
        assert (
            await anonymous("GET", "/v1/me", headers={"authorization": f"{scheme} {owner.key}"})
        ).is_success


async def test_one_header_and_no_other_place(owner: Client, anonymous: Client) -> None:
    twice = [("authorization", f"Bearer {owner.key}")] * 2
    assert (await anonymous.http.get("/v1/me", headers=twice)).status_code == 401
    assert (await anonymous("GET", f"/v1/me?api_key={owner.key}&ticket={owner.key}")).status_code == 401


async def test_a_revoked_key(kernel: Kernel, owner: Client) -> None:
    other = Client(owner.http, await limited(kernel.access, owner, scopes=["agents:read"]))
    me = await other.ok("GET", "/v1/me")
    assert (await owner("DELETE", f"/v1/api-keys/{me['key']['id']}")).status_code == 204
    assert (await other("GET", "/v1/me")).status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("agents:read", "POST", "/v1/agents"),
        ("agents:read", "GET", "/v1/executions"),
        ("agents:write", "GET", "/v1/agents"),
        ("executions:write", "POST", "/v1/executions"),
        ("executions:read", "POST", "/v1/agents/agent_x/execute"),
        ("agents:write", "GET", "/v1/api-keys"),
    ],
)
async def test_a_key_without_the_scope(
    kernel: Kernel, owner: Client, scope: str, method: str, path: str
) -> None:
    other = Client(owner.http, await limited(kernel.access, owner, scopes=[scope]))
    answer = await other(method, path, {"not": "even read"} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "AUTHORIZATION_ERROR")


class TestKeyOfSomeAgents:
    async def test_the_others_do_not_exist(self, kernel: Kernel, owner: Client) -> None:
        mine, other = await owner.agent(), await owner.agent()
        limits = {"scopes": ["admin"], "agents": [mine]}
        key = Client(owner.http, await limited(kernel.access, owner, **limits))
        hidden = (await owner.ok("POST", f"/v1/agents/{other}/execute", {"input": {"name": "x"}}))[
            "execution_id"
        ]
        seen = (await key.ok("POST", f"/v1/agents/{mine}/execute", {"input": {"name": "x"}}))["execution_id"]
        assert [agent["id"] for agent in (await key.ok("GET", "/v1/agents"))["agents"]] == [mine]
        await key.ok("GET", f"/v1/executions/{seen}")
        await key.ok("GET", f"/v1/executions?agent_id={mine}")
        for method, path in [
            ("GET", f"/v1/agents/{other}"),
            ("DELETE", f"/v1/agents/{other}"),
            ("POST", f"/v1/agents/{other}/execute"),
            ("GET", f"/v1/executions?agent_id={other}"),
            ("GET", f"/v1/executions/{hidden}"),
            ("GET", f"/v1/executions/{hidden}/events"),
            ("POST", f"/v1/executions/{hidden}/cancel"),
        ]:
            answer = await key(method, path, {"input": {}} if path.endswith("execute") else None)
            assert answer.status_code == 404, (method, path)

    async def test_what_is_not_of_one_agent_is_refused(self, kernel: Kernel, owner: Client) -> None:
        limits = {"scopes": ["admin"], "agents": [await owner.agent()]}
        key = Client(owner.http, await limited(kernel.access, owner, **limits))
        flow = {"nodes": [{"id": "a", "type": "template", "config": {"template": "x"}}]}
        assert (await key("POST", "/v1/agents", {"name": "x", "flow": flow})).status_code == 403
        assert (await key("POST", "/v1/executions", {"flow": flow, "input": 1})).status_code == 403
        assert (await key("GET", "/v1/executions")).status_code == 403


async def test_many_bad_keys_from_one_address(owner: Client, anonymous: Client) -> None:
    bad = {"authorization": f"Bearer {UNKNOWN}"}
    answers = [await anonymous("GET", "/v1/me", headers=bad) for _ in range(MAX_BAD_KEYS + 1)]
    assert {answer.status_code for answer in answers[:-1]} == {401}
    assert answers[-1].status_code == 429
    assert answers[-1].json()["error"]["code"] == "RATE_LIMIT_ERROR"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert (await owner("GET", "/v1/me")).is_success


def test_addresses_are_forgiven_after_a_minute() -> None:
    clock = ManualClock()
    bad_keys = BadKeys(clock)
    for _ in range(MAX_BAD_KEYS):
        bad_keys.count("10.0.0.1")
    with pytest.raises(RateLimitError):
        bad_keys.count("10.0.0.1")
    bad_keys.count("10.0.0.2")
    clock.advance(WINDOW_MS)
    bad_keys.count("10.0.0.1")


def test_a_flood_of_addresses_does_not_grow_the_table() -> None:
    bad_keys = BadKeys(ManualClock())
    for number in range(25_000):
        bad_keys.count(str(number))
    assert len(bad_keys._windows) <= 10_000
