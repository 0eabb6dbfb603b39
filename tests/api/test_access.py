"""Keys, workspaces and who one is, over HTTP."""

from typing import Any

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
        assert me["user"]["role"] == "owner"
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

        async def overtaken(store: AccessStore, *args: Any) -> bool:
            monkeypatch.undo()
            await owner.ok("PATCH", path, {"name": "Other"})
            return await change(store, *args)

        monkeypatch.setattr(AccessStore, "change_key", overtaken)
        answer = await owner("PATCH", path, {"name": "Mine"}, headers={"if-match": tag})
        assert answer.status_code == 409
        assert (await owner.ok("GET", path))["name"] == "Other"

    @pytest.mark.parametrize("kind", ["agents", "collections"])
    async def test_a_limited_key_sees_itself_alone(self, owner: Client, kernel: Kernel, kind: str) -> None:
        other = await owner.ok("POST", "/v1/api-keys", ORDER)
        weak = Client(owner.http, await limited(kernel.access, owner, scopes=["admin"], **{kind: []}))
        own = (await weak.ok("GET", "/v1/me"))["key"]["id"]
        assert (await weak.ok("GET", f"/v1/api-keys/{own}"))["id"] == own
        for path in ("/v1/api-keys", f"/v1/api-keys/{other['id']}"):
            assert (await weak("GET", path)).status_code == 403

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

    async def test_for_another_member(self, owner: Client) -> None:
        me = await owner.ok("GET", "/v1/me")
        path = f"/v1/workspaces/{me['workspace']['id']}/members"
        member = await owner.ok("POST", path, {"name": "Ada", "role": "viewer"})
        made = await owner.ok(
            "POST", "/v1/api-keys", ORDER | {"scopes": ["admin"], "user_id": member["user_id"]}
        )
        assert (made["user_id"], made["created_by"]) == (member["user_id"], me["user"]["id"])
        ada = await Client(owner.http, made["key"]).ok("GET", "/v1/me")
        assert ada["user"] == {"id": member["user_id"], "name": "Ada", "role": "viewer"}
        assert "admin" not in ada["key"]["scopes"]
        answer = await Client(owner.http, made["key"])("POST", "/v1/api-keys", ORDER)
        assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"scope": "admin"})

    @pytest.mark.parametrize("name", ["a\r\nx-admin: 1", "a\nb", "\u001b[2J", "a\u007f", "a\u0085", "\u202e"])
    async def test_names_that_would_be_read_as_something_else(self, owner: Client, name: str) -> None:
        for path in ("/v1/api-keys", "/v1/workspaces"):
            answer = await owner("POST", path, (ORDER if "keys" in path else {}) | {"name": name})
            assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "name")

    async def test_half_a_character_is_no_json(self, owner: Client) -> None:
        body = b'{"name":"a\\ud800","scopes":["agents:read"]}'
        headers = {"content-type": "application/json"}
        answer = await owner("POST", "/v1/api-keys", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "body")


class TestRotation:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        key = await owner.ok("POST", "/v1/api-keys", ORDER)
        path = f"/v1/api-keys/{key['id']}/rotate"
        assert (await anonymous("POST", path)).status_code == 401
        assert (await stranger("POST", path)).status_code == 404
        assert await owner.ok("GET", f"/v1/api-keys/{key['id']}") == {
            name: value for name, value in key.items() if name != "key"
        }

    async def test_the_successor_is_shown_once(self, owner: Client) -> None:
        old = await owner.ok("POST", "/v1/api-keys", ORDER)
        made = await owner("POST", f"/v1/api-keys/{old['id']}/rotate")
        new = made.json()
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert made.headers["location"] == f"/v1/api-keys/{new['id']}"
        shown = await owner.ok("GET", f"/v1/api-keys/{new['id']}")
        assert shown == {name: value for name, value in new.items() if name not in ("key", "replaces")}
        assert new["replaces"]["id"] == old["id"]
        for key in (old["key"], new["key"]):
            await Client(owner.http, key).ok("GET", "/v1/me")

    async def test_a_key_rotates_itself(self, owner: Client) -> None:
        own = (await owner.ok("GET", "/v1/me"))["key"]["id"]
        new = await owner.ok("POST", f"/v1/api-keys/{own}/rotate", {"overlap_ms": 0})
        assert (await owner("GET", "/v1/me")).status_code == 401
        me = await Client(owner.http, new["key"]).ok("GET", "/v1/me")
        assert me["key"] == {"id": new["id"], "scopes": ["admin"]}

    async def test_twice_is_a_conflict(self, owner: Client) -> None:
        old = (await owner.ok("POST", "/v1/api-keys", ORDER))["id"]
        new = await owner.ok("POST", f"/v1/api-keys/{old}/rotate", {})
        again = await owner("POST", f"/v1/api-keys/{old}/rotate")
        assert (again.status_code, again.json()["error"]["details"]["replaced_by"]) == (409, new["id"])

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"overlap_ms": -1}, "overlap_ms"),
            ({"overlap_ms": 604_800_001}, "overlap_ms"),
            ({"overlap_ms": "1"}, "overlap_ms"),
            ({"scopes": ["admin"]}, "scopes"),
            ([], "body"),
        ],
    )
    async def test_refusals(self, owner: Client, body: Any, field: str) -> None:
        old = (await owner.ok("POST", "/v1/api-keys", ORDER))["id"]
        answer = await owner("POST", f"/v1/api-keys/{old}/rotate", body)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)

    async def test_a_body_of_another_kind(self, owner: Client) -> None:
        old = (await owner.ok("POST", "/v1/api-keys", ORDER))["id"]
        answer = await owner(
            "POST",
            f"/v1/api-keys/{old}/rotate",
            content=b"overlap_ms=0",
            headers={"content-type": "text/plain"},
        )
        assert answer.status_code == 415
