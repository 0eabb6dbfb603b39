"""Keys, workspaces and who one is, over HTTP."""

import pytest

from kernel.assembly import Kernel
from kernel.storage.access import AccessStore
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

ORDER = {"name": "CI", "scopes": ["agents:read"]}


class TestMe:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("GET", "/v1/me")).status_code == 401

    async def test_shape(self, owner: Client, kernel: Kernel) -> None:
        me = await Client(owner.http, await limited(kernel.access, owner, scopes=["agents:read"])).ok(
            "GET", "/v1/me"
        )
        assert set(me) == {"user", "workspace", "key"}
        assert set(me["workspace"]) == {"id", "name", "plan"}
        assert me["key"]["scopes"] == ["agents:read"]


class TestKeys:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        key = await owner.ok("POST", "/v1/api-keys", ORDER)
        for method, path, body in [
            ("GET", "/v1/api-keys", None),
            ("POST", "/v1/api-keys", ORDER),
            ("GET", f"/v1/api-keys/{key['id']}", None),
            ("PATCH", f"/v1/api-keys/{key['id']}", {"name": "x"}),
            ("DELETE", f"/v1/api-keys/{key['id']}", None),
        ]:
            assert (await anonymous(method, path, body)).status_code == 401
            if key["id"] in path:
                assert (await stranger(method, path, body)).status_code == 404

    async def test_a_secret_is_shown_once(self, owner: Client) -> None:
        made = await owner("POST", "/v1/api-keys", ORDER)
        key = made.json()
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert made.headers["location"] == f"/v1/api-keys/{key['id']}"
        assert key["key"].startswith(key["prefix"])
        for path in ("/v1/api-keys", f"/v1/api-keys/{key['id']}"):
            assert key["key"] not in (await owner("GET", path)).text

    async def test_change_and_revoke(self, owner: Client) -> None:
        made = await owner.ok("POST", "/v1/api-keys", ORDER)
        path, holder = f"/v1/api-keys/{made['id']}", Client(owner.http, made["key"])
        tag = (await owner("GET", path)).headers["etag"]
        await holder.ok("GET", "/v1/me")
        changed = await owner("PATCH", path, {"name": "Build"}, headers={"if-match": tag})
        assert (changed.status_code, changed.json()["name"]) == (200, "Build")
        assert (await owner("DELETE", path, headers={"if-match": tag})).status_code == 409
        assert (await owner("DELETE", path)).status_code == 204
        assert (await owner("GET", path)).status_code == 404
        assert (await holder("GET", "/v1/me")).status_code == 401

    async def test_no_key_ends_a_stronger_one(self, owner: Client, kernel: Kernel) -> None:
        bound = await limited(kernel.access, owner, scopes=["admin"], agents=[await owner.agent()])
        weak, mine = Client(owner.http, bound), (await owner.ok("GET", "/v1/me"))["key"]["id"]
        assert (await weak("DELETE", f"/v1/api-keys/{mine}")).status_code == 403
        assert (await owner("GET", "/v1/me")).status_code == 200
        own = (await weak.ok("GET", "/v1/me"))["key"]["id"]
        assert (await weak("DELETE", f"/v1/api-keys/{own}")).status_code == 204
        assert (await weak("GET", "/v1/me")).status_code == 401

    async def test_an_edit_that_came_between_is_not_overwritten(
        self, owner: Client, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = await owner.ok("POST", "/v1/api-keys", ORDER)
        path, change = f"/v1/api-keys/{made['id']}", AccessStore.change_key
        tag = (await owner("GET", path)).headers["etag"]

        async def overtaken(store: AccessStore, key_id: str, was: bytes, record: str) -> bool:
            monkeypatch.undo()
            await owner.ok("PATCH", path, {"name": "Other"})
            return await change(store, key_id, was, record)

        monkeypatch.setattr(AccessStore, "change_key", overtaken)
        answer = await owner("PATCH", path, {"name": "Mine"}, headers={"if-match": tag})
        assert answer.status_code == 409
        assert (await owner.ok("GET", path))["name"] == "Other"

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"name": ""}, "name"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["everything"]}, "scopes[0]"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"expires_at": "soon"}, "expires_at"),
            ({"agents": ["x"]}, "agents"),
            ({"key": "mine"}, "key"),
        ],
    )
    async def test_refusals(self, owner: Client, change: dict[str, object], field: str) -> None:
        answer = await owner("POST", "/v1/api-keys", ORDER | change)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


class TestWorkspaces:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("GET", "/v1/workspaces")).status_code == 401
        assert (await anonymous("POST", "/v1/workspaces", {"name": "x"})).status_code == 401

    async def test_a_limited_key_makes_none(self, owner: Client, kernel: Kernel) -> None:
        bound = await limited(kernel.access, owner, scopes=["admin"], agents=[await owner.agent()])
        assert (await Client(owner.http, bound)("POST", "/v1/workspaces", {"name": "x"})).status_code == 403

    async def test_create_and_list(self, owner: Client) -> None:
        made = await owner("POST", "/v1/workspaces", {"name": "Lab", "plan": "pro"})
        assert (made.status_code, made.json()["plan"]) == (201, "pro")
        listed = await owner.ok("GET", "/v1/workspaces?limit=1")
        assert [workspace["name"] for workspace in listed["workspaces"]] == ["Lab"]
        rest = await owner.ok("GET", f"/v1/workspaces?limit=1&cursor={listed['next_cursor']}")
        assert [workspace["name"] for workspace in rest["workspaces"]] == ["Default"]
