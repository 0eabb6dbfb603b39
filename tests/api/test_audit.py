"""The audit log over HTTP."""

import csv
import io

import orjson
import pytest
from fastapi import FastAPI

from kernel.assembly import Kernel
from serve_apps.routing import Route
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

ORDER = {"name": "CI", "scopes": ["agents:read"]}


async def test_anonymous_and_strangers(owner: Client, anonymous: Client, stranger: Client) -> None:
    key = await owner.ok("POST", "/v1/api-keys", ORDER)
    for path in ("/v1/audit", "/v1/audit/export"):
        assert (await anonymous("GET", path)).status_code == 401
        assert key["id"] not in (await stranger("GET", path)).text
        assert key["id"] in (await owner("GET", path)).text


async def test_it_says_from_where(owner: Client) -> None:
    made = await owner("POST", "/v1/api-keys", ORDER, headers={"x-request-id": "mine-1"})
    entry = (await owner.ok("GET", "/v1/audit?action=key.create"))["entries"][0]
    assert (entry["target"], entry["request_id"], entry["address"]) == (
        made.json()["id"],
        "mine-1",
        "127.0.0.1",
    )
    me = await owner.ok("GET", "/v1/me")
    assert (entry["user_id"], entry["key_id"]) == (me["user"]["id"], me["key"]["id"])


async def test_escalation_is_in_it(owner: Client, kernel: Kernel) -> None:
    bound = await limited(kernel.access, owner, scopes=["admin"], agents=[await owner.agent()])
    weak = Client(owner.http, bound)
    assert (await weak("POST", "/v1/api-keys", {"name": "Free", "scopes": ["admin"]})).status_code == 403
    own = (await weak.ok("GET", "/v1/me"))["key"]["id"]
    found = await owner.ok("GET", f"/v1/audit?key_id={own}")
    assert [(one["action"], one["outcome"]) for one in found["entries"]] == [("key.create", "refused")]
    assert (await weak("GET", "/v1/audit")).status_code == 403
    assert (await weak("GET", "/v1/audit/export")).status_code == 403


async def test_filters_and_pages(owner: Client) -> None:
    for _ in range(3):
        await owner.ok("POST", "/v1/api-keys", ORDER)
    first = await owner.ok("GET", "/v1/audit?action=key.create&limit=2")
    rest = await owner.ok("GET", f"/v1/audit?action=key.create&limit=2&cursor={first['next_cursor']}")
    assert first["pagination"] == {"page": 1, "limit": 2, "total": 3, "pages": 2}
    ids = [entry["id"] for entry in first["entries"] + rest["entries"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 3
    moment = rest["entries"][0]["created_at"]
    early = await owner.ok("GET", f"/v1/audit?before={moment}")
    assert ids[-1] not in {entry["id"] for entry in early["entries"]}
    late = await owner.ok("GET", f"/v1/audit?after={moment}")
    assert ids[-1] in {entry["id"] for entry in late["entries"]}


async def test_exports(owner: Client) -> None:
    await owner.ok("POST", "/v1/api-keys", ORDER)
    lines = await owner("GET", "/v1/audit/export")
    told = [orjson.loads(line)["id"] for line in lines.text.splitlines()]
    assert told == [entry["id"] for entry in (await owner.ok("GET", "/v1/audit"))["entries"]][::-1]
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.headers["cache-control"] == "no-store"
    table = await owner("GET", "/v1/audit/export?format=csv&action=key.create")
    assert table.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["action"] for row in rows] == ["key.create"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("action=DROP%20TABLE", "action"),
        ("action=", "action"),
        ("user_id=%00", "user_id"),
        ("key_id=a%20b", "key_id"),
        ("after=2024-01-01", "after"),
        ("before=1700000000", "before"),
        ("before=2024-13-01T00:00:00Z", "before"),
        ("format=xml", "format"),
        ("since=2024", "since"),
        ("limit=101", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_refusals(owner: Client, query: str, field: str) -> None:
    path = "/v1/audit/export" if "format" in query else "/v1/audit"
    answer = await owner("GET", f"{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


async def test_no_route_changes_it(app: FastAPI, owner: Client) -> None:
    routes = [route for route in app.routes if isinstance(route, Route) and "audit" in route.path]
    of_vault = "/v1/vault/credentials/{credential_id}/audit", "/v1/vault/audit", "/v1/vault/audit/export"
    assert {route.path for route in routes} == {"/v1/audit", "/v1/audit/export", *of_vault}
    assert {method for route in routes for method in route.methods or ()} == {"GET"}
    entry = (await owner.ok("GET", "/v1/audit"))["entries"][0]["id"]
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await owner(method, "/v1/audit")).status_code == 405
        assert (await owner(method, f"/v1/audit/{entry}")).status_code == 404
