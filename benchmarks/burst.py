"""Many executions submitted at once, each one call of a second: how long until the last has ended."""

import asyncio
import statistics
import time
from functools import partial

import aiohttp

from benchmarks.client import executions, session, start, until
from benchmarks.installation import Installation
from benchmarks.results import Figure
from kernel.clock import epoch_ms

CALL = {"model": "scripted", "prompt": "{{ input }}", "script": {"reply": "done", "delay_ms": 1000}}
FLOW = {"nodes": [{"id": "wait", "type": "llm", "config": CALL}]}
ONE_RUNNER = {"CODEXOS_RUNNER__MAX_RUNNERS": "1"}
CONNECTIONS = 64
PATIENCE_S = 120.0


def burst(installation: Installation, count: int) -> list[Figure]:
    """Raises TimeoutError when they take two minutes; ends the benchmark unless all completed."""
    return asyncio.run(_burst(installation, installation.agent("Waits a second", FLOW), count))


async def _burst(installation: Installation, agent: str, count: int) -> list[Figure]:
    async with session(installation, CONNECTIONS) as api:
        began, began_ms = time.monotonic(), time.time() * 1000
        await asyncio.gather(*(start(api, agent) for _ in range(count)))
        submitted_s = time.monotonic() - began
        await until(partial(_none_runs, api, agent), 0.2, PATIENCE_S)
        ended = await _ended(api, agent)
    if len(ended) != count:
        raise SystemExit(f"{len(ended)} of {count} executions completed")
    done = {
        "submitted_s": submitted_s,
        "median_done_s": (statistics.median(ended) - began_ms) / 1000,
        "done_s": (max(ended) - began_ms) / 1000,
    }
    return [Figure(str(count), metric, value) for metric, value in done.items()]


async def _none_runs(api: aiohttp.ClientSession, agent: str) -> bool:
    page = await executions(api, agent_id=agent, status="running", limit="1")
    return bool(page["pagination"]["total"] == 0)


async def _ended(api: aiohttp.ClientSession, agent: str) -> list[int]:
    """When each completed execution of the agent ended, ms since the epoch."""
    ended: list[int] = []
    number, pages = 1, 1
    while number <= pages:
        page = await executions(api, agent_id=agent, status="completed", limit="100", page=str(number))
        ended += [epoch_ms(item["completed_at"]) for item in page["executions"]]
        number, pages = number + 1, page["pagination"]["pages"]
    return ended
