"""Secrets of webhooks, the bodies of events, and what an event costs the change that it tells of."""

import asyncio
import base64
import re
from typing import Any

import orjson
import pydantic
import pytest

from kernel.clock import ManualClock
from kernel.errors import RateLimitError
from kernel.ids import new_id
from kernel.storage import keys
from kernel.storage.outbox import Row
from kernel.storage.store import Store
from kernel.storage.subscriptions import Subscriptions
from kernel.webhooks.events import MAX_OUTPUT, Bodies
from kernel.webhooks.record import (
    EVENTS,
    Secret,
    WebhookCreate,
    encode_secrets,
    new_secret,
    secret_bytes,
    valid_secrets,
)
from tests.unit.test_ends import SPENT, Desk
from tests.webhooks import SHARD, WS, Post

pytestmark = pytest.mark.anyio


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("your-webhook-secret", b"your-webhook-secret"),
            ("Schlüssel", "Schlüssel".encode()),
            ("whsec_aGVsbG8=", b"hello"),
            ("whsec_aGVsbG8", b"hello"),
            ("WHSEC_aGVsbG8=", b"WHSEC_aGVsbG8="),
        ],
    )
    def test_what_signs(self, text: str, expected: bytes) -> None:
        assert secret_bytes(text) == expected

    @pytest.mark.parametrize("text", ["whsec_", "whsec_=", "whsec_a", "whsec_a b=", "whsec_ä", "whsec_-_-_"])
    def test_what_is_no_base64(self, text: str) -> None:
        with pytest.raises(ValueError, match="must be base64"):
            secret_bytes(text)

    def test_half_a_character_is_no_text(self) -> None:
        with pytest.raises(pydantic.ValidationError, match="valid string"):
            WebhookCreate.model_validate({"url": "https://x.com", "events": ["*"], "secret": "\ud800"})

    def test_new_ones_are_long_and_differ(self) -> None:
        made = {new_secret() for _ in range(10)}
        assert len(made) == 10
        assert all(len(base64.b64decode(one.removeprefix("whsec_"))) == 32 for one in made)

    def test_one_that_was_rotated_out_ends(self) -> None:
        plain = encode_secrets([Secret("new"), Secret("old", until=1000)])
        assert [one.text for one in valid_secrets(plain, 999)] == ["new", "old"]
        assert [one.text for one in valid_secrets(plain, 1000)] == ["new"]


class TestBodies:
    def row(self, event: str, execution: str | None = None, data: Any = None) -> Row:
        text = None if data is None else orjson.dumps(data)
        return Row(SHARD, "5-0", WS, event, 1_764_072_000_123, execution, text)

    def bodies(self, **known: Any) -> Bodies:
        async def describe(workspace_id: str, execution_id: str) -> dict[str, Any] | None:
            assert (workspace_id, execution_id) == (WS, "exec_1")
            return known or None

        return Bodies(describe)

    async def test_three_fields_and_no_more(self) -> None:
        body = await self.bodies().of(self.row("agent.created", data={"agent_id": "a", "name": "Grüße"}))
        assert body == (
            '{"event":"agent.created","timestamp":"2025-11-25T12:00:00.123Z",'
            '"data":{"agent_id":"a","name":"Grüße"}}'.encode()
        )

    async def test_the_status_is_that_of_the_event(self) -> None:
        """An execution that is over by the time its start is told."""
        over = {"agent_id": "a", "status": "completed", "result": {"output": 1}, "labels": {}}
        body = orjson.loads(await self.bodies(**over).of(self.row("execution.started", "exec_1")))
        assert body["data"] == {"execution_id": "exec_1", "agent_id": "a", "status": "running"}

    @pytest.mark.parametrize(("length", "kept"), [(MAX_OUTPUT - 2, True), (MAX_OUTPUT - 1, False)])
    async def test_an_output_has_a_limit(self, length: int, kept: bool) -> None:
        known = {"agent_id": None, "result": {"output": "x" * length, "tokens_used": 5, "cost": None}}
        body = orjson.loads(await self.bodies(**known).of(self.row("execution.completed", "exec_1")))
        result = body["data"]["result"]
        assert (result["output"] is not None) == kept
        assert ("output_link" in result) != kept
        assert (result["tokens_used"], result["cost"]) == (5, None)

    async def test_so_has_an_error(self) -> None:
        error = {"code": "NODE_ERROR", "message": "x" * 99_000, "details": {"said": "y" * 99_000}}
        body = orjson.loads(await self.bodies(error=error).of(self.row("execution.failed", "exec_1")))
        assert body["data"]["error"] == {"code": "NODE_ERROR", "message": "x" * 1000, "details": {}}

    async def test_of_one_that_is_gone(self) -> None:
        body = orjson.loads(await self.bodies().of(self.row("execution.failed", "exec_1")))
        assert body["data"] == {"execution_id": "exec_1", "agent_id": None, "status": "failed"}


