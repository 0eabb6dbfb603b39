"""The vault over HTTP: who gets in, what is told, and what never is."""

import asyncio
import csv
import io
from typing import Any

import orjson
import pytest
from fastapi import FastAPI

from kernel.assembly import Kernel
from kernel.clock import ManualClock
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.vault import LOCKED_MS, MAX_WRONG
from kernel.vault.tokens import new_token
from kernel.vault.values import MAX_BYTES
from serve_apps.routing import Route
from tests.api.conftest import Client, limited

pytestmark = pytest.mark.anyio

ORDER = {
    "name": "OpenAI API Key",
    "type": "api_key",
    "value": "sk-CANARY-0123456789",
    "tags": ["openai", "production"],
    "environment": "production",
}
PATH = "/v1/vault/credentials"
ONCE = {"idempotency-key": "k-1"}


async def kept(client: Client, **order: Any) -> str:
    made: str = (await client.ok("POST", PATH, ORDER | order))["id"]
    return made


async def token(client: Client, **order: Any) -> dict[str, str]:
    """The header that opens."""
    body = {"reason": "test"} | ({} if "credential_ids" in order else {"all": True}) | order
    return {"x-vault-token": (await client.ok("POST", "/v1/vault/tokens", body))["token"]}


async def tries(client: Client) -> list[tuple[str, Any]]:
    """Outcome and reason of every try to read, oldest first."""
    found = await client.ok("GET", "/v1/vault/audit?action=credential.read&limit=100")
    return [(one["outcome"], one["details"].get("reason")) for one in found["entries"]][::-1]


def routes(app: FastAPI) -> list[tuple[str, str]]:
    listed = [route for route in app.routes if isinstance(route, Route) and "/vault/" in route.path]
    return [(method, route.path) for route in listed for method in route.methods or ()]


class TestWhoGetsIn:
    async def test_anonymous_and_strangers(
        self, app: FastAPI, owner: Client, anonymous: Client, stranger: Client
    ) -> None:
        made = await kept(owner)
        assert len(routes(app)) == 11
        for method, route in routes(app):
            path = route.format(credential_id=made)
            assert (await anonymous(method, path)).status_code == 401
        for method, path, body in [
            ("GET", f"{PATH}/{made}", None),
            ("GET", f"{PATH}/{made}/metadata", None),
            ("GET", f"{PATH}/{made}/audit", None),
            ("PATCH", f"{PATH}/{made}", {"name": "x"}),
            ("POST", f"{PATH}/{made}/rotate", {"value": "x"}),
            ("DELETE", f"{PATH}/{made}?force=true", None),
        ]:
            answer = await stranger(method, path, body, headers=await token(stranger))
            assert answer.status_code == 404, answer.text
        assert made not in (await stranger("GET", PATH)).text
        assert (await owner.ok("GET", PATH))["pagination"]["total"] == 1

    async def test_a_key_without_the_scope_is_in_the_log(self, owner: Client, kernel: Kernel) -> None:
        made = await kept(owner)
        weak = Client(owner.http, await limited(kernel.access, owner, scopes=["vault:list"]))
        answer = await weak("GET", f"{PATH}/{made}", headers=await token(owner))
        assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"scope": "vault:read"})
        own = (await weak.ok("GET", "/v1/me"))["key"]["id"]
        entry = (await owner.ok("GET", f"{PATH}/{made}/audit?key_id={own}"))["entries"][0]
        assert (entry["action"], entry["outcome"], entry["target"], entry["address"]) == (
            "credential.read",
            "refused",
            made,
            "127.0.0.1",
        )
        assert entry["details"]["scope"] == "vault:read"

    async def test_a_key_that_is_limited(self, owner: Client, kernel: Kernel) -> None:
        made, header = await kept(owner), await token(owner)
        bound = await limited(kernel.access, owner, scopes=["admin"], agents=[await owner.agent()])
        weak = Client(owner.http, bound)
        for method, path, body in [
            ("GET", PATH, None),
            ("POST", PATH, ORDER),
            ("GET", f"{PATH}/{made}", None),
            ("GET", f"{PATH}/{made}/metadata", None),
            ("PATCH", f"{PATH}/{made}", {"name": "x"}),
            ("POST", f"{PATH}/{made}/rotate", {"value": "x"}),
            ("DELETE", f"{PATH}/{made}", None),
            ("GET", f"{PATH}/{made}/audit", None),
            ("POST", "/v1/vault/tokens", {"all": True, "reason": "x"}),
            ("GET", "/v1/vault/audit", None),
            ("GET", "/v1/vault/audit/export", None),
        ]:
            assert (await weak(method, path, body, headers=header)).status_code == 403, path
        own = (await weak.ok("GET", "/v1/me"))["key"]["id"]
        told = await owner.ok("GET", f"/v1/vault/audit?key_id={own}")
        assert [one["outcome"] for one in told["entries"]] == ["refused"] * 11


