"""The plans there are, as `configs/plans.yaml` lists them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from configs.settings import CONFIGS


class Plan(BaseModel):
    """Limits of a workspace; None is unlimited."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    requests_per_hour: int | None = Field(None, ge=1)
    burst: int | None = Field(None, ge=1)
    concurrent: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def paired(self) -> Self:
        if (self.requests_per_hour is None) != (self.burst is None):
            raise ValueError("requests_per_hour and burst are limited together or not at all")
        return self


_PLANS = TypeAdapter(dict[str, Plan])


def load_plans(path: Path = CONFIGS / "plans.yaml") -> Mapping[str, Plan]:
    """Name -> plan. Raises pydantic's ValidationError naming the plan and field that is wrong."""
    return _PLANS.validate_python(yaml.safe_load(path.read_text()))
