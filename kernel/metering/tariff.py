"""What this installation charges for its own machines, storage and calls: `platform` in `configs/prices.yaml`.

Money is counted in whole millionths of a USD, so that sums are exact whatever their order.
"""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from configs.settings import CONFIGS

FILE = CONFIGS / "prices.yaml"
MICRO = 1_000_000
HOURS_OF_A_MONTH = 730
GB_HOURS = 1_000_000_000 * HOURS_OF_A_MONTH


class Tariff(BaseModel):
    """USD for each unit named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_hour: float = Field(0.0, ge=0)
    gpu_hour: float = Field(0.0, ge=0)
    storage_gb_month: float = Field(0.0, ge=0)
    million_calls: float = Field(0.0, ge=0)

    @classmethod
    def load(cls, file: Path = FILE) -> "Tariff":
        return cls.model_validate(yaml.load(file.read_bytes(), yaml.CSafeLoader)["platform"])

    def machine(self, cpu_seconds: float, gpu_seconds: float) -> float:
        """USD of computing."""
        return (cpu_seconds * self.cpu_hour + gpu_seconds * self.gpu_hour) / 3600

    def storage(self, byte_hours: int) -> int:
        """Millionths of a USD."""
        return round(byte_hours / GB_HOURS * self.storage_gb_month * MICRO)

    def calls(self, count: int) -> int:
        """Millionths of a USD."""
        return round(count * self.million_calls)


def micro(usd: float) -> int:
    return round(usd * MICRO)


def usd(micros: int) -> float:
    return round(micros / MICRO, 6)