class TestMetadata:
    async def test_the_references_example(self, owner: Client) -> None:
        answer = await owner("POST", PATH, ORDER)
        made = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (201, f"{PATH}/{made['id']}")
        assert {name: made[name] for name in ("name", "type", "tags", "environment")} == {
            name: ORDER[name] for name in ("name", "type", "tags", "environment")
        }
        assert (made["value_hint"], made["version"], made["rotated_at"]) == ("6789", 1, None)
        assert (await owner.ok("GET", PATH))["credentials"] == [made]
        assert await owner.ok("GET", f"{PATH}/{made['id']}/metadata") == made | {"used_by": []}

    async def test_no_answer_has_the_value(self, app: FastAPI, owner: Client) -> None:
        made = await kept(owner)
        twin = await owner("POST", PATH, ORDER)
        wrong = await owner("POST", PATH, ORDER | {"type": "CANARY", "CANARY": 1})
        large = await owner("POST", PATH, ORDER | {"value": "CANARY" * 20_000})
        bad = await owner("POST", PATH, ORDER | {"type": "oauth2", "value": {"CANARY": "CANARY"}})
        patched = await owner("PATCH", f"{PATH}/{made}", {"description": "x"})
        rotated = await owner("POST", f"{PATH}/{made}/rotate", {"value": "sk-CANARY-9876543210"})
        rest = [
            await owner("GET", path.format(credential_id=made))
            for method, path in routes(app)
            if method == "GET"
        ]
        statuses = [answer.status_code for answer in (twin, wrong, large, bad, patched, rotated)]
        assert statuses == [409, 422, 413, 422, 200, 200]
        said = [answer.text for answer in (twin, large, bad, patched, rotated, *rest)]
        assert not [text for text in said if "CANARY" in text]
        assert "sk-CANARY" not in wrong.text
        assert rotated.json()["value_hint"] == "3210"

    @pytest.mark.parametrize(
        ("change", "status", "field"),
        [
            ({"name": "a/b"}, 422, "name"),
            ({"name": "a\u0000b"}, 422, "body"),
            ({"name": ""}, 422, "name"),
            ({"name": "x" * 129}, 422, "name"),
            ({"type": "token"}, 422, "type"),
            ({"value": ""}, 422, "value"),
            ({"value": None}, 422, "value"),
            ({"value": 7}, 422, "value"),
            ({"value": {"a": "b"}}, 422, "value"),
            ({"value": "x" * MAX_BYTES}, 201, None),
            ({"value": "x" * (MAX_BYTES + 1)}, 413, "value"),
            ({"value": "\u0001" * MAX_BYTES, "type": "custom"}, 201, None),
            ({"tags": ["x"] * 21}, 422, "tags"),
            ({"tags": ["a\nb"]}, 422, "tags"),
            ({"tags": "x"}, 422, "tags"),
            ({"environment": "a b"}, 422, "environment"),
            ({"vaule": "x"}, 422, "vaule"),
        ],
    )
    async def test_orders(
        self, owner: Client, change: dict[str, Any], status: int, field: str | None
    ) -> None:
        answer = await owner("POST", PATH, ORDER | change)
        assert answer.status_code == status, answer.text
        if field:
            assert answer.json()["error"]["details"]["field"] == field

    async def test_a_body_beyond_all_values(self, owner: Client) -> None:
        answer = await owner("POST", PATH, ORDER | {"value": "x" * 600_000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")

    async def test_a_patch_with_a_value_is_told_of_rotation(self, owner: Client) -> None:
        made = await kept(owner)
        for value in ("CANARY-2", None):
            answer = await owner("PATCH", f"{PATH}/{made}", {"value": value})
            details = answer.json()["error"]["details"]
            assert (answer.status_code, details["field"]) == (422, "value")
            assert "/rotate" in details["reason"]
            assert "CANARY" not in answer.text

    async def test_edits_are_bound_to_a_state(self, owner: Client) -> None:
        made = await kept(owner)
        seen = await owner("GET", f"{PATH}/{made}/metadata")
        etag = seen.headers["etag"]
        again = await owner("GET", f"{PATH}/{made}/metadata", headers={"if-none-match": etag})
        assert again.status_code == 304
        first = await owner("PATCH", f"{PATH}/{made}", {"tags": []}, headers={"if-match": etag})
        stale = await owner("PATCH", f"{PATH}/{made}", {"tags": ["x"]}, headers={"if-match": etag})
        assert (first.status_code, stale.status_code) == (200, 409)
        late = await owner("DELETE", f"{PATH}/{made}", headers={"if-match": etag})
        done = await owner("DELETE", f"{PATH}/{made}", headers={"if-match": first.headers["etag"]})
        assert (late.status_code, done.status_code) == (409, 204)
        assert (await owner("GET", f"{PATH}/{made}/metadata")).status_code == 404

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("type=api_key", 1),
            ("type=password", 0),
            ("tag=OpenAI", 1),
            ("environment=production&search=api", 1),
            ("search=claude", 0),
        ],
    )
    async def test_filters(self, owner: Client, query: str, found: int) -> None:
        await kept(owner)
        assert (await owner.ok("GET", f"{PATH}?{query}"))["pagination"]["total"] == found

    @pytest.mark.parametrize("query", ["type=x", "search=", "name=x", "limit=101", "cursor=x"])
    async def test_filters_that_are_none(self, owner: Client, query: str) -> None:
        assert (await owner("GET", f"{PATH}?{query}")).status_code == 422

    async def test_in_use(self, owner: Client) -> None:
        made = await kept(owner, name="Greeting", type="password")
        config = {"url": "https://example.com", "headers": {"x-key": "{{ secrets.Greeting }}"}}
        node = {"id": "call", "type": "http", "config": config}
        agent = await owner.agent({"nodes": [node], "edges": []})
        answer = await owner("DELETE", f"{PATH}/{made}")
        assert (answer.status_code, answer.json()["error"]["details"]["used_by"]) == (
            409,
            [{"type": "agent", "id": agent}],
        )
        assert (await owner.ok("GET", f"{PATH}/{made}/metadata"))["used_by"] == [
            {"type": "agent", "id": agent}
        ]
        assert (await owner("PATCH", f"{PATH}/{made}", {"name": "Other"})).status_code == 409
        assert (await owner("DELETE", f"{PATH}/{made}?force=true")).status_code == 204
        assert (await owner.ok("GET", f"/v1/agents/{agent}"))["status"] == "error"


