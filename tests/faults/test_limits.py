"""Limits while the metering actor and API replicas are killed: never more than the bucket allows, and hardly less."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.platform import Platform

pytestmark = pytest.mark.anyio

CALLERS = 40
SECONDS = 16.0
BURST, EVERY_S = 50, 3.6


@dataclass
class Tally:
    """at: seconds from the begin when each admitted request was answered."""

    began: float = field(default_factory=time.monotonic)
    at: list[float] = field(default_factory=list)
    other: set[int] = field(default_factory=set)

    @property
    def passed(self) -> float:
        return time.monotonic() - self.began

    def most_over(self) -> int:
        return max(number + 1 - BURST - int(at / EVERY_S) for number, at in enumerate(self.at))


async def free_key(api: httpx2.AsyncClient) -> str:
    workspace = (await api.post("/workspaces", json={"name": "Hammered"})).json()["id"]
    order = {"name": "hammer", "scopes": ["agents:read"], "workspace_id": workspace}
    return str((await api.post("/api-keys", json=order)).json()["key"])


async def call(api: httpx2.AsyncClient, tally: Tally) -> None:
    while tally.passed < SECONDS:
        try:
            answer = await api.get("/me")
        except httpx2.TransportError:
            await asyncio.sleep(0.05)
            continue
        if answer.status_code == 200:
            tally.at.append(tally.passed)
        else:
            tally.other.add(answer.status_code)
        if answer.status_code != 200:
            await asyncio.sleep(0.02)


async def kill(platform: Platform, tally: Tally) -> None:
    while tally.passed < SECONDS - 6:
        for role in ("metering", "api-replica"):
            running = await asyncio.to_thread(platform.processes, role)
            if running:
                os.kill(running[0].pid, signal.SIGKILL)
        await asyncio.sleep(5)


async def test_nobody_gets_more_while_meter_and_replicas_are_killed(platform: Platform) -> None:
    async with platform.client() as owner:
        key = await free_key(owner)
    async with platform.client(headers={"Authorization": f"Bearer {key}"}) as api:
        tally = Tally()
        await asyncio.gather(kill(platform, tally), *(call(api, tally) for _ in range(CALLERS)))
    assert tally.most_over() <= 0
    assert len(tally.at) >= BURST + int(SECONDS / EVERY_S) - 1
    assert tally.other <= {429, 503}
