"""Limits under load: what metering costs, and whether anybody gets more than their share.

`metered` reads one agent with a key of a limited plan (of a rate that is never reached), beside the same
application without limits in the same Serve. `spread` is the same load by 1,000 workspaces in turn. `hammer`
sends what 200 callers can on a free key for a minute, on three replicas, left alone or with the metering actor
and a replica killed every 5 s.
"""

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx2

from benchmarks.beside import deploy
from benchmarks.http_load import Load, Request, load, run_wrk
from benchmarks.installation import ECHO, Installation
from benchmarks.results import Figure

CONNECTIONS = 16
WARM_UP = -1
WORKSPACES = 1_000
UNTIL_ALL_ARE_KNOWN_S = 10
"""Each replica has then seen each workspace a few times."""
CALLERS = 200
HAMMER_S = 60
KILL_EVERY_S = 5.0
FREE_BURST, FREE_EVERY_S = 50, 3.6
WIDE = {"requests_per_hour": 36_000_000, "burst": 100_000}
"""Limits that a load of a few thousand a second never meets."""
KEYS = Path(__file__).parent / "keys.lua"
THREE_REPLICAS = {"CODEXOS_API__REPLICAS": "3"}
HOLD = {
    "nodes": [
        {
            "id": "hold",
            "type": "llm",
            "config": {"model": "scripted", "prompt": "x", "script": {"delay_ms": 600_000}},
        }
    ]
}


@dataclass(frozen=True, slots=True)
class Owner:
    """Makes what a benchmark needs, with the installation's first key."""

    installation: Installation
    http: httpx2.Client

    def workspace(self, plan: str, limits: dict[str, int] | None = None) -> str:
        made = self._json("POST", "/v1/workspaces", {"name": "Benchmark", "plan": plan})
        if limits:
            self._json("PATCH", f"/v1/workspaces/{made['id']}", {"limits": limits})
        return str(made["id"])

    def key(self, workspace: str) -> tuple[str, str]:
        """Its id, and itself."""
        order = {"name": "Benchmark", "scopes": ["admin"], "workspace_id": workspace}
        made = self._json("POST", "/v1/api-keys", order)
        return made["id"], made["key"]

    def agent(self, key: str) -> str:
        order = {"name": "Echo", "flow": ECHO}
        return str(self._json("POST", "/v1/agents", order, key)["id"])

    def revoke(self, key_id: str, key: str) -> None:
        self.http.request("DELETE", f"/v1/api-keys/{key_id}", headers=_bearer(key)).raise_for_status()

    def _json(self, method: str, path: str, body: Any, key: str | None = None) -> dict[str, Any]:
        answer = self.http.request(method, path, json=body, headers=_bearer(key) if key else {})
        answer.raise_for_status()
        made: dict[str, Any] = answer.json()
        return made


def owner(installation: Installation) -> Owner:
    client = httpx2.Client(
        base_url=installation.url, headers=installation.headers, trust_env=False, timeout=30
    )
    return Owner(installation, client)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def all_of_them(seconds: int, rounds: int) -> Iterator[Figure]:
    with Installation("limits").running() as one:
        yield from metered(one, seconds, rounds)
        yield from spread(one, seconds, rounds)
        yield from slots(one, rounds)
        yield from revoked(one, rounds)
    with Installation("hammered", settings=THREE_REPLICAS).running() as three:
        yield from hammer(three, kills=False)
        yield from hammer(three, kills=True)


def metered(installation: Installation, seconds: int, rounds: int) -> Iterator[Figure]:
    """By turns, every second round in turned order; ratios are of requests per second within a round."""
    deploy(installation, "benchmarks.unmetered")
    me = owner(installation)
    _, key = me.key(me.workspace("pro", WIDE))
    path = f"/v1/agents/{me.agent(key)}"
    requests = {
        "metered": Request(f"{installation.url}{path}", _bearer(key)),
        "unmetered": Request(f"{installation.url}/unmetered{path}", _bearer(key)),
    }
    for number in range(WARM_UP, rounds):
        order = sorted(requests, reverse=number % 2 == 1)
        loads = {case: load(requests[case], CONNECTIONS, seconds) for case in order}
        if number != WARM_UP:
            yield from _compared(loads, "metered", "unmetered")


def spread(installation: Installation, seconds: int, rounds: int) -> Iterator[Figure]:
    """`/v1/me` by one workspace and by 1,000 in turn, by turns."""
    me = owner(installation)
    keys = [me.key(me.workspace("pro", WIDE))[1] for _ in range(WORKSPACES)]
    with tempfile.TemporaryDirectory() as folder:
        files = {"one": keys[:1], "many": keys}
        for name, some in files.items():
            _write_private(Path(folder, name), some)
        url = f"{installation.url}/v1/me"
        run_wrk(url, KEYS, {"REQ_KEYS": str(Path(folder, "many"))}, CONNECTIONS, UNTIL_ALL_ARE_KNOWN_S)
        for number in range(WARM_UP, rounds):
            order = sorted(files, reverse=number % 2 == 1)
            environment = {name: {"REQ_KEYS": str(Path(folder, name))} for name in files}
            loads = {name: run_wrk(url, KEYS, environment[name], CONNECTIONS, seconds) for name in order}
            if number != WARM_UP:
                yield from _compared(loads, "many", "one")


def _compared(loads: dict[str, Load], case: str, beside: str) -> Iterator[Figure]:
    for name, measured in loads.items():
        yield Figure(name, "req_s", measured.req_s)
        yield Figure(name, "p50_ms", measured.p50_ms)
    yield Figure(f"{case}/{beside}", "ratio", loads[case].req_s / loads[beside].req_s)


def _write_private(file: Path, lines: list[str]) -> None:
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")