class TestReading:
    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("password", "pässwörd \u2603"),
            ("custom", {"nested": {"list": [1, None, "x"]}}),
            ("ssh_key", {"private_key": "-----BEGIN…", "username": "git"}),
            ("connection_string", "postgres://user:pass@host/db"),
        ],
    )
    async def test_the_value_as_it_was_given(self, owner: Client, kind: str, value: Any) -> None:
        made = await kept(owner, type=kind, value=value)
        answer = await owner("GET", f"{PATH}/{made}", headers=await token(owner))
        assert answer.json()["value"] == value
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers

    async def test_refusals(self, owner: Client, kernel: Kernel, key: str) -> None:
        made, right = await kept(owner), await token(owner)
        header, wrong = "x-vault-token", new_token()[0]
        assert (await owner("GET", f"{PATH}/{made}?token={wrong}")).status_code == 422
        for headers, status, reason in [
            ([], 401, "no_token"),
            ([(header, "")], 401, "no_token"),
            ([(header, wrong)], 403, "wrong"),
            ([(header, key)], 403, "wrong"),
            ([(header, right[header]), (header, right[header])], 403, "wrong"),
            ([(header, right[header]), (header, wrong)], 403, "wrong"),
            ([(header, "ü")], 403, "wrong"),
        ]:
            sent = [("authorization", f"Bearer {owner.key}"), *headers]
            encoded = [(name, value.encode("latin-1")) for name, value in sent]
            answer = await owner.http.request("GET", f"{PATH}/{made}", headers=encoded)
            assert (answer.status_code, "CANARY" in answer.text) == (status, False), headers
            assert answer.headers["cache-control"] == "no-store"
            assert (await tries(owner))[-1] == ("refused", reason)
            if status == 401:
                assert "X-Vault-Token" in answer.json()["error"]["message"]

    async def test_locked_out(self, owner: Client, kernel: Kernel, clock: ManualClock) -> None:
        made, right = await kept(owner), await token(owner)
        for _ in range(MAX_WRONG):
            answer = await owner("GET", f"{PATH}/{made}", headers={"x-vault-token": new_token()[0]})
            assert answer.status_code == 403
        answer = await owner("GET", f"{PATH}/{made}", headers=right)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["details"]["limit"]) == (
            429,
            "RATE_LIMIT_ERROR",
            "vault",
        )
        assert 0 < int(answer.headers["retry-after"]) <= LOCKED_MS // 1000
        assert (await tries(owner))[-1] == ("refused", "locked")
        other = Client(owner.http, await limited(kernel.access, owner, scopes=["vault:read"]))
        assert (await other("GET", f"{PATH}/{made}", headers=right)).status_code == 200

    async def test_a_cut_value(self, owner: Client, kernel: Kernel) -> None:
        made, header = await kept(owner), await token(owner)
        ws = (await owner.ok("GET", "/v1/me"))["workspace"]["id"]
        name = keys.key("credential", ws, id=made)
        sealed = await kernel.store.call("HGET", name, "sealed")
        await kernel.store.call("HSET", name, "sealed", sealed[:-9])
        answer = await owner("GET", f"{PATH}/{made}", headers=header)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["details"]) == (500, "INTERNAL_ERROR", {})
        assert error["message"] == "Something went wrong on our side"
        assert ("refused", "damaged") in await tries(owner)

    async def test_reads_beside_rotations(self, owner: Client) -> None:
        """Each shows one of the values whole, and has its row."""
        made, header = await kept(owner, value="value-0"), await token(owner)
        done = await asyncio.gather(
            *(owner("GET", f"{PATH}/{made}", headers=header) for _ in range(40)),
            *(owner("POST", f"{PATH}/{made}/rotate", {"value": f"value-{n}"}) for n in range(5)),
        )
        assert {answer.status_code for answer in done} == {200}
        assert {answer.json()["value"] for answer in done[:40]} <= {f"value-{n}" for n in range(5)}
        assert await tries(owner) == [("ok", None)] * 40


