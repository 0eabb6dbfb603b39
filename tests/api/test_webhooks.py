"""Webhooks over HTTP: made, changed, tested, deleted, what they are told, and what was delivered to them."""

import asyncio
import base64
from typing import Any

import orjson
import pytest

from actors.runner import Runner
from configs.settings import Settings
from kernel.assembly import Kernel
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.outbox import Flight, OutboxStore, Outcome, Places
from kernel.webhooks.record import EVENTS, valid_secrets
from serve_apps.api import create_app
from serve_apps.webhook_shapes import SENT, Delivery, Undelivered, WebhookShape
from tests.api.conftest import FOREVER, Client, limited, take_in

pytestmark = pytest.mark.anyio

PATH = "/v1/webhooks"
EVERYWHERE = Places(1000, 1000, 1000, 1000)
ORDER: dict[str, Any] = {
    "url": "https://your-app.com/webhook",
    "events": ["execution.completed", "agent.error"],
    "secret": "your-webhook-secret",
}
FAILS = {
    "nodes": [{"id": "x", "type": "template", "config": {"template": "{{ input.name | nothing }}"}}],
    "edges": [],
}


class Courier:
    """Fans out and takes what is due, of the shard of one workspace."""

    def __init__(self, kernel: Kernel, workspace_id: str):
        self.outbox, self.bodies, self.clock = OutboxStore(kernel.store), kernel.bodies(), kernel.clock
        self.workspace_id, self.shard = workspace_id, keys.shard_of(workspace_id)

    async def open(self) -> None:
        assert await self.outbox.hold(self.shard, "test", 60_000, self.clock.now_ms())

    async def fan(self) -> None:
        for row in await self.outbox.rows(self.shard, 1000):
            await self.outbox.fan("test", row, await self.bodies.of(row), self.clock.now_ms())

    async def take(self) -> list[Flight]:
        await self.fan()
        flights = await self.outbox.take(self.shard, "test", self.clock.now_ms(), EVERYWHERE, {})
        assert flights is not None
        return flights

    async def told(self) -> list[dict[str, Any]]:
        """Bodies of what is delivered now."""
        flights = await self.take()
        for flight in flights:
            await self.end(flight)
        return [orjson.loads(flight.body) for flight in flights]

    async def end(self, flight: Flight, verdict: Any = "delivered", **said: Any) -> None:
        result = {"status_code": 200, "error": None, "body": "thanks"} | said
        names = (flight.workspace_id, flight.webhook_id, flight.event_id)
        outcome = Outcome(*names, verdict, self.clock.now_ms(), 5, **result)
        await self.outbox.done(self.shard, "test", [outcome], self.clock.now_ms())


@pytest.fixture
async def courier(kernel: Kernel, owner: Client) -> Courier:
    courier = Courier(kernel, (await owner.ok("GET", "/v1/me"))["workspace"]["id"])
    await courier.open()
    return courier


async def made(client: Client, *events: str, **more: Any) -> str:
    order = {"url": "https://example.com/hook", "events": list(events) or ["*"]}
    webhook: str = (await client.ok("POST", PATH, order | more))["id"]
    return webhook


async def deliveries(client: Client, webhook_id: str, **query: Any) -> list[dict[str, Any]]:
    found = await client.ok("GET", f"{PATH}/{webhook_id}/deliveries", params=query)
    listed: list[dict[str, Any]] = found["deliveries"]
    return listed


