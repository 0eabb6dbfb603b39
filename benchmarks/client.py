"""The small asynchronous client of the benchmarks that wrk cannot do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from benchmarks.installation import Installation


def session(installation: Installation, connections: int) -> aiohttp.ClientSession:
    """connections: the most at once; 0 is any number."""
    connector = aiohttp.TCPConnector(limit=connections)
    return aiohttp.ClientSession(installation.url, headers=installation.headers, connector=connector)


async def start(api: aiohttp.ClientSession, agent: str) -> str:
    """The id of a new execution."""
    async with api.post(f"/v1/agents/{agent}/execute", json={"input": "go"}) as answer:
        answer.raise_for_status()
        started: dict[str, Any] = await answer.json()
        execution: str = started["execution_id"]
        return execution


async def executions(api: aiohttp.ClientSession, **query: str) -> dict[str, Any]:
    """A page of them."""
    async with api.get("/v1/executions", params=query) as answer:
        answer.raise_for_status()
        page: dict[str, Any] = await answer.json()
        return page


async def until(holds: Callable[[], Awaitable[bool]], every_s: float, patience_s: float) -> None:
    """Raises TimeoutError. What is asked about lies in other processes: nothing here could wake us."""
    async with asyncio.timeout(patience_s):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(every_s)