class TestTokens:
    async def test_shown_once(self, owner: Client) -> None:
        made = await kept(owner)
        body = {"credential_ids": [made], "ttl_s": 60, "max_uses": 1, "reason": "test"}
        answer = await owner("POST", "/v1/vault/tokens", body)
        said = answer.json()
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        assert answer.headers["location"] == f"{PATH}/{made}"
        assert said["token"].startswith(said["id"] + "_")
        assert {name: said[name] for name in ("credential_ids", "max_uses", "all", "key_id")} == {
            "credential_ids": [made],
            "max_uses": 1,
            "all": False,
            "key_id": None,
        }
        assert said["token"] not in (await owner("GET", "/v1/vault/audit")).text

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "x"}, "credential_ids"),
            ({"all": True, "credential_ids": [new_id("cred")], "reason": "x"}, "credential_ids"),
            ({"credential_ids": [new_id("cred")], "reason": "x"}, "credential_ids[0]"),
            ({"all": True}, "reason"),
            ({"all": True, "reason": "x", "ttl_s": 3601}, "ttl_s"),
            ({"all": True, "reason": "x", "key_id": new_id("key")}, "key_id"),
        ],
    )
    async def test_orders_that_are_none(self, owner: Client, body: dict[str, Any], field: str) -> None:
        answer = await owner("POST", "/v1/vault/tokens", body)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)


