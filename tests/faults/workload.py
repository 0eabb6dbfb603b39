"""Executions to hurt: three scripted calls in a row, whose calls the store counts."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx2

from kernel.storage.calls import Calls
from kernel.storage.store import Store, opened
from tests.faults.history import History
from tests.platform import Platform

NODES = ("first", "second", "third")


def agent(delay_ms: int, **script: Any) -> dict[str, Any]:
    """An agent of three scripted nodes in a row, each as slow as given."""
    config = {"model": "scripted", "prompt": "{{ input.n }}", "script": {"delay_ms": delay_ms, **script}}
    edges = list(zip(("entry", *NODES), NODES, strict=False))
    return {
        "name": "Workload",
        "flow": {
            "nodes": [{"id": node, "type": "llm", "config": config} for node in NODES],
            "edges": [{"source": source, "target": target} for source, target in edges],
        },
    }


async def start(api: httpx2.AsyncClient, body: dict[str, Any], count: int) -> list[str]:
    """Ids of accepted executions of a new agent."""
    made = (await api.post("/agents", json=body)).raise_for_status().json()
    answers = await asyncio.gather(
        *(api.post(f"/agents/{made['id']}/execute", json={"input": {"n": number}}) for number in range(count))
    )
    return [answer.raise_for_status().json()["execution_id"] for answer in answers]


async def end(api: httpx2.AsyncClient, execution_id: str) -> dict[str, Any]:
    """The execution once it is over."""
    while True:
        shown: dict[str, Any] = (await api.get(f"/executions/{execution_id}")).raise_for_status().json()
        if shown["status"] != "running":
            return shown
        await events(api, execution_id)


async def events(api: httpx2.AsyncClient, execution_id: str, after: int = 0) -> list[dict[str, Any]]:
    """All events to the last one; comes again with the last seq when the connection breaks."""
    found: list[dict[str, Any]] = []
    while True:
        seen = found[-1]["seq"] if found else after
        try:
            async with api.stream(
                "GET", f"/executions/{execution_id}/events", params={"after": seen}
            ) as answer:
                if answer.status_code == 200:
                    async for line in answer.aiter_lines():
                        found += [json.loads(line[5:])] if line.startswith("data:") else []
                    return found
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.1)


AT_ONCE = 40
"""Executions looked at side by side; more only starve this client."""


async def histories(platform: Platform, api: httpx2.AsyncClient, ids: Sequence[str]) -> list[History]:
    """What came of them, once all are over."""
    room = asyncio.Semaphore(AT_ONCE)
    async with opened(platform.store_url) as store, asyncio.timeout(200):
        return list(await asyncio.gather(*(_history(api, store, room, execution_id) for execution_id in ids)))


async def _history(
    api: httpx2.AsyncClient, store: Store, room: asyncio.Semaphore, execution_id: str
) -> History:
    async with room:
        told = await events(api, execution_id)
        shown = (await api.get(f"/executions/{execution_id}")).raise_for_status().json()
        return History(
            execution_id, told, shown, {node: await calls(store, execution_id, node) for node in NODES}
        )


async def calls(store: Store, execution_id: str, node: str) -> int:
    """How often the scripted model was called for this node."""
    return await Calls(store).count(f"{execution_id}:{node}")