class TestCreate:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("POST", PATH, ORDER)).status_code == 401

    async def test_the_references_example(self, owner: Client) -> None:
        answer = await owner("POST", PATH, ORDER)
        assert answer.status_code == 201
        webhook = answer.json()
        assert answer.headers["location"] == f"{PATH}/{webhook['id']}"
        assert answer.headers["cache-control"] == "no-store"
        assert webhook == webhook | ORDER | {
            "status": "enabled",
            "disabled_reason": None,
            "failing_since": None,
            "last_delivery": None,
        }

    async def test_the_secret_is_shown_once(self, owner: Client, kernel: Kernel) -> None:
        webhook = await owner.ok("POST", PATH, ORDER)
        for answer in (
            await owner("GET", PATH),
            await owner("GET", f"{PATH}/{webhook['id']}"),
            await owner("PATCH", f"{PATH}/{webhook['id']}", {"description": "x"}),
        ):
            assert "secret" not in answer.json()
            assert ORDER["secret"] not in answer.text
        for name in await kernel.store.call("KEYS", "*"):
            assert b"your-webhook-secret" not in await kernel.store.call("DUMP", name), name

    async def test_one_is_made_when_none_is_given(self, owner: Client) -> None:
        order = {"url": ORDER["url"], "events": ["*"]}
        secrets = [(await owner.ok("POST", PATH, order))["secret"] for _ in range(2)]
        assert secrets[0] != secrets[1]
        assert len(base64.b64decode(secrets[0].removeprefix("whsec_"))) == 32

    async def test_every_event_may_be_named_and_counts_once(self, owner: Client) -> None:
        named = [event for event in EVENTS if event != "*"]
        webhook = await owner.ok("POST", PATH, ORDER | {"events": [*reversed(named), *named]})
        assert webhook["events"] == named
        webhook = await owner.ok("POST", PATH, ORDER | {"events": ["agent.error", "*"]})
        assert webhook["events"] == ["*"]

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"events": []}, "events"),
            ({"events": ["execution.exploded"]}, "events[0]"),
            ({"events": ["webhook.test"]}, "events[0]"),
            ({"events": ["*"] * 101}, "events"),
            ({"events": "*"}, "events"),
            ({"events": None}, "events"),
            ({"secret": ""}, "secret"),
            ({"secret": "x" * 257}, "secret"),
            ({"secret": "whsec_"}, "secret"),
            ({"secret": "whsec_not base64!"}, "secret"),
            ({"secret": 5}, "secret"),
            ({"url": ""}, "url"),
            ({"url": None}, "url"),
            ({"url": "https://example.com/" + "x" * 8192}, "url"),
            ({"url": "https://example.com/{{secret:x}}"}, "url"),
            ({"url": "https://{{secret:x}}/"}, "url"),
            ({"description": "x" * 1001}, "description"),
            ({"description": "a\u0007b"}, "description"),
            ({"enabled": "yes"}, "enabled"),
            ({"sekret": "x"}, "sekret"),
        ],
    )
    async def test_what_is_refused(self, owner: Client, change: dict[str, Any], field: str) -> None:
        answer = await owner("POST", PATH, ORDER | change)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["details"]["field"] == field
        assert "not base64!" not in answer.text
        assert (await owner.ok("GET", PATH))["webhooks"] == []

    @pytest.mark.parametrize(
        "url",
        [
            *(
                "http://127.0.0.1",
                "http://localhost",
                "http://localhost.",
                "http://LOCALHOST/x",
                "http://a.localhost",
            ),
            *(
                "http://[::1]",
                "http://0",
                "http://0.0.0.0",
                "http://[::]",
                "http://2130706433",
                "http://0x7f000001",
            ),
            *(
                "http://0177.0.0.1",
                "http://127.1",
                "http://0x7f.1",
                "http://169.254.169.254",
                "http://[fd00:ec2::254]",
            ),
            *(
                "http://100.100.100.200",
                "http://metadata.google.internal",
                "http://10.0.0.1",
                "http://172.16.0.1",
            ),
            *(
                "http://192.168.1.1",
                "http://100.64.0.1",
                "http://192.0.0.1",
                "http://198.18.0.1",
                "http://240.0.0.1",
            ),
            *("http://224.0.0.1", "http://255.255.255.255", "http://[fe80::1]", "http://[fe80::1%25eth0]"),
            *(
                "file:///etc/passwd",
                "gopher://x.com",
                "ftp://x.com",
                "dict://x.com",
                "ldap://x.com",
                "data:,x",
            ),
            *(
                "javascript:alert(1)",
                "unix:/run/x",
                "jar:http://x.com!/",
                "example.com/hook",
                "//example.com",
            ),
            *("http://good.com@127.0.0.1", "http://good.com:80@127.0.0.1:6379", "https://u:p@example.com"),
            *(
                "http://example.com:22",
                "http://example.com:25",
                "http://example.com:6379",
                "http://example.com:8265",
            ),
            *("http://example.com:9091", "http://example.com:19530", "http://example.com:0"),
            *(
                "http://example.com:65536",
                "http://example.com:-1",
                "http://" + "a" * 64 + ".com",
                "http://single",
            ),
            *("http://example.com..", "http://xn--a.com", "http://" + "a." * 127 + "com", "http:///x"),
            *("http://exa mple.com", "http://example.com\\@127.0.0.1", "http://example.com/\r\nx: y"),
        ],
    )
    async def test_urls_that_may_not_be_reached(self, owner: Client, url: str) -> None:
        answer = await owner("POST", PATH, ORDER | {"url": url})
        assert answer.status_code == 422, url
        assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
        assert answer.json()["error"]["details"]["field"] == "url"

    async def test_nor_the_product_itself(self, owner: Client, kernel: Kernel) -> None:
        for host in kernel.settings.api.hosts:
            answer = await owner("POST", PATH, ORDER | {"url": f"https://{host}/v1/agents"})
            assert answer.status_code == 422, host

    async def test_at_most_a_hundred(self, owner: Client) -> None:
        for _ in range(100):
            webhook = await made(owner)
        answer = await owner("POST", PATH, ORDER)
        assert answer.status_code == 409
        assert answer.json()["error"]["details"] == {"reason": "too_many", "max": 100}
        await owner.ok("DELETE", f"{PATH}/{webhook}")
        await made(owner)

    async def test_the_same_request_twice_makes_one(self, owner: Client) -> None:
        once = {"idempotency-key": "k"}
        first = await owner.ok("POST", PATH, {"url": ORDER["url"], "events": ["*"]}, headers=once)
        again = await owner.ok("POST", PATH, {"url": ORDER["url"], "events": ["*"]}, headers=once)
        assert again == first
        assert (await owner.ok("GET", PATH))["pagination"]["total"] == 1

    async def test_limited_keys_may_not(self, owner: Client, kernel: Kernel) -> None:
        """They would be told of what is beyond their limits."""
        agent, webhook = await owner.agent(), await made(owner)
        key = await limited(kernel.access, owner, scopes=["webhooks:write"], agents=[agent])
        client = Client(owner.http, key)
        for method, path, body in (
            ("POST", PATH, ORDER),
            ("GET", PATH, None),
            ("GET", f"{PATH}/undelivered", None),
            ("GET", f"{PATH}/{webhook}", None),
            ("PATCH", f"{PATH}/{webhook}", {"url": "https://evil.com"}),
            ("DELETE", f"{PATH}/{webhook}", None),
            ("POST", f"{PATH}/{webhook}/test", None),
            ("POST", f"{PATH}/{webhook}/rotate-secret", None),
            ("GET", f"{PATH}/{webhook}/deliveries", None),
            ("POST", f"{PATH}/{webhook}/deliveries/{new_id('evt')}/redeliver", None),
        ):
            assert (await client(method, path, body)).status_code == 403, (method, path)
        audit = await owner.ok("GET", "/v1/audit", params={"action": "webhook.create"})
        assert [entry["outcome"] for entry in audit["entries"]] == ["refused", "ok"]
        for action in ("list", "get", "deliveries", "undelivered"):
            audit = await owner.ok("GET", "/v1/audit", params={"action": f"webhook.{action}"})
            assert [entry["outcome"] for entry in audit["entries"]] == ["refused"], action


