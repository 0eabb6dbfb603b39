from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from codexos.types._model import Model

Granularity = Literal["hour", "day", "week", "month"]
GroupBy = Literal["agent", "key", "model", "label", "collection"]


@dataclass(frozen=True, kw_only=True)
class Period(Model):
    """Half-open: `end` is not in it."""

    start: datetime
    end: datetime


@dataclass(frozen=True, kw_only=True)
class UsageCounts(Model):
    """None: not counted by this."""

    executions: int | None
    tokens: int | None
    storage_mb: float | None
    api_calls: int | None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    ingested_mb: float | None = None
    unpriced_executions: int | None = None
    late_executions: int | None = None
    embedding_tokens: int | None = None
    unpriced_embeddings: int | None = None


@dataclass(frozen=True, kw_only=True)
class CostBreakdown(Model):
    compute: float | None
    storage: float
    api: float


@dataclass(frozen=True, kw_only=True)
class Costs(Model):
    """USD; total is None when no cost is known."""

    total: float | None
    breakdown: CostBreakdown


@dataclass(frozen=True, kw_only=True)
class UsagePart(Period):
    usage: UsageCounts
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class UsageGroup(Model):
    """value: what the sums are of; None: what belongs to none."""

    value: str | None
    usage: UsageCounts
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class UsageStats(Model):
    """Totals of the period, and of each part of it."""

    period: Period
    usage: UsageCounts
    costs: Costs
    granularity: Granularity | None = None
    series: list[UsagePart] | None = None
    group_by: GroupBy | None = None
    groups: list[UsageGroup] | None = None