class TestRepeated:
    async def test_a_credential_is_made_once(self, owner: Client) -> None:
        first = await owner("POST", PATH, ORDER, headers=ONCE)
        again = await owner("POST", PATH, ORDER, headers=ONCE)
        other = await owner("POST", PATH, ORDER | {"value": "another"}, headers=ONCE)
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert other.status_code == 409

    async def test_a_value_is_rotated_once(self, owner: Client) -> None:
        made = await kept(owner)
        for _ in range(2):
            answer = await owner("POST", f"{PATH}/{made}/rotate", {"value": "next"}, headers=ONCE)
        assert answer.json()["version"] == 2

    async def test_the_store_keeps_neither_token_nor_value(self, owner: Client, kernel: Kernel) -> None:
        """Nor the value's hash, by which a weak one could be found."""
        body = {"all": True, "reason": "x"}
        first = await owner("POST", "/v1/vault/tokens", body, headers=ONCE)
        assert (await owner("POST", "/v1/vault/tokens", body, headers=ONCE)).json() == first.json()
        names = await kernel.store.call("KEYS", "*:idem:*")
        assert len(names) == 1
        assert (
            first.json()["token"].split("_")[2].encode()
            not in str(await kernel.store.call("HGETALL", names[0])).encode()
        )
        memory = kernel.idempotency
        own = memory.fingerprint(b"POST", b"/v1/vault/tokens", b"", orjson.dumps(body))
        others = type(memory)(kernel.store, kernel.clock, b"another pepper")
        assert own != others.fingerprint(b"POST", b"/v1/vault/tokens", b"", orjson.dumps(body))
        assert memory.fingerprint(b"ab", b"c") != memory.fingerprint(b"a", b"bc")

    async def test_a_lost_token_is_ended(
        self, owner: Client, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its answer never arrived, so nobody knows it; the retry makes another."""

        async def killed(*args: Any) -> None:
            raise ConnectionResetError

        body = {"all": True, "reason": "x"}
        with monkeypatch.context() as broken:
            broken.setattr(type(kernel.idempotency), "finish", killed)
            assert (await owner("POST", "/v1/vault/tokens", body, headers=ONCE)).status_code == 500
        assert (await owner("POST", "/v1/vault/tokens", body, headers=ONCE)).status_code == 201
        assert len(await kernel.store.call("KEYS", "*:vault_token:*")) == 1


class TestAudit:
    async def test_lists_and_exports_agree(self, owner: Client) -> None:
        made, other = await kept(owner), await kept(owner, name="Other")
        await owner("GET", f"{PATH}/{made}", headers=await token(owner))
        await owner("GET", f"{PATH}/{made}")
        await owner("DELETE", f"{PATH}/{other}")
        await owner.ok("POST", "/v1/api-keys", {"name": "CI", "scopes": ["agents:read"]})
        for query, count in [
            ("", 6),
            ("?action=credential.read", 2),
            (f"?credential_id={made}", 3),
            (f"?credential_id={other}", 2),
            (f"?credential_id={other}&action=credential.delete", 1),
            (f"?credential_id={new_id('cred')}", 0),
        ]:
            listed = await owner.ok("GET", f"/v1/vault/audit{query}")
            ids = [entry["id"] for entry in listed["entries"]]
            assert (len(ids), listed["pagination"]["total"]) == (count, count), query
            lines = await owner("GET", f"/v1/vault/audit/export{query}")
            assert [orjson.loads(line)["id"] for line in lines.text.splitlines()] == ids[::-1], query
        of_one = await owner.ok("GET", f"{PATH}/{made}/audit")
        assert of_one["pagination"]["total"] == 3
        whole = await owner.ok("GET", "/v1/audit?limit=100")
        assert {entry["id"] for entry in of_one["entries"]} <= {entry["id"] for entry in whole["entries"]}
        assert (await owner("GET", f"{PATH}/{other}/audit")).status_code == 404

    async def test_a_table(self, owner: Client) -> None:
        await kept(owner)
        table = await owner("GET", "/v1/vault/audit/export?format=csv")
        assert table.headers["content-disposition"] == 'attachment; filename="vault-audit.csv"'
        rows = list(csv.DictReader(io.StringIO(table.text)))
        assert [row["action"] for row in rows] == ["credential.create"]


async def test_the_document_says_how_it_is_read(app: FastAPI) -> None:
    read = app.state.document.value["paths"][f"{PATH}/{{credential_id}}"]["get"]
    named = [parameter.get("name") or parameter["$ref"] for parameter in read["parameters"]]
    assert named == ["credential_id", "X-Vault-Token"]
    assert "304" not in read["responses"]
    assert {"401", "403", "404", "429"} <= read["responses"].keys()
    made = app.state.document.value["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    assert made["example"]["value"] == "sk-..."