@dataclass
class Tally:
    """at: seconds from the begin when each admitted request was answered."""

    began: float = field(default_factory=time.monotonic)
    at: list[float] = field(default_factory=list)
    refused: int = 0
    unavailable: int = 0
    broken: int = 0
    odd: list[int] = field(default_factory=list)

    def note(self, status: int) -> None:
        match status:
            case 200:
                self.at.append(time.monotonic() - self.began)
            case 429:
                self.refused += 1
            case 503:
                self.unavailable += 1
            case _:
                self.odd.append(status)

    def over(self) -> int:
        """How many more than the bucket allows had been admitted at the worst moment."""
        allowed = [FREE_BURST + int(moment / FREE_EVERY_S) for moment in self.at]
        return max([number + 1 - most for number, most in enumerate(allowed)], default=0)


def hammer(installation: Installation, kills: bool, seconds: float = HAMMER_S) -> Iterator[Figure]:
    """A workspace of its own with a full bucket. under_percent: of what the bucket had to give."""
    me = owner(installation)
    _, key = me.key(me.workspace("free"))
    tally = asyncio.run(_hammer(installation, key, seconds, kills))
    due = FREE_BURST + int(seconds / FREE_EVERY_S)
    case = "hammer killed" if kills else "hammer"
    yield Figure(case, "at_once", sum(moment < 3.0 for moment in tally.at))
    yield Figure(case, "admitted", len(tally.at))
    yield Figure(case, "over", max(0, tally.over()))
    yield Figure(case, "under_percent", max(0.0, 100 * (due - len(tally.at)) / due))
    yield Figure(case, "refused", tally.refused)
    yield Figure(case, "unavailable", tally.unavailable)
    yield Figure(case, "broken", tally.broken)
    yield Figure(case, "odd", len(tally.odd))


async def _hammer(installation: Installation, key: str, seconds: float, kills: bool) -> Tally:
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        installation.url, headers=_bearer(key), connector=connector, timeout=aiohttp.ClientTimeout(10)
    ) as api:
        callers = [asyncio.create_task(_call(api, tally, seconds)) for _ in range(CALLERS)]
        killer = asyncio.create_task(_kill(installation, tally, seconds)) if kills else None
        await asyncio.gather(*callers)
        if killer:
            await killer
    return tally


async def _call(api: aiohttp.ClientSession, tally: Tally, seconds: float) -> None:
    while time.monotonic() - tally.began < seconds:
        try:
            async with api.get("/v1/me") as answer:
                tally.note(answer.status)
        except (aiohttp.ClientError, TimeoutError):
            tally.broken += 1
            await asyncio.sleep(0.05)


async def _kill(installation: Installation, tally: Tally, seconds: float) -> None:
    """kill -9 of the metering actor and of a replica, by pid, every 5 s."""
    while (left := seconds - (time.monotonic() - tally.began)) > KILL_EVERY_S:
        await asyncio.sleep(min(KILL_EVERY_S, left))
        running = await asyncio.to_thread(installation.processes)
        for role in ("metering", "api-replica"):
            pid = next((pid for pid, name in running.items() if name == role), None)
            if pid:
                os.kill(pid, signal.SIGKILL)


def slots(installation: Installation, rounds: int) -> Iterator[Figure]:
    """On the free plan: what the 11th execution is told, and ms from an end until its slot takes another."""
    me = owner(installation)
    for _ in range(rounds):
        _, key = me.key(me.workspace("free"))
        refused, ms = asyncio.run(_reuse(installation, key))
        yield Figure("slots", "eleventh_refused", float(refused))
        yield Figure("slots", "reuse_ms", ms)


async def _reuse(installation: Installation, key: str) -> tuple[bool, float]:
    async with aiohttp.ClientSession(installation.url, headers=_bearer(key)) as api:
        body = {"flow": HOLD, "input": {}}
        ids = [(await _post(api, "/v1/executions", body))[1]["execution_id"] for _ in range(10)]
        status, answer = await _post(api, "/v1/executions", body)
        refused = status == 429 and answer["error"]["details"]["limit"] == "concurrent"
        await _post(api, f"/v1/executions/{ids[0]}/cancel", None)
        while (await _get(api, f"/v1/executions/{ids[0]}"))["status"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        ended = time.monotonic()
        while (await _post(api, "/v1/executions", body))[0] != 202:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return refused, (time.monotonic() - ended) * 1000


async def _post(api: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with api.post(path, json=body) as answer:
        return answer.status, json.loads(await answer.read() or b"null")


async def _get(api: aiohttp.ClientSession, path: str) -> Any:
    async with api.get(path) as answer:
        return await answer.json()


def revoked(installation: Installation, rounds: int) -> Iterator[Figure]:
    """ms from the answer to the revocation until the last request of the key that was let in, under load."""
    me = owner(installation)
    for _ in range(rounds):
        key_id, key = me.key(me.workspace("pro", WIDE))
        yield Figure("revoked", "last_success_ms", asyncio.run(_revoke(installation, me, key_id, key)))


async def _revoke(installation: Installation, me: Owner, key_id: str, key: str) -> float:
    last, going = 0.0, True

    async def call(api: aiohttp.ClientSession) -> None:
        nonlocal last
        while going:
            async with api.get("/v1/me") as answer:
                if answer.status == 200:
                    last = time.monotonic()

    async with aiohttp.ClientSession(installation.url, headers=_bearer(key)) as api:
        callers = [asyncio.create_task(call(api)) for _ in range(CONNECTIONS)]
        await asyncio.sleep(1)
        await asyncio.to_thread(me.revoke, key_id, key)
        done = time.monotonic()
        await asyncio.sleep(2)
        going = False
        await asyncio.gather(*callers)
    return max(0.0, (last - done) * 1000)