class TestRecording:
    @pytest.fixture
    async def post(self, store: Store, clock: ManualClock) -> Post:
        return Post(store, clock)

    async def calls(self, store: Store) -> dict[str, int]:
        """How often each command has run, scripts' own included."""
        found = (await store.call("INFO", "commandstats")).decode()
        return {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", found)}

    async def cost(self, store: Store) -> dict[str, int]:
        """Of an execution from its order to its end."""
        desk, before = Desk(store), await self.calls(store)
        await desk.ended(SPENT)
        after = await self.calls(store)
        return {name: after[name] - before.get(name, 0) for name in after}

    async def test_without_an_endpoint_it_is_one_look_an_event(self, store: Store, post: Post) -> None:
        """As many commands as when an endpoint wants other events, and two writes fewer than when one wants these."""
        await self.cost(store)
        none = await self.cost(store)
        await post.endpoint("agent.deleted")
        other = await self.cost(store)
        await post.endpoint("execution.started", "execution.completed")
        told = await self.cost(store)
        assert (none["xadd"], other["xadd"], told["xadd"]) == (2, 2, 4)
        assert none["publish"] == other["publish"] == told["publish"] - 2
        assert none["hmget"] == other["hmget"] == told["hmget"]

    async def test_every_end_is_told(self, store: Store, post: Post) -> None:
        await post.endpoint("*")
        desk = Desk(store)
        for status in ("completed", "failed", "timed_out", "cancelled"):
            execution = await desk.accept()
            assert await desk.end(await desk.claim(), status=status)
            started, ended = (await post.outbox.rows(SHARD, 10))[-2:]
            assert started.event == "execution.started"
            assert (ended.event, ended.execution_id, ended.data) == (f"execution.{status}", execution, None)
            assert {started.event, ended.event} < set(EVENTS)

    async def test_so_is_one_that_too_many_runners_lost(self, store: Store, post: Post) -> None:
        await post.endpoint("execution.failed")
        desk = Desk(store)
        execution = await desk.accept()
        await desk.claim()
        await desk.lose(most=1)
        (row,) = await post.outbox.rows(SHARD, 10)
        assert (row.event, row.execution_id) == ("execution.failed", execution)

    async def test_a_url_of_its_own_is_told_of_the_end_alone(self, store: Store, post: Post) -> None:
        desk, url = Desk(store), "https://example.com/own"
        execution = await desk.accept(hook=url)
        await desk.end(await desk.claim())
        (row,) = await post.outbox.rows(SHARD, 10)
        assert (row.event, row.execution_id, row.url) == ("execution.completed", execution, url)

    async def test_an_order_that_is_refused_tells_nothing(self, store: Store, post: Post) -> None:
        await post.endpoint()
        desk = Desk(store)
        await desk.accept(slots=1)
        with pytest.raises(RateLimitError):
            await desk.accept(slots=1)
        assert len(await post.outbox.rows(SHARD, 10)) == 1

    async def test_couriers_are_woken(self, store: Store, post: Post) -> None:
        """By the shard, so that they need not look everywhere."""
        await post.endpoint()
        heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        subscriptions = Subscriptions(store)
        await subscriptions.listen(keys.channel("outbox"), heard.put_nowait)
        await Desk(store).accept()
        async with asyncio.timeout(5):
            assert await heard.get() == keys.PREFIXES[SHARD].encode()
        await subscriptions.close()

    async def test_an_agent_that_errs_tells_of_it(self, store: Store, post: Post) -> None:
        await post.endpoint("agent.error")
        desk, agent = Desk(store), new_id("agent")
        await store.call("HSET", keys.key("agent", WS, id=agent), "item", b'{"name":"A"}')
        for _ in range(5):
            assert await post.outbox.rows(SHARD, 9) == []
            await desk.accept(agent)
            await desk.end(await desk.claim(), status="failed")
        (row,) = await post.outbox.rows(SHARD, 9)
        data = {"agent_id": agent, "name": "A", "version": "1.0.0", "status": "error"}
        assert (row.event, orjson.loads(row.data or b"")) == ("agent.error", data)