class TestReadChangeDelete:
    async def test_anonymous(self, anonymous: Client, owner: Client) -> None:
        webhook = await made(owner)
        for method in ("GET", "PATCH", "DELETE"):
            body = {} if method == "PATCH" else None
            assert (await anonymous(method, f"{PATH}/{webhook}", body)).status_code == 401
        assert (await anonymous("GET", PATH)).status_code == 401

    async def test_another_workspace(self, stranger: Client, owner: Client) -> None:
        webhook = await made(owner)
        for method in ("GET", "PATCH", "DELETE"):
            body = {"enabled": False} if method == "PATCH" else None
            assert (await stranger(method, f"{PATH}/{webhook}", body)).status_code == 404
        assert (await stranger.ok("GET", PATH))["webhooks"] == []
        assert (await owner.ok("GET", f"{PATH}/{webhook}"))["status"] == "enabled"

    async def test_pages(self, owner: Client) -> None:
        ids = [await made(owner) for _ in range(5)]
        first = await owner.ok("GET", PATH, params={"limit": 2})
        assert [one["id"] for one in first["webhooks"]] == ids[:2:-1]
        rest = await owner.ok("GET", PATH, params={"limit": 5, "cursor": first["next_cursor"]})
        assert [one["id"] for one in rest["webhooks"]] == ids[2::-1]
        assert first["pagination"] == {"page": 1, "limit": 2, "total": 5, "pages": 3}

    async def test_changes(self, owner: Client) -> None:
        webhook = await owner.ok("POST", PATH, ORDER)
        path = f"{PATH}/{webhook['id']}"
        answer = await owner(
            "PATCH", path, {"url": "https://example.com/x", "events": ["*"], "description": "y"}
        )
        changed = answer.json()
        assert (changed["url"], changed["events"], changed["description"]) == (
            "https://example.com/x",
            ["*"],
            "y",
        )
        assert changed == (await owner.ok("GET", path))
        assert (await owner.ok("PATCH", path, {"description": None}))["description"] is None
        off = await owner.ok("PATCH", path, {"enabled": False})
        assert (off["status"], off["disabled_reason"]) == ("disabled", "requested")
        on = await owner.ok("PATCH", path, {"enabled": True})
        assert (on["status"], on["disabled_reason"]) == ("enabled", None)

    @pytest.mark.parametrize(
        ("patch", "field"),
        [
            ({"url": "http://127.0.0.1"}, "url"),
            ({"url": None}, "url"),
            ({"events": []}, "events"),
            ({"events": None}, "events"),
            ({"enabled": None}, "enabled"),
            ({"secret": "x"}, "secret"),
        ],
    )
    async def test_changes_that_are_refused(self, owner: Client, patch: dict[str, Any], field: str) -> None:
        path = f"{PATH}/{await made(owner)}"
        before = await owner.ok("GET", path)
        answer = await owner("PATCH", path, patch)
        assert answer.status_code == 422
        assert answer.json()["error"]["details"]["field"] == field
        assert await owner.ok("GET", path) == before

    async def test_edits_are_bound_to_what_was_read(self, owner: Client) -> None:
        path = f"{PATH}/{await made(owner)}"
        tag = (await owner("GET", path)).headers["etag"]
        assert (await owner("GET", path, headers={"if-none-match": tag})).status_code == 304
        fresh = await owner("PATCH", path, {"description": "a"}, headers={"if-match": tag})
        assert fresh.status_code == 200
        for method, body in (("PATCH", {"description": "b"}), ("DELETE", None)):
            assert (await owner(method, path, body, headers={"if-match": tag})).status_code == 409
        held = {"if-match": fresh.headers["etag"]}
        assert (await owner("DELETE", path, headers=held)).status_code == 204
        assert (await owner("GET", path)).status_code == 404

    async def test_changes_at_once_are_all_made(self, owner: Client) -> None:
        path = f"{PATH}/{await made(owner)}"
        await asyncio.gather(
            owner.ok("PATCH", path, {"description": "x"}),
            owner.ok("PATCH", path, {"events": ["agent.error"]}),
            owner.ok("PATCH", path, {"enabled": False}),
        )
        webhook = await owner.ok("GET", path)
        assert (webhook["description"], webhook["events"], webhook["status"]) == (
            "x",
            ["agent.error"],
            "disabled",
        )

    async def test_every_change_is_in_the_audit_log(self, owner: Client) -> None:
        """Without secrets, and without URLs, for those may carry some."""
        order = ORDER | {"url": "https://hooks.example.com/T0/B0/token-of-theirs"}
        webhook = (await owner.ok("POST", PATH, order))["id"]
        await owner.ok("PATCH", f"{PATH}/{webhook}", {"url": "https://example.com/other-token"})
        await owner.ok("POST", f"{PATH}/{webhook}/rotate-secret", {"secret": "another-secret"})
        await owner.ok("POST", f"{PATH}/{webhook}/test")
        await owner.ok("DELETE", f"{PATH}/{webhook}")
        answer = await owner("GET", "/v1/audit")
        entries = [entry for entry in answer.json()["entries"] if entry["target"] == webhook]
        assert [entry["action"] for entry in reversed(entries)] == [
            *("webhook.create", "webhook.update", "webhook.rotate_secret", "webhook.test", "webhook.delete")
        ]
        assert entries[-1]["details"] == {"host": "hooks.example.com", "events": ORDER["events"]}
        assert entries[-2]["details"] == {"changed": ["url"]}
        for secret in ("your-webhook-secret", "another-secret", "token-of-theirs", "other-token"):
            assert secret not in answer.text


