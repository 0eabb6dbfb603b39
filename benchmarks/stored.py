"""Whether what is stored slows what is asked: the same requests where little and where much is stored.

Both run side by side and are asked by turns, so what slows the machine for a while slows both. While one is
asked the other idles. Executions made by a round are deleted after it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.http_load import Load, Request, load
from benchmarks.installation import ORDER, PORT, Installation
from benchmarks.results import Figure
from benchmarks.seeding import COMMON, RARE, now_ms, storage

KEEP = {"CODEXOS_RETENTION__AFTER_S": str(365 * 86_400)}
"""Nothing moves to the archive: what is asked about is what the store holds."""

QUERIES = {
    "list": "/v1/agents?limit=20",
    "search_rare": f"/v1/agents?limit=20&search={RARE}",
    "search_rare_active": f"/v1/agents?limit=20&search={RARE}&status=active",
    "search_common": f"/v1/agents?limit=20&search={COMMON}",
    "search_common_active": f"/v1/agents?limit=20&search={COMMON}&status=active",
    "list_executions": "/v1/executions?limit=20",
}
EXECUTE = "execute"
CONNECTIONS = 16
WARM_UP_S = 1


@dataclass(frozen=True, slots=True)
class Side:
    """An installation with so many agents and executions, and the agent that is executed there."""

    installation: Installation
    count: int
    agent: str

    def request(self, case: str) -> Request:
        url, headers = self.installation.url, self.installation.headers
        if case == EXECUTE:
            return Request(f"{url}/v1/agents/{self.agent}/execute?wait=30", headers, "POST", ORDER)
        return Request(url + QUERIES[case], headers)


def sides(small: int, large: int) -> tuple[Installation, Installation]:
    """Kept from run to run: filling the large one takes minutes."""
    return Installation(f"stored-{small}", settings=KEEP), Installation(f"stored-{large}", PORT + 1, KEEP)


def fill(installation: Installation, count: int) -> tuple[Side, list[Figure]]:
    """What each agent and execution took is told only when many were made."""
    return asyncio.run(_fill(installation, count))


def compared(small: Side, large: Side, seconds: int, rounds: int) -> Iterator[Figure]:
    """Requests per second and p50 of each case and side, and the ratio of rates within each round."""
    for case in (*QUERIES, EXECUTE):
        for side in (small, large):
            asked(side, case, WARM_UP_S)
        for number in range(rounds):
            order = (small, large) if number % 2 == 0 else (large, small)
            yield from _round(case, order, seconds)


def _round(case: str, order: Sequence[Side], seconds: int) -> Iterator[Figure]:
    loads = {side.count: asked(side, case, seconds) for side in order}
    low, high = min(loads), max(loads)
    for count, measured in loads.items():
        yield Figure(f"{case} {count}", "req_s", measured.req_s)
        yield Figure(f"{case} {count}", "p50_ms", measured.p50_ms)
    yield Figure(f"{case} {high}/{low}", "ratio", loads[high].req_s / loads[low].req_s)


def asked(side: Side, case: str, seconds: int) -> Load:
    began = now_ms()
    measured = load(side.request(case), CONNECTIONS, seconds)
    if case == EXECUTE:
        asyncio.run(_forget_since(side.installation, began))
    return measured


async def _fill(installation: Installation, count: int) -> tuple[Side, list[Figure]]:
    async with storage(installation) as store:
        figures = await store.fill(count)
        await store.settle()
        return Side(installation, count, await store.rare_agent()), figures


async def _forget_since(installation: Installation, moment_ms: int) -> None:
    async with storage(installation) as store:
        await store.forget_since(moment_ms)
        await store.settle()
