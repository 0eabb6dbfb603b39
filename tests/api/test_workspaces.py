"""Workspaces and their members, over HTTP."""

from typing import Any

import pytest

from kernel.assembly import Kernel
from kernel.ids import new_id
from kernel.storage.members import MemberStore
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

ADA = {"name": "Ada", "email": "ada@example.com", "role": "developer"}


async def own(client: Client) -> str:
    """The path of the client's workspace."""
    workspace: str = (await client.ok("GET", "/v1/me"))["workspace"]["id"]
    return f"/v1/workspaces/{workspace}"


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

    async def test_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        path = await own(owner)
        for method, body in [("GET", None), ("PATCH", {"name": "Mine"})]:
            assert (await anonymous(method, path, body)).status_code == 401
            assert (await stranger(method, path, body)).status_code == 404

    async def test_what_is_shown(self, owner: Client, stranger: Client) -> None:
        path = await own(stranger)
        shown = await stranger.ok("GET", path)
        assert shown["limits"] == {
            "requests_per_hour": 1000,
            "burst": 50,
            "concurrent": 10,
            "tokens_per_day": None,
            "ingest_mb_per_day": None,
        }
        assert (shown["plan"], shown["status"], shown["role"]) == ("free", "active", "owner")
        assert (await owner.ok("GET", path)) == shown | {"role": None}
        assert (await stranger.ok("GET", "/v1/workspaces"))["workspaces"] == [shown]

    async def test_it_is_where_it_is_said_to_be(self, owner: Client) -> None:
        made = await owner("POST", "/v1/workspaces", {"name": "Lab"})
        found = await owner("GET", made.headers["location"])
        assert (found.json(), found.headers["etag"]) == (made.json(), made.headers["etag"])

    async def test_a_plan_and_limits_count_at_once(self, owner: Client, stranger: Client) -> None:
        path = await own(stranger)
        patch = {"plan": "pro", "limits": {"requests_per_hour": 7200, "burst": 70}}
        changed = await owner.ok("PATCH", path, patch)
        assert (changed["limits"]["burst"], changed["limits"]["concurrent"]) == (70, 50)
        headers = (await stranger("GET", "/v1/me")).headers
        assert (headers["x-ratelimit-plan"], headers["x-ratelimit-limit"]) == ("pro", "70")
        await owner.ok("PATCH", path, {"limits": None})
        assert (await stranger("GET", "/v1/me")).headers["x-ratelimit-limit"] == "500"

    async def test_a_disabled_one_is_closed(self, owner: Client, stranger: Client) -> None:
        path = await own(stranger)
        await owner.ok("PATCH", path, {"status": "disabled"})
        assert (await stranger("GET", "/v1/me")).status_code == 401
        await owner.ok("PATCH", path, {"status": "active"})
        assert (await stranger("GET", "/v1/me")).status_code == 200

    async def test_edits_are_held_to_what_was_read(self, owner: Client) -> None:
        path = await own(owner)
        tag = (await owner("GET", path)).headers["etag"]
        changed = await owner("PATCH", path, {"name": "One"}, headers={"if-match": tag})
        assert (changed.status_code, changed.json()["name"]) == (200, "One")
        assert (await owner("PATCH", path, {"name": "Two"}, headers={"if-match": tag})).status_code == 409
        again = {"if-none-match": changed.headers["etag"]}
        assert (await owner("GET", path, headers=again)).status_code == 304

    @pytest.mark.parametrize(
        ("patch", "field"),
        [
            ({"plan": "gold"}, "plan"),
            ({"limits": {"burst": 0}}, "limits.burst"),
            ({"limits": {"brust": 1}}, "limits.brust"),
            ({"limits": {"concurrent": 10**9}}, "limits.concurrent"),
            ({"limits": {"concurrent": "7"}}, "limits.concurrent"),
            ({"status": "gone"}, "status"),
            ({"name": " "}, "name"),
            ({"name": None}, "name"),
            ({"owner": "me"}, "owner"),
        ],
    )
    async def test_refusals(self, owner: Client, stranger: Client, patch: dict[str, Any], field: str) -> None:
        answer = await owner("PATCH", await own(stranger), patch)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