class TestRotate:
    async def test_anonymous(self, anonymous: Client, owner: Client) -> None:
        assert (await anonymous("POST", f"{PATH}/{await made(owner)}/rotate-secret")).status_code == 401

    async def test_another_workspace(self, stranger: Client, owner: Client) -> None:
        assert (await stranger("POST", f"{PATH}/{await made(owner)}/rotate-secret")).status_code == 404

    async def test_two_are_valid_for_a_day(self, owner: Client, kernel: Kernel, courier: Courier) -> None:
        webhook = (await owner.ok("POST", PATH, ORDER))["id"]
        path = f"{PATH}/{webhook}/rotate-secret"
        answers = [await owner("POST", path, {"secret": "second"}), await owner("POST", path)]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert answers[1].headers["cache-control"] == "no-store"
        third = answers[1].json()["secret"]
        assert third.startswith("whsec_")
        await owner.ok("POST", f"{PATH}/{webhook}/test")
        (flight,) = await courier.take()
        plain = await kernel.envelope.open(flight.sealed, flight.workspace_id, webhook, "secret")
        now = kernel.clock.now_ms()
        assert [secret.text for secret in valid_secrets(plain, now)] == [third, "second"]
        assert [secret.text for secret in valid_secrets(plain, now + 86_400_001)] == [third]

    @pytest.mark.parametrize("secret", ["", "x" * 257, "whsec_%", None, 5])
    async def test_what_is_no_secret(self, owner: Client, secret: Any) -> None:
        path = f"{PATH}/{await made(owner)}"
        before = await owner.ok("GET", path)
        answer = await owner("POST", f"{path}/rotate-secret", {"secret": secret})
        assert (answer.status_code, secret) in ((422, secret), (201, None))
        if secret is not None:
            assert await owner.ok("GET", path) == before

    async def test_the_same_request_twice_rotates_once(self, owner: Client) -> None:
        path, once = f"{PATH}/{await made(owner)}/rotate-secret", {"idempotency-key": "r"}
        first = await owner.ok("POST", path, headers=once)
        assert await owner.ok("POST", path, headers=once) == first


