"""Couriers, the store and API replicas are killed while executions complete: afterwards each of them has been told."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.platform import Platform
from tests.web import Exchange, Web, serve

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

EXECUTIONS = 5_000
WRITERS = 20
KILL_EVERY_S = 2.5
ROLES = ("courier", "valkey", "api-replica")
SECRET = "your-webhook-secret"
FLOW = {"nodes": [{"id": "say", "type": "llm", "config": {"model": "scripted", "prompt": "{{ input.n }}"}}]}


async def ok(exchange: Exchange) -> None:
    await exchange.answer(200)


async def subscribed(api: httpx2.AsyncClient, web: Web) -> tuple[str, str]:
    """A webhook for completed executions, and an agent."""
    body = {"url": web.url, "events": ["execution.completed"], "secret": SECRET}
    webhook = (await api.post("/webhooks", json=body)).raise_for_status().json()
    agent = (await api.post("/agents", json={"name": "Told", "flow": FLOW})).raise_for_status().json()
    return webhook["id"], agent["id"]


async def ordered(api: httpx2.AsyncClient, agent: str, acknowledged: list[str], killed: list[str]) -> None:
    """Orders until enough are acknowledged; what is refused, or whose answer is lost, is no promise."""
    while len(acknowledged) < EXECUTIONS or len(killed) < len(ROLES):
        try:
            answer = await api.post(f"/agents/{agent}/execute", json={"input": {"n": len(acknowledged)}})
        except httpx2.TransportError:
            continue
        if answer.status_code == 202:
            acknowledged.append(answer.json()["execution_id"])
        else:
            assert answer.status_code in (502, 503, 504), answer.text
            await asyncio.sleep(0.05)


async def kill(platform: Platform, killed: list[str]) -> None:
    """One of each role, then at random, until cancelled. One that is just starting again is left to that."""
    turn = random.sample(ROLES, len(ROLES))
    while True:
        role = turn.pop() if turn else random.choice(ROLES)
        if await asyncio.to_thread(platform.processes, role):
            await asyncio.to_thread(platform.kill, role)
            killed.append(role)
        await asyncio.sleep(KILL_EVERY_S)


async def told_of(web: Web, executions: Sequence[str]) -> None:
    """Returns once the receiver has heard of all."""
    async with asyncio.timeout(90):
        while set(executions) - {executed(exchange) for exchange in web.exchanges}:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def executed(exchange: Exchange) -> str:
    data = exchange.json["data"]
    assert isinstance(data, dict)
    return str(data["execution_id"])


async def test_every_event_arrives_whoever_is_killed(platform: Platform) -> None:
    acknowledged: list[str] = []
    killed: list[str] = []
    async with platform.client() as api, serve(ok) as web:
        webhook, agent = await subscribed(api, web)
        killer = asyncio.create_task(kill(platform, killed))
        await asyncio.gather(*(ordered(api, agent, acknowledged, killed) for _ in range(WRITERS)))
        killer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killer
        await told_of(web, acknowledged)
        await api.delete(f"/webhooks/{webhook}")
    copies: dict[str, list[Exchange]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)
    for exchange in web.exchanges:
        event_id = exchange.header("webhook-id") or ""
        copies[event_id].append(exchange)
        names[executed(exchange)].add(event_id)
    assert all(len({one.body for one in same}) == 1 for same in copies.values())
    assert all(len(ids) == 1 for ids in names.values())
    for exchange in web.exchanges:
        headers = {
            name: exchange.header(f"webhook-{name}") or "" for name in ("id", "timestamp", "signature")
        }
        Webhook(SECRET.encode()).verify(
            exchange.body, {f"webhook-{name}": text for name, text in headers.items()}
        )