class TestMembers:
    async def test_anonymous_and_strangers(self, owner: Client, anonymous: Client, stranger: Client) -> None:
        path = f"{await own(owner)}/members"
        me = (await owner.ok("GET", "/v1/me"))["user"]["id"]
        for method, place, body in [
            ("GET", path, None),
            ("POST", path, ADA),
            ("GET", f"{path}/{me}", None),
            ("PATCH", f"{path}/{me}", {"role": "viewer"}),
            ("DELETE", f"{path}/{me}", None),
        ]:
            assert (await anonymous(method, place, body)).status_code == 401
            assert (await stranger(method, place, body)).status_code == 404

    async def test_add_change_and_remove(self, owner: Client) -> None:
        path = f"{await own(owner)}/members"
        made = await owner("POST", path, ADA)
        ada = made.json()
        assert made.status_code == 201
        assert ada == {"user_id": ada["user_id"]} | ADA
        place = made.headers["location"]
        assert (await owner("GET", place)).headers["etag"] == made.headers["etag"]
        assert (await owner.ok("GET", path))["members"][0] == ada
        stale = {"if-match": made.headers["etag"]}
        assert (await owner.ok("PATCH", place, {"role": "viewer"}, headers=stale))["role"] == "viewer"
        assert (await owner("DELETE", place, headers=stale)).status_code == 409
        assert (await owner("DELETE", place)).status_code == 204
        assert (await owner("DELETE", place)).status_code == 404

    async def test_pages(self, owner: Client) -> None:
        path = f"{await own(owner)}/members"
        for number in range(3):
            await owner.ok("POST", path, {"name": f"N{number}", "role": "viewer"})
        first = await owner.ok("GET", f"{path}?limit=3")
        rest = await owner.ok("GET", f"{path}?limit=3&cursor={first['next_cursor']}")
        assert first["pagination"] == {"page": 1, "limit": 3, "total": 4, "pages": 2}
        assert [member["name"] for member in rest["members"]] == ["Owner"]
        assert rest["next_cursor"] is None

    async def test_the_last_owner_stays(self, owner: Client) -> None:
        me = await owner.ok("GET", "/v1/me")
        place = f"{await own(owner)}/members/{me['user']['id']}"
        assert (await owner("DELETE", place)).status_code == 409
        assert (await owner("PATCH", place, {"role": "admin"})).status_code == 409
        assert (await owner.ok("GET", "/v1/me")) == me

    async def test_one_who_is_removed_is_out(self, owner: Client) -> None:
        path = f"{await own(owner)}/members"
        ada = await owner.ok("POST", path, ADA)
        key = await owner.ok(
            "POST", "/v1/api-keys", {"name": "A", "scopes": ["agents:write"], "user_id": ada["user_id"]}
        )
        client = Client(owner.http, key["key"])
        flow = {
            "name": "A",
            "flow": {"nodes": [{"id": "a", "type": "template", "config": {"template": "x"}}]},
        }
        assert (await client("POST", "/v1/agents", flow)).status_code == 201
        await owner.ok("PATCH", f"{path}/{ada['user_id']}", {"role": "viewer"})
        answer = await client("POST", "/v1/agents", flow)
        assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"scope": "agents:write"})
        await owner("DELETE", f"{path}/{ada['user_id']}")
        gone = (await client("GET", "/v1/me")).json()["error"]
        wrong = (await Client(owner.http, "cxk_dev_x")("GET", "/v1/me")).json()["error"]
        assert gone | {"request_id": ""} == wrong | {"request_id": ""}

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"role": "root"}, "role"),
            ({"role": None}, "role"),
            ({"email": "ada"}, "email"),
            ({"email": "a@b.cd\r\nbcc: x"}, "email"),
            ({"name": ""}, "name"),
            ({"name": "a\nb"}, "name"),
            ({"name": None}, "name"),
            ({"user_id": new_id("user")}, "name"),
            ({"user_id": new_id("user"), "name": None, "email": None}, "user_id"),
            ({"is_admin": True}, "is_admin"),
        ],
    )
    async def test_refusals(self, owner: Client, change: dict[str, Any], field: str) -> None:
        path = f"{await own(owner)}/members"
        answer = await owner("POST", path, ADA | change)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)
        assert (await owner.ok("GET", path))["pagination"]["total"] == 1

    async def test_a_lost_answer(self, owner: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """The replica was killed after the member was made: the retry tells of the same one."""
        path, once = f"{await own(owner)}/members", {"idempotency-key": "k"}
        add = MemberStore.add

        async def killed(store: MemberStore, *args: Any) -> Any:
            await add(store, *args)
            raise ConnectionResetError

        with monkeypatch.context() as broken:
            broken.setattr(MemberStore, "add", killed)
            assert (await owner("POST", path, ADA, headers=once)).status_code == 500
        made = await owner.ok("POST", path, ADA, headers=once)
        assert [one["user_id"] for one in (await owner.ok("GET", path))["members"]].count(
            made["user_id"]
        ) == 1
        assert (await owner.ok("GET", path))["pagination"]["total"] == 2

    async def test_a_limited_key_manages_nothing(self, owner: Client, kernel: Kernel) -> None:
        bound = await limited(kernel.access, owner, scopes=["admin"], agents=[await owner.agent()])
        path, client = f"{await own(owner)}/members", Client(owner.http, bound)
        assert (await client("GET", path)).status_code == 403
        assert (await client("POST", path, ADA)).status_code == 403
