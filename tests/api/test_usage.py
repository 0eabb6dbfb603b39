"""What was used, over HTTP: as the reference prints it, for every period that can be asked for, and as files."""

import csv
import io
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.runner import Runner
from kernel.assembly import Kernel
from kernel.clock import rfc3339
from kernel.storage.counts import HOUR_MS
from tests.api.conftest import Client, limited
from tests.buckets import add_usage

pytestmark = pytest.mark.anyio

STATS, EXPORT = "/v1/usage/stats", "/v1/usage/export"
JANUARY = "start_date=2024-01-01&end_date=2024-02-01"
HOUR = 1_704_067_200_000 // HOUR_MS
"""The first of January 2024."""

REFUSED = [
    ("start_date=2024-02-01&end_date=2024-01-01", "start_date"),
    ("start_date=0000-01-01T00:00:00Z", "start_date"),
    ("end_date=10000-01-01T00:00:00Z", "end_date"),
    ("end_date=9999-12-31T23:59:59-23:00", "end_date"),
    ("start_date=2024-02-30", "start_date"),
    ("end_date=2024-02-30T00:00:00Z", "end_date"),
    ("start_date=2024-06-30T23:59:60Z", "start_date"),
    ("start_date=2024-01-01T00:00:00", "start_date"),
    ("start_date=2024-01-01T00:00:00%2B25:00", "start_date"),
    ("end_date=2024-13-01", "end_date"),
    ("start_date=1704067200", "start_date"),
    ("end_date=1704067200000", "end_date"),
    ("start_date=2023-01-01&end_date=2024-01-03", "start_date"),
    ("start_date=1969-12-31", "start_date"),
    ("start_date=", "start_date"),
    ("end_date=", "end_date"),
    ("start_date=yesterday", "start_date"),
    ("granularity=minute", "granularity"),
    ("granularity=", "granularity"),
    ("granularity=Day", "granularity"),
    ("group_by=user", "group_by"),
    ("group_by=", "group_by"),
    ("group_by=agent&group_by=key", "group_by"),
    ("start=2024-01-01", "start"),
]

Use = Callable[..., Any]


@pytest.fixture
async def use(owner: Client, kernel: Kernel) -> Use:
    """Adds to a bucket of the owner's workspace."""
    workspace = (await kernel.access.authenticate(owner.key or "")).workspace_id

    async def use(hour: int, counts: dict[str, int]) -> None:
        await add_usage(kernel.store, workspace, hour, counts)

    return use


@pytest.mark.parametrize("path", [STATS, EXPORT])
class TestWho:
    async def test_anonymous(self, anonymous: Client, path: str) -> None:
        assert (await anonymous("GET", path)).status_code == 401

    async def test_the_scope_is_needed(self, owner: Client, kernel: Kernel, path: str) -> None:
        for scopes, status in ((["agents:read"], 403), (["usage:read"], 200)):
            caller = Client(owner.http, await limited(kernel.access, owner, scopes=scopes))
            assert (await caller("GET", path)).status_code == status

    async def test_a_key_of_some_agents_is_refused(self, owner: Client, kernel: Kernel, path: str) -> None:
        agents = [await owner.agent()]
        key = await limited(kernel.access, owner, scopes=["usage:read"], agents=agents)
        assert (await Client(owner.http, key)("GET", path)).status_code == 403

    @pytest.mark.parametrize(("query", "field"), REFUSED)
    async def test_bad_periods(self, owner: Client, path: str, query: str, field: str) -> None:
        answer = await owner("GET", f"{path}?{query}")
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
        assert answer.json()["error"]["details"]["field"] == field


async def test_other_workspaces_see_nothing_of_it(owner: Client, stranger: Client, use: Use) -> None:
    await use(HOUR, {"e": 5, "t": 100, "e|l|team=a": 5})
    seen = await stranger.ok("GET", f"{STATS}?{JANUARY}&group_by=label")
    assert set(seen["usage"].values()) == {0}
    assert seen["groups"] == []
    assert (await owner.ok("GET", f"{STATS}?{JANUARY}"))["usage"]["executions"] == 5


