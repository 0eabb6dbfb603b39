"""How fast webhooks are delivered, and whether a receiver that hangs holds up the others.

The receivers are in this process. `one` is what one courier makes of a heap of events for one endpoint; they are put
into the outbox as the platform's own scripts put them. `hanging` is 100 workspaces with an endpoint each, one of which
never answers, while agents are made in all of them by turns: how long after the change the others know of it.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import orjson
from aiohttp import web

from benchmarks.client import until
from benchmarks.installation import ECHO, Installation
from benchmarks.limits import owner
from benchmarks.results import Figure
from benchmarks.seeding import Storage, now_ms, storage
from kernel.agents.flow import Flow
from kernel.agents.record import AgentCreate
from kernel.clock import epoch_ms
from kernel.storage import keys

LOOPBACK = {"CODEXOS_EGRESS_ALLOW": "127.0.0.0/8"}
HEAP = 5_000
ENDPOINTS = 100
EVENTS = 5_000
PER_S = 150
"""Agents made a second."""
PATIENCE_S = 120.0


@dataclass(slots=True)
class Receiver:
    """lags: ms from the change to its arrival, by `webhook-id`, of what it answered. last: ms of the newest."""

    port: int = 0
    lags: dict[str, int] = field(default_factory=dict)
    last: int = 0

    async def take(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.last = now_ms()
        self.lags.setdefault(request.headers["webhook-id"], self.last - epoch_ms(body["timestamp"]))
        return web.Response(text="ok")

    async def hang(self, request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def has(self, count: int) -> bool:
        return len(self.lags) >= count


def one(installation: Installation, rounds: int) -> Iterator[Figure]:
    for _ in range(rounds):
        per_s = asyncio.run(_heap(installation))
        yield Figure("one", "per_s", per_s)


def hanging(installation: Installation) -> Iterator[Figure]:
    lags = sorted(asyncio.run(_made_by_turns(installation)))
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1)):
        yield Figure("hanging", name, lags[round(share * (len(lags) - 1))])


async def _heap(installation: Installation) -> float:
    async with _receiving() as receiver, storage(installation) as store:
        url = f"http://127.0.0.1:{receiver.port}/take"
        workspace = await asyncio.to_thread(_subscribed, installation, url)
        began = now_ms()
        await _tell(store, workspace, HEAP)
        await _arrived(receiver, HEAP)
        return 1000 * HEAP / (receiver.last - began)


async def _tell(store: Storage, workspace: str, count: int) -> None:
    """Events as `tell_outside` of the platform's scripts records them."""
    shard, data = (
        keys.shard_of(workspace),
        orjson.dumps({"agent_id": "agent_" + "0" * 26, "name": "Benchmark"}),
    )
    row = ("*", "ws", workspace, "event", "agent.created", "at", now_ms(), "d", data)
    await store.kernel.store.together(*[("XADD", keys.shard_key("outbox", shard), *row)] * count)
    await store.kernel.store.call("PUBLISH", keys.channel("outbox"), keys.PREFIXES[shard])


async def _made_by_turns(installation: Installation) -> Sequence[int]:
    """How long it took those who answer to know."""
    async with _receiving() as receiver, storage(installation) as store:
        home = f"http://127.0.0.1:{receiver.port}"
        paths = ["hang", *["take"] * (ENDPOINTS - 1)]
        workspaces = [await asyncio.to_thread(_subscribed, installation, f"{home}/{path}") for path in paths]
        turns = workspaces * (EVENTS // ENDPOINTS)
        random.shuffle(turns)
        await asyncio.gather(*(_make(store, turn, number) for number, turn in enumerate(turns)))
        await _arrived(receiver, EVENTS - EVENTS // ENDPOINTS)
        return list(receiver.lags.values())


async def _make(store: Storage, workspace: str, number: int) -> None:
    """An agent, when its turn has come."""
    await asyncio.sleep(number / PER_S)
    order = AgentCreate(name=f"Benchmark {number}", flow=Flow.model_validate(ECHO))
    await store.kernel.agents.create(workspace, store.who.user_id, order)


async def _arrived(receiver: Receiver, count: int) -> None:
    try:
        await until(lambda: receiver.has(count), 0.05, PATIENCE_S)
    except TimeoutError:
        raise SystemExit(f"{len(receiver.lags):,} of {count:,} events have arrived") from None


@asynccontextmanager
async def _receiving() -> AsyncGenerator[Receiver]:
    receiver, app = Receiver(), web.Application()
    app.add_routes([web.post("/take", receiver.take), web.post("/hang", receiver.hang)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


def _subscribed(installation: Installation, url: str) -> str:
    """A new workspace that tells of its new agents."""
    me = owner(installation)
    workspace = me.workspace("enterprise")
    _, key = me.key(workspace)
    answer = httpx2.post(
        f"{installation.url}/v1/webhooks",
        json={"url": url, "events": ["agent.created"]},
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=30,
    )
    answer.raise_for_status()
    return workspace
