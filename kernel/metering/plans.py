"""The plans there are, as `configs/plans.yaml` lists them, and what a workspace has of its own."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import orjson
import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from configs.settings import CONFIGS
from kernel.clock import Clock
from kernel.metering.limits import Limit

log = structlog.get_logger()

FILE = CONFIGS / "plans.yaml"
BASIC = "free"
"""The plan of a workspace nobody chose one for, or whose plan is gone."""
MOST = 36_000_000
"""Requests an hour: a bucket counts in whole microseconds, and up to here that is less than 1 % off."""
HOURS_OF_A_YEAR = 8_760
LOOK_EVERY_MS = 500


class Plan(BaseModel):
    """Limits of a workspace; None is unlimited."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_per_hour: int | None = Field(None, ge=1, le=MOST)
    burst: int | None = Field(None, ge=1, le=10_000_000)
    concurrent: int | None = Field(None, ge=1, le=1_000_000)
    tokens_per_day: int | None = Field(None, ge=1, le=10**12)
    ingest_mb_per_day: int | None = Field(None, ge=1, le=10**9)

    @model_validator(mode="after")
    def paired(self) -> Self:
        if (self.requests_per_hour is None) != (self.burst is None):
            raise ValueError("requests_per_hour and burst are limited together or not at all")
        if self.burst and self.requests_per_hour and self.burst > self.requests_per_hour * HOURS_OF_A_YEAR:
            raise ValueError("burst must be at most what a year brings")
        return self

    @cached_property
    def limit(self) -> Limit | None:
        """Of requests; None is unlimited."""
        if self.requests_per_hour is None or self.burst is None:
            return None
        return Limit.hourly(self.requests_per_hour, self.burst)


_PLANS = TypeAdapter(dict[str, Plan])


def load_plans(path: Path = FILE) -> Mapping[str, Plan]:
    """Name -> plan. Raises pydantic's ValidationError naming the plan and field that is wrong, ValueError."""
    plans = _PLANS.validate_python(yaml.safe_load(path.read_text()))
    if BASIC not in plans:
        raise ValueError(f"{path} has no plan '{BASIC}'")
    return plans


def with_overrides(plan: Plan, overrides: str) -> Plan:
    """The plan with the fields of a JSON object in place of its own."""
    own: dict[str, Any] = orjson.loads(overrides) if overrides else {}
    return Plan.model_validate(plan.model_dump() | own) if own else plan


class Plans:
    """The plans of a file, read anew within a second of its change. A file that is wrong changes nothing."""

    def __init__(self, path: Path, clock: Clock):
        self._path, self._clock = path, clock
        self._looked_ms = clock.now_ms()
        self._changed_ns = path.stat().st_mtime_ns
        self._plans = load_plans(path)
        self._of = lru_cache(10_000)(self._resolved)

    def all(self) -> Mapping[str, Plan]:
        self._look()
        return self._plans

    def check(self, name: str, overrides: str) -> None:
        """Raises pydantic's ValidationError for overrides that do not fit the plan."""
        with_overrides(self.all()[name], overrides)

    def of(self, name: str, overrides: str = "") -> Plan:
        """The limits of a workspace of this plan, with its overrides."""
        self._look()
        return self._of(name, overrides)

    def _resolved(self, name: str, overrides: str) -> Plan:
        if name not in self._plans:
            log.warning("unknown plan: the basic one counts", plan=name)
        plan = self._plans.get(name, self._plans[BASIC])
        try:
            return with_overrides(plan, overrides)
        except ValidationError as error:
            log.warning(
                "overrides do not fit the plan any more: it counts as it is", plan=name, error=str(error)
            )
            return plan

    def _look(self) -> None:
        now = self._clock.now_ms()
        if 0 <= now - self._looked_ms < LOOK_EVERY_MS:
            return
        self._looked_ms = now
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._changed_ns:
                self._changed_ns = changed
                self._plans = load_plans(self._path)
                self._of.cache_clear()
        except (OSError, ValueError, ValidationError, yaml.YAMLError) as error:
            log.error("plans are not usable: the earlier ones stay", file=str(self._path), error=str(error))