class TestDeliveries:
    async def test_anonymous(self, anonymous: Client, owner: Client) -> None:
        path = f"{PATH}/{await made(owner)}"
        assert (await anonymous("GET", f"{path}/deliveries")).status_code == 401
        assert (await anonymous("POST", f"{path}/test")).status_code == 401
        assert (await anonymous("POST", f"{path}/deliveries/{new_id('evt')}/redeliver")).status_code == 401

    async def test_another_workspace(self, stranger: Client, owner: Client) -> None:
        path = f"{PATH}/{await made(owner)}"
        event = (await owner.ok("POST", f"{path}/test"))["id"]
        assert (await stranger("GET", f"{path}/deliveries")).status_code == 404
        assert (await stranger("POST", f"{path}/test")).status_code == 404
        assert (await stranger("POST", f"{path}/deliveries/{event}/redeliver")).status_code == 404

    async def test_a_test_goes_to_its_endpoint_alone(self, owner: Client, courier: Courier) -> None:
        webhook, other = await made(owner, "agent.error"), await made(owner)
        answer = await owner("POST", f"{PATH}/{webhook}/test")
        assert answer.status_code == 202
        delivery = answer.json()
        assert delivery == delivery | {"event": "webhook.test", "status": "pending", "attempts": []}
        (flight,) = await courier.take()
        assert (flight.webhook_id, flight.event_id) == (webhook, delivery["id"])
        body = orjson.loads(flight.body)
        assert list(body) == ["event", "timestamp", "data"]
        assert (body["event"], body["data"]) == ("webhook.test", {"webhook_id": webhook})
        assert await deliveries(owner, other) == []

    async def test_not_of_a_disabled_one(self, owner: Client) -> None:
        path = f"{PATH}/{await made(owner, enabled=False)}"
        answer = await owner("POST", f"{path}/test")
        assert answer.status_code == 409
        assert answer.json()["error"]["details"] == {"reason": "disabled"}
        assert (await owner.ok("GET", f"{path}/deliveries"))["deliveries"] == []

    async def test_what_became_of_each(self, owner: Client, courier: Courier) -> None:
        webhook = await made(owner)
        ids = [(await owner.ok("POST", f"{PATH}/{webhook}/test"))["id"] for _ in range(3)]
        first, second, third = sorted(await courier.take(), key=lambda flight: flight.event_id)
        await courier.end(first)
        await courier.end(second, "dead", status_code=500, error="status", body="oh <b>no</b>")
        assert [one["id"] for one in await deliveries(owner, webhook)] == sorted(ids, reverse=True)
        for status, flight in (("delivered", first), ("dead", second), ("pending", third)):
            (one,) = await deliveries(owner, webhook, status=status)
            assert (one["id"], one["status"]) == (flight.event_id, status)
        (dead,) = await deliveries(owner, webhook, status="dead")
        (attempt,) = dead["attempts"]
        assert (attempt["status_code"], attempt["error"], attempt["body"]) == (500, "status", "oh <b>no</b>")
        shown = await owner.ok("GET", f"{PATH}/{webhook}")
        WebhookShape.model_validate(shown)
        Delivery.model_validate(dead)
        assert shown["status"] == "failing"
        assert shown["failing_since"] == attempt["at"] == shown["last_delivery"]["at"]
        assert shown["last_delivery"] == shown["last_delivery"] | {"id": dead["id"], "error": "status"}

    async def test_pages(self, owner: Client) -> None:
        webhook = await made(owner)
        path, params = f"{PATH}/{webhook}/deliveries", {"limit": 2, "status": "pending"}
        made_ids = {(await owner.ok("POST", f"{PATH}/{webhook}/test"))["id"] for _ in range(5)}
        found = []
        while True:
            page = await owner.ok("GET", path, params=params)
            found += [one["id"] for one in page["deliveries"]]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        assert found == sorted(made_ids, reverse=True)

    @pytest.mark.parametrize("query", [{"status": "lost"}, {"cursor": "x"}, {"limit": 0}, {"state": "dead"}])
    async def test_queries_that_are_refused(self, owner: Client, query: dict[str, Any]) -> None:
        answer = await owner("GET", f"{PATH}/{await made(owner)}/deliveries", params=query)
        assert answer.status_code == 422

    async def test_once_more(self, owner: Client, courier: Courier) -> None:
        webhook = await made(owner)
        event = (await owner.ok("POST", f"{PATH}/{webhook}/test"))["id"]
        path = f"{PATH}/{webhook}/deliveries/{event}/redeliver"
        assert (await owner("POST", path)).json()["error"]["details"] == {"reason": "pending"}
        (first,) = await courier.take()
        assert (await owner("POST", path)).status_code == 409
        await courier.end(first, "dead", status_code=None, error="timed_out")
        answer = await owner("POST", path)
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")
        (again,) = await courier.take()
        assert (again.event_id, again.body, again.failing) == (first.event_id, first.body, True)
        await courier.end(first)
        (one,) = await deliveries(owner, webhook)
        assert [attempt["error"] for attempt in one["attempts"]] == ["timed_out", None]

    @pytest.mark.parametrize("name", ["evt_01JZ8XJ4T2QK5V9W3M7N6P1R8S", "evt_x", "%00", "exec_x"])
    async def test_not_of_what_is_not_there(self, owner: Client, name: str) -> None:
        answer = await owner("POST", f"{PATH}/{await made(owner)}/deliveries/{name}/redeliver")
        assert answer.status_code == 404