async def test_all_that_is_wrong_is_told_at_once(owner: Client) -> None:
    answer = await owner("GET", f"{STATS}?start_date=x&end_date=y&granularity=z&group_by=w")
    fields = [problem["field"] for problem in answer.json()["error"]["details"]["errors"]]
    assert fields == ["start_date", "end_date", "granularity", "group_by"]


class TestStats:
    async def test_the_reference_as_printed(self, owner: Client, use: Use) -> None:
        await use(
            HOUR, {"e": 15_234, "t": 1_523_456, "c": 123_450_000, "r": 45_678, "b": 1_784_000_000, "s": 2}
        )
        query = "start_date=2024-01-01T00:00:00Z&end_date=2024-01-31T23:59:59Z"
        stats = await owner.ok("GET", f"{STATS}?{query}")
        assert list(stats)[:3] == ["period", "usage", "costs"]
        assert stats["period"] == {"start": "2024-01-01T00:00:00.000Z", "end": "2024-01-31T23:59:59.000Z"}
        assert list(stats["usage"])[:4] == ["executions", "tokens", "storage_mb", "api_calls"]
        assert [stats["usage"][name] for name in ("executions", "tokens", "storage_mb", "api_calls")] == [
            *(15_234, 1_523_456, 892, 45_678),
        ]
        assert list(stats["costs"]) == ["total", "breakdown"]
        assert list(stats["costs"]["breakdown"]) == ["compute", "storage", "api"]
        assert stats["costs"]["breakdown"]["compute"] == 123.45
        assert stats["costs"]["total"] == pytest.approx(sum(stats["costs"]["breakdown"].values()))
        assert stats["granularity"] == "day"
        assert len(stats["series"]) == 31
        assert (await owner.ok("GET", f"/api{STATS}?{query}")) == stats

    async def test_counts_are_whole_numbers(self, owner: Client, use: Use) -> None:
        await use(HOUR, {"e": 1, "t": 2, "r": 3, "u": 1, "n": 1, "p": 1_500})
        usage = (await owner.ok("GET", f"{STATS}?{JANUARY}"))["usage"]
        whole = {"executions": 1, "tokens": 2, "api_calls": 3, "unpriced_executions": 1, "late_executions": 1}
        assert {name: usage[name] for name in whole} == whole
        assert all(isinstance(usage[name], int) for name in whole)
        assert usage["cpu_seconds"] == 1.5

    @pytest.mark.parametrize(
        ("query", "parts"),
        [
            ("start_date=2024-01-01&end_date=2024-01-01", 0),
            ("start_date=9999-12-01&end_date=9999-12-31T23:59:59.999Z", 31),
            ("start_date=2999-01-01", 0),
            ("start_date=1970-01-01&end_date=1970-01-02&granularity=hour", 24),
            ("start_date=2024-01-01&end_date=2025-01-01&granularity=month", 12),
            (
                "start_date=2024-03-31T00:00:00%2B01:00&end_date=2024-04-01T00:00:00%2B02:00&granularity=hour",
                23,
            ),
            ("end_date=1970-01-03", 2),
        ],
    )
    async def test_nothing_is_zero(self, owner: Client, query: str, parts: int) -> None:
        stats = await owner.ok("GET", f"{STATS}?{query}")
        assert set(stats["usage"].values()) == {0}
        assert len(stats["series"]) == parts

    async def test_the_last_thirty_days_are_usual(self, owner: Client, kernel: Kernel, use: Use) -> None:
        now = kernel.clock.now_ms()
        await use(now // HOUR_MS - 24, {"e": 3})
        await use(now // HOUR_MS - 31 * 24, {"e": 50})
        stats = await owner.ok("GET", STATS)
        assert stats["usage"]["executions"] == 3
        assert stats["period"]["end"] <= rfc3339(kernel.clock.now_ms())
        assert len(stats["series"]) in (30, 31)

    @pytest.mark.parametrize(("by", "letter"), [("agent", "a"), ("key", "k"), ("model", "m"), ("label", "l")])
    async def test_groups(self, owner: Client, use: Use, by: str, letter: str) -> None:
        await use(HOUR, {"e": 9, "t": 90, "c": 900, f"t|{letter}|one": 30, f"c|{letter}|one": 300})
        stats = await owner.ok("GET", f"{STATS}?{JANUARY}&group_by={by}")
        assert list(stats)[-2:] == ["group_by", "groups"]
        assert stats["group_by"] == by
        found = [(g["value"], g["usage"]["tokens"], g["costs"]["total"]) for g in stats["groups"]]
        assert found == [(None, 60, 0.0006), ("one", 30, 0.0003)]

    async def test_collections(self, owner: Client, use: Use) -> None:
        """What was embedded for them is of no execution; money is counted in thousandths of a millionth there."""
        of = {
            "x|o|col_1": 30,
            "y|o|col_1": 300_000,
            "i|o|col_1": 2_000_000,
            "b|o|col_1": 8_000_000,
            "s|o|col_1": 2,
        }
        await use(
            HOUR, {"e": 9, "t": 90, "c": 900, "x": 40, "y": 400_000, "z": 1, "b": 9_000_000, "s": 2} | of
        )
        stats = await owner.ok("GET", f"{STATS}?{JANUARY}&group_by=collection")
        one = next(group for group in stats["groups"] if group["value"] == "col_1")
        shown = [one["usage"][name] for name in ("embedding_tokens", "ingested_mb", "storage_mb", "tokens")]
        assert (shown, one["costs"]["breakdown"]["compute"]) == ([30, 2, 4, None], 0.0003)
        usage = stats["usage"]
        assert (usage["tokens"], usage["embedding_tokens"], usage["unpriced_embeddings"]) == (90, 40, 1)
        assert stats["costs"]["breakdown"]["compute"] == 0.0013

    async def test_unknown_costs_are_null(self, owner: Client, use: Use) -> None:
        await use(HOUR, {"e": 1, "u": 1})
        costs = (await owner.ok("GET", f"{STATS}?{JANUARY}"))["costs"]
        assert costs == {"total": None, "breakdown": {"compute": None, "storage": 0, "api": 0}}

    async def test_unchanged_is_304(self, owner: Client) -> None:
        tag = (await owner("GET", f"{STATS}?{JANUARY}")).headers["etag"]
        again = await owner("GET", f"{STATS}?{JANUARY}", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")


class TestExport:
    async def test_csv(self, owner: Client, use: Use) -> None:
        await use(HOUR, {"e": 3, "e|l|=cmd()": 2})
        answer = await owner("GET", f"{EXPORT}?{JANUARY}&group_by=label")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        named = 'attachment; filename="usage-2024-01-01-2024-02-01.csv"'
        assert answer.headers["content-disposition"] == named
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert [(row["group"], row["executions"]) for row in rows] == [("'=cmd()", "2"), ("", "1")]

    async def test_parquet(self, owner: Client, use: Use) -> None:
        await use(HOUR, {"e": 3})
        answer = await owner("GET", f"{EXPORT}?{JANUARY}&format=parquet&granularity=week")
        assert answer.headers["content-type"] == "application/vnd.apache.parquet"
        assert ".parquet" in answer.headers["content-disposition"]
        rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
        assert [row["executions"] for row in rows] == [3, 0, 0, 0, 0]

    async def test_other_formats(self, owner: Client) -> None:
        for form in ("xlsx", "", "CSV"):
            answer = await owner("GET", f"{EXPORT}?format={form}")
            assert answer.json()["error"]["details"]["field"] == "format"

    async def test_unchanged_is_304(self, owner: Client) -> None:
        tag = (await owner("GET", f"{EXPORT}?{JANUARY}")).headers["etag"]
        again = await owner("GET", f"{EXPORT}?{JANUARY}", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")


async def test_what_runs_is_counted_and_reconciles(owner: Client, kernel: Kernel, runner: Runner) -> None:
    agent = await owner.agent()
    for _ in range(3):
        await owner.ok("POST", f"/v1/agents/{agent}/execute?wait=20", {"input": {"name": "x"}})
    gone = await owner.ended()
    await owner.ok("DELETE", f"/v1/executions/{gone}")
    stats = await owner.ok("GET", f"{STATS}?group_by=agent")
    assert stats["usage"]["executions"] == 4
    assert {g["value"]: g["usage"]["executions"] for g in stats["groups"]} == {agent: 3, None: 1}
    who = await kernel.access.authenticate(owner.key or "")
    (today,) = await kernel.books.reconciler.compare(who.workspace_id, 1)
    assert today.equal
    assert today.usage.executions == 4
