"""How fast usage is shown: a month of a million executions, by the hour, most of it in files already.

The buckets are written as the platform's own scripts would have filled them, into a workspace of its own, and the
days that are over are moved to Parquet by the platform's own ledger. Only what is asked over HTTP is measured.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx2

from benchmarks.http_load import Request, load
from benchmarks.installation import Installation
from benchmarks.results import Figure
from benchmarks.seeding import storage
from kernel.access.record import KeyCreate
from kernel.access.workspaces import WorkspaceCreate
from kernel.assembly import Kernel
from kernel.clock import rfc3339
from kernel.storage import keys
from kernel.storage.counts import HOUR_MS

EXECUTIONS = 1_000_000
HOURS = 30 * 24
AGENTS, KEYS, LABELS, MODELS = 20, 5, 40, 4
"""Values that an hour's executions are spread over."""
TOKENS, MICROS, CPU_MS = 800, 450, 30
"""Of one execution."""
QUIET = {"CODEXOS_METERING__ROLL_EVERY_S": "86400", "CODEXOS_METERING__SAMPLE_EVERY_S": "86400"}
"""The platform's own rounds stay away while the month is written."""

QUERIES = {
    "hour": "granularity=hour",
    "day": "granularity=day",
    "agent": "granularity=day&group_by=agent",
    "label": "granularity=day&group_by=label",
}
WARM_UP_S = 2


@dataclass(frozen=True, slots=True)
class Month:
    """A workspace's hours, the first and that after the last, and a key that reads their usage."""

    key: str
    first: int
    after: int

    @property
    def period(self) -> str:
        start, end = (rfc3339(hour * HOUR_MS) for hour in (self.first, self.after))
        return f"start_date={start}&end_date={end}"


def seeded(installation: Installation) -> Month:
    return asyncio.run(_seeded(installation))


def shown(installation: Installation, month: Month, seconds: int, rounds: int) -> Iterator[Figure]:
    """One connection that asks again when it is answered; the replicas have read the files before."""
    headers = {"Authorization": f"Bearer {month.key}"}
    requests = {
        case: Request(f"{installation.url}/v1/usage/stats?{month.period}&{query}", headers)
        for case, query in QUERIES.items()
    }
    for request in requests.values():
        _check(request)
        load(request, 4, WARM_UP_S)
    for _ in range(rounds):
        for case, request in requests.items():
            measured = load(request, 1, seconds)
            yield Figure(case, "p50_ms", measured.p50_ms)
            yield Figure(case, "p99_ms", measured.p99_ms)


def _check(request: Request) -> None:
    """Ends the benchmark when the answer is not the seeded month."""
    answer = httpx2.get(request.url, headers=request.headers, trust_env=False, timeout=60)
    answer.raise_for_status()
    if (found := answer.json()["usage"]["executions"]) != EXECUTIONS:
        raise SystemExit(f"{request.url} counts {found:,} executions, not {EXECUTIONS:,}")


async def _seeded(installation: Installation) -> Month:
    async with storage(installation) as store:
        workspace = await store.kernel.access.workspaces.create(
            store.who, WorkspaceCreate(name="Usage", plan="enterprise")
        )
        first = await fill(store.kernel, workspace.id)
        order = KeyCreate(name="Usage", workspace_id=workspace.id, scopes=["usage:read"])
        key = await store.kernel.access.keys.create(store.who, order)
        return Month(key.token, first, first + HOURS)


async def fill(kernel: Kernel, workspace_id: str) -> int:
    """The last 30 days of a workspace: all days but today end up in Parquet. Its first hour."""
    first = kernel.clock.now_ms() // HOUR_MS - HOURS + 1
    for number in range(HOURS):
        bucket = keys.key("usage", workspace_id, hour=str(first + number))
        flat = [part for field in _bucket(number).items() for part in field]
        await kernel.store.call("HSET", bucket, *flat)
    metered = keys.shard_key("metered", keys.shard_of(workspace_id))
    await kernel.store.call("ZADD", metered, first, workspace_id)
    await kernel.books.ledger.round()
    return first


def _bucket(number: int) -> Mapping[str, int]:
    """An hour's share of the executions, spread over agents, keys, labels and models."""
    executions = _share(EXECUTIONS, HOURS, number)
    fields = _used("", executions) | {"r": 3 * executions, "b": 2_000_000_000, "s": 4}
    for kind, values in (("a", AGENTS), ("k", KEYS), ("l", LABELS), ("m", MODELS)):
        for value in range(values):
            fields |= _used(f"|{kind}|{_name(kind, value)}", _share(executions, values, value))
    return fields


def _used(tail: str, executions: int) -> dict[str, int]:
    each = {"e": 1, "t": TOKENS, "c": MICROS, "p": CPU_MS}
    wanted: Sequence[str] = ("t", "c") if tail.startswith("|m|") else tuple(each)
    return {f"{metric}{tail}": executions * each[metric] for metric in wanted}


def _name(kind: str, value: int) -> str:
    return {"a": f"agent_{value:026}", "k": f"key_{value:026}", "l": f"team={value}", "m": f"model-{value}"}[
        kind
    ]


def _share(whole: int, parts: int, number: int) -> int:
    """Of `whole` in so many parts, the part of this number; together they are the whole."""
    return whole * (number + 1) // parts - whole * number // parts