class TestUrlsOfExecutions:
    SECRET = f"{PATH}/signing-secret"

    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("GET", self.SECRET)).status_code == 401
        assert (await anonymous("POST", f"{self.SECRET}/rotate")).status_code == 401

    async def test_another_workspace_has_its_own(self, owner: Client, stranger: Client) -> None:
        assert (await owner.ok("GET", self.SECRET)) != (await stranger.ok("GET", self.SECRET))

    async def test_the_end_is_told_and_signed(
        self, owner: Client, courier: Courier, kernel: Kernel, runner: Runner
    ) -> None:
        execution = await owner.execution(webhook_url="https://example.com/own", labels={"a": "b"})
        await kernel.executions.wait(courier.workspace_id, execution, 20)
        (flight,) = await courier.take()
        assert flight.url == "https://example.com/own"
        told = orjson.loads(flight.body)
        assert (told["event"], told["data"]["execution_id"]) == ("execution.completed", execution)
        assert told["data"]["result"]["output"] == "Hello Ada"
        plain = await kernel.envelope.open(flight.sealed, flight.workspace_id, flight.webhook_id, "secret")
        (secret,) = valid_secrets(plain, kernel.clock.now_ms())
        assert await owner.ok("GET", self.SECRET) == {"secret": secret.text, "secret_rotated_at": None}
        assert (await owner("GET", f"{PATH}/{flight.webhook_id}")).status_code == 404
        assert (await owner.ok("GET", PATH))["webhooks"] == []
        await courier.end(flight)
        assert await courier.take() == []

    async def test_what_is_dead_is_listed(
        self,
        anonymous: Client,
        owner: Client,
        stranger: Client,
        courier: Courier,
        kernel: Kernel,
        runner: Runner,
    ) -> None:
        path = f"{PATH}/undelivered"
        assert (await anonymous("GET", path)).status_code == 401
        assert (await owner.ok("GET", path))["undelivered"] == []
        ids = [await owner.execution(webhook_url=f"https://example.com/own?token={n}") for n in range(3)]
        for execution in ids:
            await kernel.executions.wait(courier.workspace_id, execution, 20)
        for flight in await courier.take():
            await courier.end(flight, "dead", status_code=503, error="status")
        page = await owner.ok("GET", path, params={"limit": 2})
        rest = await owner.ok("GET", path, params={"limit": 2, "cursor": page["next_cursor"]})
        listed = [Undelivered.model_validate(one) for one in page["undelivered"] + rest["undelivered"]]
        assert {one.execution_id for one in listed} == set(ids)
        assert {(one.host, one.event) for one in listed} == {("example.com", "execution.completed")}
        assert [one.error for one in listed[0].attempts] == ["status"]
        assert "token" not in str(page)
        assert (await stranger.ok("GET", path))["undelivered"] == []

    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1", "http://169.254.169.254/x", "file:///x", "https://{{secret:x}}/", "", 5, "x"],
    )
    async def test_urls_that_are_refused(self, owner: Client, kernel: Kernel, url: Any) -> None:
        agent, order = await owner.agent(), {"input": 1, "options": {"webhook_url": url}}
        for path, body in (
            (f"/v1/agents/{agent}/execute", order),
            ("/v1/executions", order | {"flow": FAILS}),
        ):
            answer = await owner("POST", path, body)
            assert answer.status_code == 422
            assert answer.json()["error"]["details"]["field"] == "options.webhook_url"
        assert (await owner.ok("GET", "/v1/executions"))["executions"] == []
        assert await kernel.store.call("KEYS", "*:signing") == []

    async def test_the_secret_is_rotated(self, owner: Client) -> None:
        first = await owner("GET", self.SECRET)
        assert first.headers["cache-control"] == "no-store"
        assert await owner.ok("GET", self.SECRET) == first.json()
        new = await owner.ok("POST", f"{self.SECRET}/rotate", {"secret": "another"})
        assert new["secret"] == "another"
        assert new == await owner.ok("GET", self.SECRET)
        assert new["secret_rotated_at"] is not None
        audit = (await owner.ok("GET", "/v1/audit", params={"action": "webhook.read_secret"}))["entries"]
        assert [entry["target"] for entry in audit] == ["signing"] * 3
        assert "another" not in str(audit)

    async def test_limited_keys_may_not_see_it(self, owner: Client, kernel: Kernel) -> None:
        agent = await owner.agent()
        key = await limited(kernel.access, owner, scopes=["webhooks:write"], agents=[agent])
        assert (await Client(owner.http, key)("GET", self.SECRET)).status_code == 403
        assert (await Client(owner.http, key)("POST", f"{self.SECRET}/rotate")).status_code == 403


