"""The reference's example of a webhook on the whole platform, and receivers that verify it in two languages."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from codexos import webhooks
from tests.platform import Platform, until
from tests.web import Exchange, Web, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECRET = "your-webhook-secret"
ECHO = {"nodes": [{"id": "echo", "type": "template", "config": {"template": "Hello {{ input.name }}"}}]}
NODE_PACKAGE = "standardwebhooks@1.1.1"
VERIFY = """
const { Webhook } = require("standardwebhooks");
const { secret, body, headers } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const webhook = new Webhook(secret, secret.startsWith("whsec_") ? {} : { format: "raw" });
const tampered = body.replace("completed", "failed");
let refused = false;
try { webhook.verify(tampered, headers); } catch { refused = true; }
console.log(JSON.stringify({ event: webhook.verify(body, headers), refused }));
"""


class Receiver:
    """Keeps what it gets; the first `fails` times it answers 500."""

    def __init__(self, fails: int = 0):
        self.got: asyncio.Queue[Exchange] = asyncio.Queue()
        self._fails = fails

    async def answer(self, exchange: Exchange) -> None:
        self._fails -= 1
        await exchange.answer(500 if self._fails >= 0 else 200, b"thanks")
        self.got.put_nowait(exchange)

    async def next(self, within_s: float = 10) -> Exchange:
        async with asyncio.timeout(within_s):
            return await self.got.get()


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncGenerator[Web]:
    async with serve(receiver.answer) as web:
        yield web


def headers_of(exchange: Exchange) -> dict[str, str]:
    return {
        name: exchange.header(name) or "" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    }


async def made(api: httpx2.AsyncClient, url: str, *events: str, **more: Any) -> dict[str, Any]:
    body = {"url": url, "events": events or ("execution.completed", "agent.error"), "secret": SECRET} | more
    answer = await api.post("/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    webhook: dict[str, Any] = answer.json()
    return webhook


async def run(api: httpx2.AsyncClient, name: str = "Ada", **options: Any) -> dict[str, Any]:
    agent = (await api.post("/agents", json={"name": "Greeter", "flow": ECHO})).raise_for_status().json()
    order = {"input": {"name": name}, "options": options}
    answer = await api.post(f"/agents/{agent['id']}/execute", params={"wait": 30}, json=order)
    shown: dict[str, Any] = answer.raise_for_status().json()
    return shown


@pytest.fixture
async def api(platform: Platform) -> AsyncGenerator[httpx2.AsyncClient]:
    """Leaves no webhook behind."""
    async with platform.client() as client:
        yield client
        for webhook in (await client.get("/webhooks")).json()["webhooks"]:
            await client.delete(f"/webhooks/{webhook['id']}")


async def test_the_references_example(api: httpx2.AsyncClient) -> None:
    receiver = Receiver()
    async with receiving(receiver) as web:
        webhook = await made(api, f"{web.url}/webhook")
        ran = await run(api)
        got = await receiver.next()
    event = Webhook(SECRET.encode()).verify(got.body, headers_of(got))
    assert event == webhooks.verify(got.body, headers_of(got), SECRET)
    assert list(event) == ["event", "timestamp", "data"]
    assert event["event"] == "execution.completed"
    assert event["timestamp"] == ran["completed_at"]
    data = event["data"]
    assert list(data) == ["execution_id", "agent_id", "status", "result"]
    assert data["execution_id"] == ran["id"]
    assert (data["agent_id"], data["status"]) == (ran["agent_id"], "completed")
    assert data["result"]["output"] == "Hello Ada"
    assert data["result"].keys() == {"output", "tokens_used", "cost"}
    with pytest.raises(WebhookVerificationError):
        Webhook(b"another").verify(got.body, headers_of(got))
    assert SECRET not in (await api.get(f"/webhooks/{webhook['id']}")).text


async def test_a_receiver_that_failed_gets_the_same_again(api: httpx2.AsyncClient) -> None:
    receiver = Receiver(fails=1)
    async with receiving(receiver) as web:
        webhook = await made(api, web.url, "agent.created")
        await api.post("/agents", json={"name": "Greeter", "flow": ECHO})
        first, second = await receiver.next(), await receiver.next(15)
    assert first.header("webhook-id") == second.header("webhook-id")
    assert first.body == second.body
    assert first.header("webhook-signature") != second.header("webhook-signature")
    path = f"/webhooks/{webhook['id']}/deliveries"
    async with asyncio.timeout(5):
        while (listed := (await api.get(path)).json()["deliveries"][0])["status"] == "pending":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert listed["id"] == first.header("webhook-id")
    assert listed["status"] == "delivered"
    assert [one["status_code"] for one in listed["attempts"]] == [500, 200]


async def test_a_url_of_its_own(api: httpx2.AsyncClient) -> None:
    """An execution's `webhook_url`, signed by the workspace's secret."""
    secret = (await api.get("/webhooks/signing-secret")).raise_for_status().json()["secret"]
    receiver = Receiver()
    async with receiving(receiver) as web:
        ran = await run(api, webhook_url=f"{web.url}/once")
        got = await receiver.next()
    assert Webhook(secret).verify(got.body, headers_of(got))["data"]["execution_id"] == ran["id"]


@pytest.mark.skipif(
    shutil.which("npm") is None or shutil.which("node") is None, reason="npm is not installed"
)
async def test_a_receiver_in_javascript(api: httpx2.AsyncClient, tmp_path: Path) -> None:
    """By the library that is kept for it, also while two secrets sign."""
    await asyncio.to_thread(
        _run, ["npm", "install", "--no-audit", "--no-fund", "--silent", NODE_PACKAGE], tmp_path
    )
    receiver = Receiver()
    async with receiving(receiver) as web:
        webhook = await made(api, web.url, "agent.created", "execution.completed")
        rotated = (
            (await api.post(f"/webhooks/{webhook['id']}/rotate-secret")).raise_for_status().json()["secret"]
        )
        await run(api)
        events = [await receiver.next(), await receiver.next()]
    completed = next(one for one in events if b"execution.completed" in one.body)
    for secret in (SECRET, rotated):
        said = {"secret": secret, "body": completed.body.decode(), "headers": headers_of(completed)}
        told = await asyncio.to_thread(_run, ["node", "-e", VERIFY], tmp_path, json.dumps(said))
        assert json.loads(told) == {"event": completed.json, "refused": True}


def _run(command: Sequence[str], folder: Path, text: str = "") -> str:
    done = subprocess.run(
        command, cwd=folder, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_courier_is_a_process_of_its_own(platform: Platform) -> None:
    """And comes back by itself."""
    killed = platform.kill("courier")
    until(
        lambda: [one.pid for one in platform.processes("courier")] not in ([], [killed]),
        30,
        "another courier",
    )
