"""What the platform must reach, and whether it did."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.results import Values, shown, table

HEAD = ("what", "goal", "measured", "met")


@dataclass(frozen=True, slots=True)
class Goal:
    """`words` say what `metric` of `case` is; the median of its figures is compared with `limit`."""

    bench: str
    case: str
    metric: str
    words: str
    sign: Literal["≥", "≤"]
    limit: float
    unit: str

    def row(self, values: Values) -> tuple[str, ...]:
        wanted = f"{self.sign} {self.limit:g} {self.unit}".strip()
        found = values.get((self.case, self.metric))
        if not found:
            return (self.words, wanted, "not measured", "")
        measured = f"{shown(found)} {self.unit}".strip()
        return (self.words, wanted, measured, "yes" if self._met(found) else "**no**")

    def _met(self, found: Sequence[float]) -> bool:
        middle = statistics.median(found)
        return middle >= self.limit if self.sign == "≥" else middle <= self.limit


STORED = {
    "list": "list page of 20 agents",
    "search_rare": "search of a word that one agent has",
    "search_rare_active": "the same with `status=active`",
    "search_common": "search of a word that every agent has",
    "search_common_active": "the same with `status=active`",
    "execute": "new executions, awaited",
    "list_executions": "list page of 20 executions",
}
"""Case of `stored` -> what it is."""

HAMMERED: tuple[tuple[str, str, Literal["≥", "≤"], float, str], ...] = (
    ("at_once", "admitted at once", "≥", 50, ""),
    ("over", "more than the bucket allows", "≤", 0, ""),
    ("under_percent", "less than it had, in 60 s", "≤", 2, "%"),
)

GOALS = (
    Goal("exec", "codexos/hayhooks c=16", "ratio", "trivial flow c=16, beside Hayhooks", "≥", 1.2, "×"),
    Goal("exec", "codexos/celery c=16", "ratio", "trivial flow c=16, beside Celery", "≥", 2, "×"),
    Goal("exec", "codexos/dbos-pg c=16", "ratio", "trivial flow c=16, beside DBOS on Postgres", "≥", 6, "×"),
    Goal("exec", "codexos c=16", "p50_ms", "trivial flow c=16, p50", "≤", 30, "ms"),
    Goal("exec", "codexos c=1", "p50_ms", "trivial flow c=1, p50", "≤", 8, "ms"),
    Goal("exec", "codexos c=1", "p99_ms", "trivial flow c=1, p99", "≤", 20, "ms"),
    Goal("get", "agent/noop", "ratio", "`GET /v1/agents/{id}` c=16, beside a no-op", "≥", 0.5, "×"),
    Goal("get", "agent/healthz", "ratio", "`GET /v1/agents/{id}` c=16, beside `/healthz`", "≥", 0.5, "×"),
    Goal(
        "limits",
        "metered/unmetered",
        "ratio",
        "`GET /v1/agents/{id}` c=16, metered beside not",
        "≥",
        0.75,
        "×",
    ),
    Goal("limits", "many/one", "ratio", "1,000 workspaces in turn, beside one", "≥", 0.85, "×"),
    Goal(
        "limits", "slots", "eleventh_refused", "free plan, the 11th execution at once is refused", "≥", 1, ""
    ),
    Goal("limits", "slots", "reuse_ms", "a slot takes another after an end", "≤", 100, "ms"),
    Goal("limits", "revoked", "last_success_ms", "revoked key under load, last success", "≤", 1000, "ms"),
    *(
        Goal("limits", case, metric, f"200 callers, free key, 3 replicas{how}: {words}", sign, limit, unit)
        for case, how in (("hammer", ""), ("hammer killed", ", meter and a replica killed every 5 s"))
        for metric, words, sign, limit, unit in HAMMERED
    ),
    Goal("burst", "1000", "done_s", "1,000 executions of a 1 s call on one runner, all done", "≤", 6, "s"),
    Goal("streams", "500", "lag_p99_ms", "500 open streams, event lag p99", "≤", 250, "ms"),
    Goal("streams", "500", "faults", "500 open streams, gaps and missing ends", "≤", 0, ""),
    *(
        Goal("stored", f"{case} 100000/100", "ratio", f"at 100,000 stored beside 100: {words}", "≥", 0.9, "×")
        for case, words in STORED.items()
    ),
    Goal("webhooks", "one", "per_s", "deliveries of one courier to one receiver", "≥", 300, "/s"),
    Goal("webhooks", "hanging", "p99_ms", "one of 100 receivers hangs: the others, p99", "≤", 2000, "ms"),
    Goal("usage", "hour", "p50_ms", "usage of a million executions, by the hour, p50", "≤", 50, "ms"),
    *(
        Goal(
            *("quality", f"hybrid/{mode}, held out", "ndcg10_ratio"),
            *(f"nDCG@10 of hybrid search beside {mode}, held-out questions", "≥", 1, "×"),
        )
        for mode in ("dense", "keyword")
    ),
    Goal(
        "vault", "reveal/agent", "ratio", "decrypted read c=16, beside `GET /v1/agents/{id}`", "≥", 0.5, "×"
    ),
    Goal(
        "vault", "rotation", "failed", "new key over 10,000 credentials while read, failed reads", "≤", 0, ""
    ),
    Goal("ingest", "codexos/loop", "ratio", "5,000 files, beside a plain loop", "≥", 1.3, "×"),
    Goal("ingest", "codexos first/loop", "ratio", "the same, first job after the start", "≥", 1, "×"),
    Goal("ingest", "codexos/llamaindex", "ratio", "5,000 files, beside LlamaIndex", "≥", 2.5, "×"),
    Goal(
        "ingest-large",
        "codexos/slowest stage",
        "ratio",
        "50,000 files, beside the slowest stage",
        "≥",
        0.8,
        "×",
    ),
    Goal("ingest-memory", "platform", "above_idle_mb", "100,000 documents, PSS above idle", "≤", 2000, "MB"),
    Goal("ingest-memory", "platform", "growth_mb", "the same, growth without the stores", "≤", 100, "MB"),
    Goal(
        "ingest-again",
        "again",
        "percent",
        "20,000 documents, one in a hundred changed",
        "≤",
        5,
        "% of the first time",
    ),
    Goal("ingest-again", "again", "wrongly_embedded", "the same, too many or too few embedded", "≤", 0, ""),
    Goal(
        "search", "idle", "above_milvus_ms", "hybrid search over HTTP, p50 above Milvus's own", "≤", 10, "ms"
    ),
    Goal("search", "busy/idle", "p95_ratio", "the same, p95 while a bulk job runs", "≤", 2, "×"),
    Goal("idle", "platform", "pss_mb", "idle, PSS of all processes", "≤", 2000, "MB"),
    Goal("idle", "platform", "cpu_percent", "idle, of one core", "≤", 25, "%"),
    Goal("up", "warm", "ready_s", "`python -m cluster up`, warm, the first run included", "≤", 60, "s"),
)


def goals_table(found: Mapping[str, Values]) -> str:
    """Of the benchmarks that `found` has figures of."""
    return table(HEAD, (goal.row(found[goal.bench]) for goal in GOALS if goal.bench in found))