class TestEvents:
    """What changes tell: recorded with the change, in the API's own words."""

    async def test_executions(self, owner: Client, courier: Courier, runner: Runner) -> None:
        await made(owner)
        agent = await owner.agent()
        body = {"input": {"name": "Ada"}, "options": {"labels": {"team": "web"}}}
        ended = await owner.ok("POST", f"/v1/agents/{agent}/execute?wait=20", body)
        _, started, completed = await courier.told()
        data = {"execution_id": ended["id"], "agent_id": agent, "labels": {"team": "web"}}
        assert (started["event"], started["data"]) == ("execution.started", data | {"status": "running"})
        assert completed == {
            "event": "execution.completed",
            "timestamp": ended["completed_at"],
            "data": data
            | {"status": "completed", "result": {"output": "Hello Ada", "tokens_used": 0, "cost": 0.0}},
        }

    async def test_all_other_ends(
        self, owner: Client, courier: Courier, kernel: Kernel, runner: Runner
    ) -> None:
        await made(owner, "execution.failed", "execution.cancelled", "execution.timed_out")
        order = {"flow": FAILS, "input": {"name": "Ada"}}
        failed = await owner.ok("POST", "/v1/executions?wait=20", order)
        late = await owner.ok("POST", "/v1/executions?wait=20", {"flow": FOREVER, "options": {"timeout": 1}})
        cancelled = await owner.execution(FOREVER)
        await owner.ok("POST", f"/v1/executions/{cancelled}/cancel")
        await kernel.executions.wait(courier.workspace_id, cancelled, 20)
        told = {one["event"]: one["data"] for one in await courier.told()}
        none = {"agent_id": None}
        assert told == {
            "execution.failed": none
            | {"execution_id": failed["id"], "status": "failed", "error": failed["error"]},
            "execution.timed_out": none | {"execution_id": late["id"], "status": "timed_out"},
            "execution.cancelled": none | {"execution_id": cancelled, "status": "cancelled"},
        }

    async def test_one_that_is_deleted_before_it_is_told(
        self, owner: Client, courier: Courier, runner: Runner
    ) -> None:
        await made(owner, "execution.completed")
        execution = await owner.ended()
        await owner.ok("DELETE", f"/v1/executions/{execution}")
        (told,) = await courier.told()
        assert told["data"] == {"execution_id": execution, "agent_id": None, "status": "completed"}

    async def test_large_outputs_are_linked(self, owner: Client, courier: Courier, runner: Runner) -> None:
        await made(owner, "execution.completed")
        flow = {
            "nodes": [{"id": "x", "type": "template", "config": {"template": "{{ input.name }}"}}],
            "edges": [],
        }
        body = {"flow": flow, "input": {"name": "x" * 300_000}}
        execution = (await owner.ok("POST", "/v1/executions?wait=20", body))["id"]
        (told,) = await courier.told()
        result = told["data"]["result"]
        assert (result["output"], result["output_link"]) == (None, f"/v1/executions/{execution}")

    async def test_agents(self, owner: Client, courier: Courier) -> None:
        await made(owner)
        agent = await owner.agent(name="Grüße / Hi")
        await owner.ok("PATCH", f"/v1/agents/{agent}", {"name": "Other"})
        await owner.ok("DELETE", f"/v1/agents/{agent}")
        told = await courier.told()
        assert [one["event"] for one in told] == ["agent.created", "agent.updated", "agent.deleted"]
        first = {"agent_id": agent, "name": "Grüße / Hi", "version": "1.0.0", "status": "active"}
        later = first | {"name": "Other", "version": "1.0.1"}
        assert [one["data"] for one in told] == [first, later, later]

    async def test_an_agent_that_fails(self, owner: Client, courier: Courier, runner: Runner) -> None:
        await made(owner, "agent.error")
        agent = await owner.agent(FOREVER)
        for _ in range(6):
            order = {"options": {"timeout": 1}}
            await owner.ok("POST", f"/v1/agents/{agent}/execute?wait=20", order)
        (told,) = await courier.told()
        assert told["data"] == {"agent_id": agent, "name": "Greeter", "version": "1.0.0", "status": "error"}

    async def test_ingestion(self, owner: Client, courier: Courier, kernel: Kernel) -> None:
        await made(owner, "ingestion.completed", "ingestion.failed")
        collection = await owner.collection()
        job = await take_in(kernel, owner, collection, {"type": "text", "location": "a.md", "text": "words"})
        (told,) = await courier.told()
        seen = await owner.ok("GET", f"/v1/rag/jobs/{job}")
        assert told["event"] == "ingestion.completed"
        assert told["timestamp"] == seen["completed_at"]
        assert told["data"] == {
            "job_id": job,
            "collection_id": collection,
            "status": "completed",
            "error": None,
            "progress": seen["progress"],
            "chunks": seen["chunks"],
            "bytes": seen["bytes"],
        }

    async def test_nothing_is_written_where_nobody_listens(
        self, owner: Client, kernel: Kernel, runner: Runner
    ) -> None:
        await made(owner, "agent.deleted")
        await made(owner, enabled=False)
        await owner.ended()
        assert await kernel.store.call("KEYS", "*:outbox") == []

    async def test_all_bodies_are_as_the_document_says(
        self, owner: Client, courier: Courier, kernel: Kernel, runner: Runner
    ) -> None:
        await made(owner)
        agent = await owner.agent()
        await owner.ok("POST", f"/v1/agents/{agent}/execute?wait=20", {"input": {"name": "Ada"}})
        await owner.ok("POST", "/v1/executions?wait=20", {"flow": FOREVER, "options": {"timeout": 1}})
        await owner.ok("POST", "/v1/executions?wait=20", {"flow": FAILS, "input": {"name": "Ada"}})
        await take_in(kernel, owner, await owner.collection(), {"type": "text", "location": "a", "text": "b"})
        for told in await courier.told():
            SENT[told["event"]][1].model_validate(told["data"])


class TestDocument:
    """Its part `webhooks` says what receivers get."""

    def test_every_event_is_there_with_an_example_that_fits(self) -> None:
        document = create_app(Settings()).state.document.value
        assert set(document["webhooks"]) == {*EVENTS, "webhook.test"} - {"*"}
        for event, methods in document["webhooks"].items():
            operation = methods["post"]
            assert operation["summary"]
            assert {part["name"] for part in operation["parameters"]} == {
                *("webhook-id", "webhook-timestamp", "webhook-signature")
            }
            content = operation["requestBody"]["content"]["application/json"]
            example = content["example"]
            assert list(example) == content["schema"]["required"] == ["event", "timestamp", "data"]
            assert example["event"] == event
            SENT[event][1].model_validate(example["data"])
            assert SENT[event][1].__name__ in document["components"]["schemas"]
