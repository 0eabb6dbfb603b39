"""Budgets over HTTP: set, read, told of, and kept to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.runner import Runner
from configs.settings import Metering, Settings
from kernel.assembly import Kernel
from kernel.ids import new_id
from kernel.storage import keys
from tests.api.conftest import FOREVER, HELLO, Client, limited

pytestmark = pytest.mark.anyio

PATH = "/v1/usage/budgets"
PRICES = """
platform: {cpu_hour: 3600000000}
models: {openai: [{names: [gpt-4], input: 7.0, output: 9.0}]}
"""
"""A thousand USD for each millisecond of a processor."""
MONTH: dict[str, Any] = {"scope": "workspace", "period": "month", "amount": 100.5}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "prices.yaml").write_text(PRICES)
    return settings.model_copy(update={"metering": Metering(prices=tmp_path / "prices.yaml")})


async def workspace_of(client: Client) -> str:
    workspace: str = (await client.ok("GET", "/v1/me"))["workspace"]["id"]
    return workspace


async def put(client: Client, *budgets: dict[str, Any]) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = (await client.ok("PUT", PATH, {"budgets": budgets}))["budgets"]
    return stored


async def spend(kernel: Kernel, client: Client, micro: int) -> None:
    """As if executions of this month had cost that."""
    month = f"{datetime.fromtimestamp(kernel.clock.now_ms() / 1000, UTC):%Y-%m}"
    name = keys.key("spend", await workspace_of(client), period=month)
    await kernel.store.call("HINCRBY", name, "c", micro)


class TestReadAndReplace:
    async def test_anonymous(self, anonymous: Client) -> None:
        assert (await anonymous("GET", PATH)).status_code == 401
        assert (await anonymous("PUT", PATH, {"budgets": []})).status_code == 401

    async def test_another_workspace_has_its_own(self, owner: Client, stranger: Client) -> None:
        await put(owner, MONTH)
        assert await stranger.ok("GET", PATH) == {"budgets": []}
        await put(stranger)
        assert len((await owner.ok("GET", PATH))["budgets"]) == 1

    async def test_scopes(self, owner: Client, kernel: Kernel) -> None:
        reader = Client(owner.http, await limited(kernel.access, owner, scopes=["usage:read"]))
        other = Client(owner.http, await limited(kernel.access, owner, scopes=["agents:read"]))
        await reader.ok("GET", PATH)
        assert (await reader("PUT", PATH, {"budgets": []})).status_code == 403
        assert (await other("GET", PATH)).status_code == 403

    async def test_a_key_of_some_agents_sees_theirs_and_sets_none(
        self, owner: Client, kernel: Kernel
    ) -> None:
        mine, other = await owner.agent(), await owner.agent()
        of_agents = [MONTH | {"scope": "agent", "id": name} for name in (mine, other)]
        await put(owner, MONTH, *of_agents)
        token = await limited(kernel.access, owner, scopes=["admin"], agents=[mine])
        seen = (await Client(owner.http, token).ok("GET", PATH))["budgets"]
        assert [one["id"] for one in seen] == [mine]
        assert (await Client(owner.http, token)("PUT", PATH, {"budgets": []})).status_code == 403

    async def test_a_key_of_some_collections_sees_none(self, owner: Client, kernel: Kernel) -> None:
        await put(owner, MONTH, MONTH | {"scope": "agent", "id": await owner.agent()})
        token = await limited(kernel.access, owner, scopes=["usage:read"], collections=[new_id("col")])
        assert await Client(owner.http, token).ok("GET", PATH) == {"budgets": []}

    async def test_what_is_set_is_read(self, owner: Client) -> None:
        agent, key = await owner.agent(), (await owner.ok("GET", "/v1/me"))["key"]["id"]
        orders = [
            MONTH | {"period": "day", "alerts": [1.0, 0.25, 0.25], "hard_stop": True},
            MONTH | {"scope": "agent", "id": agent, "alerts": []},
            MONTH | {"scope": "key", "id": key, "amount": 1e9},
            MONTH,
        ]
        stored = await put(owner, *orders)
        assert (await owner.ok("GET", PATH))["budgets"] == stored
        assert [(one["scope"], one["id"], one["period"]) for one in stored] == [
            ("workspace", None, "month"),
            ("workspace", None, "day"),
            ("agent", agent, "month"),
            ("key", key, "month"),
        ]
        month, day, of_agent, of_key = stored
        assert month["alerts"] == [{"threshold": one, "reached_at": None} for one in (0.5, 0.8, 1.0)]
        assert [alert["threshold"] for alert in day["alerts"]] == [0.25, 1.0]
        assert (day["hard_stop"], month["hard_stop"], of_agent["alerts"], of_key["amount"]) == (
            True,
            False,
            [],
            1e9,
        )
        assert (month["amount"], month["spent"], month["remaining"]) == (100.5, 0.0, 100.5)
        assert day["resets_at"].endswith("T00:00:00.000Z")
        assert month["resets_at"].endswith("-01T00:00:00.000Z")

    async def test_the_whole_set_is_replaced(self, owner: Client) -> None:
        await put(owner, MONTH, MONTH | {"period": "day"})
        assert [one["amount"] for one in await put(owner, MONTH | {"amount": 7})] == [7.0]
        assert await put(owner) == []

    async def test_a_change_is_in_the_audit_log(self, owner: Client) -> None:
        await put(owner, MONTH)
        assert (await owner("PUT", PATH, {"budgets": [MONTH, MONTH]})).status_code == 422
        (entry,) = (await owner.ok("GET", "/v1/audit?action=budgets.replace"))["entries"]
        assert (entry["target"], entry["outcome"]) == (await workspace_of(owner), "ok")
        assert entry["details"]["budgets"][0]["amount"] == 100.5

    async def test_spend_of_earlier_in_the_period(self, owner: Client, kernel: Kernel) -> None:
        await spend(kernel, owner, 80_400_000)
        (budget,) = await put(owner, MONTH)
        assert (budget["spent"], budget["remaining"]) == (80.4, 20.1)
        assert [alert["reached_at"] is not None for alert in budget["alerts"]] == [True, True, False]
        await spend(kernel, owner, 100_000_000)
        (budget,) = (await owner.ok("GET", PATH))["budgets"]
        assert (budget["spent"], budget["remaining"]) == (180.4, 0.0)

    async def test_tags(self, owner: Client, kernel: Kernel) -> None:
        await put(owner, MONTH)
        tag = (await owner("GET", PATH)).headers["etag"]
        assert (await owner("GET", PATH, headers={"if-none-match": tag})).status_code == 304
        await spend(kernel, owner, 5)
        read = await owner("GET", PATH, headers={"if-none-match": tag})
        assert (read.status_code, read.json()["budgets"][0]["spent"]) == (200, 0.000005)
        body = {"budgets": [MONTH | {"amount": 9}]}
        changed = await owner("PUT", PATH, body, headers={"if-match": f'"x", W/{tag}'})
        assert changed.status_code == 200
        assert changed.headers["etag"] == (await owner("GET", PATH)).headers["etag"]
        stale = await owner("PUT", PATH, {"budgets": []}, headers={"if-match": tag})
        assert (stale.status_code, stale.json()["error"]["details"]["reason"]) == (409, "stale_etag")
        assert (await owner("PUT", PATH, body, headers={"if-match": "*"})).status_code == 200

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"scope": "team"}, "scope"),
            ({"scope": None}, "scope"),
            ({"period": "week"}, "period"),
            ({"amount": 0}, "amount"),
            ({"amount": -1}, "amount"),
            ({"amount": 1e-7}, "amount"),
            ({"amount": 1e9 + 1}, "amount"),
            ({"amount": "5"}, "amount"),
            ({"amount": True}, "amount"),
            ({"amount": None}, "amount"),
            ({"alerts": [0.0]}, "alerts[0]"),
            ({"alerts": [0.5, 1.01]}, "alerts[1]"),
            ({"alerts": ["1"]}, "alerts[0]"),
            ({"alerts": [0.1] * 11}, "alerts"),
            ({"alerts": None}, "alerts"),
            ({"hard_stop": "yes"}, "hard_stop"),
            ({"hard_stop": None}, "hard_stop"),
            ({"id": "agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}, "id"),
            ({"scope": "agent"}, "id"),
            ({"scope": "key", "id": None}, "id"),
            ({"scope": "agent", "id": 7}, "id"),
            ({"scope": "agent", "id": ""}, "id"),
            ({"scope": "agent", "id": "agent_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}, "id"),
            ({"scope": "key", "id": "key_01JZ8XJ4T2QK5V9W3M7N6P1R8S"}, "id"),
            ({"scope": "agent", "id": "x" * 65}, "id"),
            ({"currency": "EUR"}, "currency"),
        ],
    )
    async def test_refusals(self, owner: Client, change: dict[str, Any], field: str) -> None:
        await put(owner, MONTH)
        answer = await owner("PUT", PATH, {"budgets": [MONTH | {"period": "day"}, MONTH | change]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "VALIDATION_ERROR")
        assert answer.json()["error"]["details"]["field"] == f"budgets[1].{field}"
        assert [one["period"] for one in (await owner.ok("GET", PATH))["budgets"]] == ["month"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "budgets"),
            ({"budgets": None}, "budgets"),
            ({"budgets": {}}, "budgets"),
            ({"budgets": [MONTH] * 101}, "budgets"),
            ({"budgets": [7]}, "budgets[0]"),
            ({"budgets": [MONTH, MONTH | {"amount": 1}]}, "budgets[1]"),
            ({"budgets": [], "more": 1}, "more"),
            ([], "body"),
        ],
    )
    async def test_bodies(self, owner: Client, body: Any, field: str) -> None:
        answer = await owner("PUT", PATH, body)
        assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, field)

    async def test_ids_of_others_are_unknown(self, owner: Client, stranger: Client) -> None:
        theirs = MONTH | {"scope": "agent", "id": await stranger.agent()}
        their_key = MONTH | {"scope": "key", "id": (await stranger.ok("GET", "/v1/me"))["key"]["id"]}
        part = MONTH | {"scope": "agent", "id": f"{await owner.agent()}:stats"}
        answer = await owner("PUT", PATH, {"budgets": [theirs, MONTH, their_key]})
        errors = answer.json()["error"]["details"]["errors"]
        assert [error["field"] for error in errors] == ["budgets[0].id", "budgets[2].id"]
        assert (await owner("PUT", PATH, {"budgets": [part]})).status_code == 422


class TestHardStop:
    async def test_it_refuses_once_the_budget_is_spent(
        self, owner: Client, stranger: Client, kernel: Kernel, runner: Runner
    ) -> None:
        agent = await owner.agent()
        path, body = f"/v1/agents/{agent}/execute", {"input": {"name": "x"}}
        await put(owner, MONTH | {"amount": 0.01, "hard_stop": True}, MONTH | {"scope": "agent", "id": agent})
        ended = await owner.ok("POST", f"{path}?wait=20", body)
        assert (ended["status"], ended["result"]["cost"] > 0.01) == ("completed", True)
        refused = await owner("POST", path, body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["retryable"]) == (429, "RATE_LIMIT_ERROR", True)
        assert error["details"] == {"limit": "budget", "max": 0.01, "scope": "workspace", "period": "month"}
        assert int(refused.headers["retry-after"]) > 0
        assert (await owner("POST", "/v1/executions", {"flow": HELLO, **body})).status_code == 429
        await stranger.execution()
        for one in (await owner.ok("GET", PATH))["budgets"]:
            assert one["spent"] == pytest.approx(ended["result"]["cost"], abs=1e-6)
            assert one["alerts"][0]["reached_at"] is not None or one["spent"] < 50.25
        await put(owner)
        assert (await owner("POST", path, body)).status_code == 202

    async def test_a_refused_one_leaves_nothing(self, owner: Client, kernel: Kernel) -> None:
        await put(owner, MONTH | {"hard_stop": True})
        await spend(kernel, owner, 100_500_000)
        body = {"flow": FOREVER, "input": 1}
        answer = await owner("POST", "/v1/executions", body, headers={"idempotency-key": "one"})
        assert answer.status_code == 429
        assert (await owner.ok("GET", "/v1/executions"))["executions"] == []
        assert await kernel.store.call("SCARD", keys.key("active", await workspace_of(owner))) == 0


class TestTokensOfADay:
    async def test_a_workspace_with_a_limit_of_its_own(
        self, owner: Client, stranger: Client, kernel: Kernel
    ) -> None:
        workspace = await workspace_of(owner)
        limits = '{"tokens_per_day":5}'
        await kernel.store.call("HSET", keys.key("workspace", workspace), "limits", limits)
        kernel.access._changed(None)
        day = f"{datetime.fromtimestamp(kernel.clock.now_ms() / 1000, UTC):%Y-%m-%d}"
        used = keys.key("spend", workspace, period=day)
        await kernel.store.call("HINCRBY", used, "t", 4)
        await owner.execution()
        await kernel.store.call("HINCRBY", used, "t", 1)
        refused = await owner("POST", "/v1/executions", {"flow": HELLO, "input": 1})
        assert refused.status_code == 429
        assert refused.json()["error"]["details"] == {"limit": "tokens", "max": 5}
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        await stranger.execution()


async def test_prices_are_those_of_the_settings(owner: Client) -> None:
    models = {model["id"]: model for model in (await owner.ok("GET", "/v1/models"))["models"]}
    assert models["gpt-4"]["price"] == {"input": 7.0, "output": 9.0}
