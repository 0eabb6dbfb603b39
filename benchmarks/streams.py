"""Many open WebSocket streams of running executions: how late events arrive, and whether all of them do.

Lag is from an event's own timestamp to its arrival here, by the one clock of the machine. It counts only once
all streams are open; what is replayed to a stream that opens late says nothing about lag.
"""

import asyncio
import resource
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from benchmarks.client import session, start
from benchmarks.installation import Installation
from benchmarks.results import Figure
from kernel.clock import epoch_ms

OPENING_AT_ONCE = 32
PATIENCE_S = 60.0
TERMINAL = frozenset(f"execution.{end}" for end in ("completed", "failed", "cancelled", "timed_out"))
NORMAL_CLOSE = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """How many streams, of executions that say `tokens` tokens, one each `gap_ms`."""

    streams: int
    tokens: int
    gap_ms: int

    @property
    def flow(self) -> dict[str, Any]:
        script = {"tokens": self.tokens, "token_delay_ms": self.gap_ms, "delay_ms": self.gap_ms}
        call = {"model": "scripted", "prompt": "{{ input }}", "script": script}
        return {"nodes": [{"id": "talk", "type": "llm", "config": call}]}

    @property
    def patience_s(self) -> float:
        return PATIENCE_S + self.tokens * self.gap_ms / 1000


@dataclass(slots=True)
class Stream:
    """What came: each event as text with the moment of its arrival, ms since the epoch."""

    opened_ms: float = 0.0
    close_code: int | None = None
    arrivals: list[tuple[float, str]] = field(default_factory=list)

    def events(self) -> list[tuple[float, dict[str, Any]]]:
        return [(arrived, orjson.loads(text)) for arrived, text in self.arrivals]


def streams(installation: Installation, plan: Plan) -> list[Figure]:
    _allow_files(plan.streams)
    seen = asyncio.run(_watch_all(installation, installation.agent("Talks", plan.flow), plan))
    lags = sorted(_lags(seen))
    figures = {
        "lag_p50_ms": statistics.median(lags),
        "lag_p99_ms": lags[int(len(lags) * 0.99)],
        "lag_max_ms": lags[-1],
        "events": sum(len(stream.arrivals) for stream in seen),
        "events_counted": len(lags),
        "faults": sum(map(_faulty, seen)),
    }
    return [Figure(str(plan.streams), metric, value) for metric, value in figures.items()]


async def _watch_all(installation: Installation, agent: str, plan: Plan) -> list[Stream]:
    door = asyncio.Semaphore(OPENING_AT_ONCE)
    async with session(installation, 0) as api, asyncio.timeout(plan.patience_s):
        return await asyncio.gather(*(_watch(api, door, agent) for _ in range(plan.streams)))


async def _watch(api: aiohttp.ClientSession, door: asyncio.Semaphore, agent: str) -> Stream:
    """Starts an execution and listens until its stream is closed."""
    stream = Stream()
    async with door:
        execution = await start(api, agent)
        socket = await api.ws_connect(f"/v1/executions/{execution}/stream")
    async with socket:
        stream.opened_ms = _now_ms()
        async for message in socket:
            stream.arrivals.append((_now_ms(), message.data))
        stream.close_code = socket.close_code
    return stream


def _lags(seen: Sequence[Stream]) -> Iterable[float]:
    all_open_ms = max(stream.opened_ms for stream in seen)
    for stream in seen:
        for arrived, event in stream.events():
            if (happened := epoch_ms(event["timestamp"])) > all_open_ms:
                yield arrived - happened


def _faulty(stream: Stream) -> bool:
    """A gap or repeat in `seq`, not exactly one terminal event, one that is not last, or no normal close."""
    events = [event for _, event in stream.events()]
    whole = [event["seq"] for event in events] == list(range(1, len(events) + 1))
    ends = [number for number, event in enumerate(events, 1) if event["type"] in TERMINAL]
    return not whole or ends != [len(events)] or stream.close_code != NORMAL_CLOSE


def _now_ms() -> float:
    return time.time_ns() / 1e6


def _allow_files(count: int) -> None:
    """A socket each, and some to spare."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, count + 200)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
